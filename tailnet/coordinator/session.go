package coordinator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/timestamppb"

	"fairlead.dev/fairlead/control"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/wire"
	"fairlead.dev/fairlead/tailnet/proto"
)

// caller is what a stream needs of the control link that carries it.
type caller interface {
	Peer() control.Identity
	PeerInstance() string
	Done() <-chan struct{}
	Context() context.Context // ends with the link
	Ending() control.Ending
}

// session is one Coordinate stream.
//
// Its life: asked (challenge sent) -> admitted (live, in members) -> ended. A stream
// ends once, by the first call of end; from then on nothing that it sent counts.
type session struct {
	c        *Coordinator
	link     caller
	id       control.Identity
	instance string
	stream   proto.TailnetService_CoordinateServer
	out      *outbox
	asks     *rate.Limiter // shared by all streams of the same user or agent

	ctx    context.Context // ends with the stream; the cause is a *streamEnd or *streamLost
	cancel context.CancelCauseFunc

	key proto.NodeKey // set at admission, by the receiving goroutine, under c.mu

	// Guarded by c.mu:
	live         bool // admitted and not ended
	selfSeen     bool
	tokenRenewAt time.Time
	tokenExpires time.Time
}

// streamEnd is our own decision to end a stream.
type streamEnd struct {
	code        codes.Code
	attribution disconnect.Attribution // without connect type
}

func (e *streamEnd) Error() string {
	return e.attribution.Reason.String() + ": " + e.attribution.Detail
}

// status is what the node receives: the goodbye rides in the status' details.
func (e *streamEnd) status() error {
	if e.code == codes.OK {
		return nil
	}
	st := status.New(e.code, e.Error())
	goodbye := wire.FromGoodbye(e.attribution.Goodbye())
	if with, err := st.WithDetails(protoadapt.MessageV1Of(goodbye)); err == nil {
		st = with
	}
	return st.Err()
}

// streamLost says that the stream ended under us.
type streamLost struct{ err error }

func (e *streamLost) Error() string { return "stream lost: " + e.err.Error() }
func (e *streamLost) Unwrap() error { return e.err }

// protocolEnd ends a stream whose node sent something invalid.
func (s *session) protocolEnd(err error) {
	s.end(&streamEnd{code: codes.InvalidArgument, attribution: disconnect.Attribution{
		Reason: disconnect.ProtocolError, Initiator: s.party(), Detail: err.Error(),
	}})
}

// slowEnd ends a stream whose node does not read.
func (s *session) slowEnd(detail string) {
	s.end(&streamEnd{code: codes.ResourceExhausted, attribution: disconnect.Attribution{
		Reason: disconnect.SlowPeer, Initiator: s.party(), Detail: detail,
	}})
}

// end records why the stream ends and makes it end. Only the first call counts. It
// never blocks, and may be called with c.mu held.
func (s *session) end(cause error) { s.cancel(cause) }

func (s *session) isAgent() bool { return s.id.Kind == control.AgentPeer }

// party is who is at the other end of the stream.
func (s *session) party() disconnect.Initiator {
	if s.isAgent() {
		return disconnect.Agent
	}
	return disconnect.Client
}

func (s *session) connectType() disconnect.ConnectType {
	if s.isAgent() {
		return disconnect.ServerToAgent
	}
	return disconnect.ClientToServer
}

// coordinate runs one stream until it ends. The stream's own goroutines outlive it a
// little, because only its return frees them from a blocked Send or Recv; Close
// waits for them.
func (c *Coordinator) coordinate(stream proto.TailnetService_CoordinateServer, link caller) error {
	s := &session{
		c: c, link: link, id: link.Peer(), instance: link.PeerInstance(),
		stream: stream, out: newOutbox(c.queueLimit),
	}
	s.ctx, s.cancel = context.WithCancelCause(stream.Context())
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		s.cancel(nil)
		return status.Error(codes.Unavailable, "coordinate: the server is stopping")
	}
	c.sessions[s] = struct{}{}
	s.asks = c.askingLocked(s.id)
	c.work.Add(2)
	c.mu.Unlock()
	go func() {
		defer c.work.Done()
		if !s.prove() {
			s.logEnding()
			return
		}
		// A goroutine keeps the stack that its deepest call has needed, and the proof's
		// is deep: an idle stream waits on one that has not made it.
		c.work.Go(func() {
			s.receive()
			s.logEnding()
		})
	}()
	s.sendUntilEnded()
	c.sessionEnded(s)
	defer c.doneAsking(s.id)
	c.work.Done()
	var end *streamEnd
	if errors.As(context.Cause(s.ctx), &end) {
		return end.status()
	}
	return status.FromContextError(context.Canceled).Err()
}

// send queues a message; a node that lags too far behind loses its stream.
func (s *session) send(t topic, msg *proto.CoordinateResponse) {
	if !s.out.put(t, msg) {
		s.slowEnd("too many updates wait to be read")
	}
}

// sendUntilEnded sends what is queued until the stream has ended. A node that does not
// read can hold up a Send until the stream returns, so that it is not done here; and
// while there is nothing to send no goroutine waits for it.
func (s *session) sendUntilEnded() {
	sent := make(chan struct{})
	wake := s.out.wake // nil while a goroutine sends
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-wake:
			wake = nil
			s.c.work.Go(func() {
				s.sendQueued()
				select {
				case sent <- struct{}{}:
				case <-s.ctx.Done():
				}
			})
		case <-sent:
			wake = s.out.wake
		}
	}
}

func (s *session) sendQueued() {
	for msg := s.out.next(s.c.now()); msg != nil; msg = s.out.next(s.c.now()) {
		if err := s.stream.Send(msg); err != nil {
			s.end(&streamLost{err})
			return
		}
	}
}

// receive handles the messages of an admitted node until the stream ends.
func (s *session) receive() {
	for {
		req, err := s.stream.Recv()
		if err != nil {
			s.end(&streamLost{err})
			return
		}
		if s.ctx.Err() != nil {
			return
		}
		if err := s.handle(req); err != nil {
			s.protocolEnd(err)
			return
		}
	}
}

// prove makes the node show that it has the key it names, and admits it.
func (s *session) prove() bool {
	ch, err := newChallenge()
	if err != nil {
		s.end(&streamEnd{code: codes.Internal, attribution: disconnect.Attribution{
			Reason: disconnect.InternalError, Initiator: disconnect.Server, Detail: err.Error(),
		}})
		return false
	}
	s.send(topic{}, &proto.CoordinateResponse{Response: &proto.CoordinateResponse_Challenge{
		Challenge: &proto.Challenge{Key: ch.public[:], Nonce: ch.nonce[:]},
	}})
	late := time.AfterFunc(proofTimeout, func() { s.slowEnd("no proof of the node key in " + proofTimeout.String()) })
	defer late.Stop()
	req, err := s.stream.Recv()
	if err != nil {
		s.end(&streamLost{err})
		return false
	}
	if req.GetProof() == nil {
		s.protocolEnd(errors.New("the first message is not a proof"))
		return false
	}
	key, err := ch.verify(req.GetProof())
	if err != nil {
		s.end(&streamEnd{code: codes.Unauthenticated, attribution: disconnect.Attribution{
			Reason: disconnect.AuthFailed, Initiator: disconnect.Server, Detail: err.Error(),
		}})
		return false
	}
	return s.c.admit(s, key)
}

// handle acts on one message of an admitted node. An error means that the message
// was not valid.
func (s *session) handle(req *proto.CoordinateRequest) error {
	switch m := req.GetRequest().(type) {
	case *proto.CoordinateRequest_Self:
		node, err := checkSelf(m.Self, s.key)
		if err != nil {
			return err
		}
		s.c.updateSelf(s, node)
	case *proto.CoordinateRequest_AddTunnel:
		workspace := m.AddTunnel.GetWorkspace()
		if len(workspace) > proto.MaxWorkspaceText { // the answer would hold it, perhaps many times
			return fmt.Errorf("add tunnel: a workspace's name of %d bytes, at most %d", len(workspace), proto.MaxWorkspaceText)
		}
		if s.asks.Wait(s.ctx) != nil {
			return nil // the stream has ended
		}
		s.c.addTunnel(s, workspace)
	case *proto.CoordinateRequest_RemoveTunnel:
		key, err := proto.ParseNodeKey(m.RemoveTunnel.GetNodeKey())
		if err != nil {
			return fmt.Errorf("remove tunnel: %w", err)
		}
		s.c.removeTunnel(s, key)
	case *proto.CoordinateRequest_Installed:
		key, err := proto.ParseNodeKey(m.Installed.GetNodeKey())
		if err != nil {
			return fmt.Errorf("installed: %w", err)
		}
		s.c.installed(s, key, m.Installed.GetGeneration())
	case *proto.CoordinateRequest_Announce:
		return s.c.announce(s, m.Announce.GetPeers())
	case *proto.CoordinateRequest_Disconnect:
		s.c.leave(s)
	case *proto.CoordinateRequest_Proof:
		return errors.New("a second proof")
	default: // of a newer version: not for us
	}
	return nil
}

// sendAdmittedLocked gives the node a fresh relay token; c.mu is held.
func (s *session) sendAdmittedLocked(now time.Time) {
	expiry := now.Add(tokenLife)
	if at := s.id.Expires; !at.IsZero() && at.Before(expiry) {
		expiry = at // it rests on that
	}
	s.tokenRenewAt, s.tokenExpires = now.Add(renewInterval), expiry
	admitted := &proto.Admitted{ExpiresAt: timestamppb.New(expiry)}
	if s.c.cfg.RelayToken != nil {
		admitted.RelayToken = s.c.cfg.RelayToken(s.key, s.id, expiry)
	}
	s.send(topic{kind: topicAdmitted}, &proto.CoordinateResponse{
		Response: &proto.CoordinateResponse_Admitted{Admitted: admitted},
	})
}

// logEnding writes the stream's one line. A stream that broke with its link ended
// for the link's reason, which may become known a moment later.
func (s *session) logEnding() {
	a := s.ending()
	if a.Detail == "" {
		if cause := context.Cause(s.ctx); cause != nil && a.Reason != disconnect.Graceful {
			a.Detail = cause.Error()
		}
	}
	attrs := []slog.Attr{slog.String("peer_id", s.id.ID), slog.String("peer_instance", s.instance)}
	if !s.key.IsZero() {
		attrs = append(attrs, slog.String("node", s.key.Short()))
	}
	a.On(s.connectType()).Log(context.Background(), s.c.logger, "coordination stream ended", attrs...)
}

func (s *session) ending() disconnect.Attribution {
	var own *streamEnd
	if errors.As(context.Cause(s.ctx), &own) {
		return own.attribution
	}
	wait := time.NewTimer(linkEndWait)
	defer wait.Stop()
	select {
	case <-s.link.Done():
	case <-wait.C:
	case <-s.c.ctx.Done():
	}
	if a := s.link.Ending().Attribution; !a.IsZero() {
		return a
	}
	cause := context.Cause(s.ctx)
	var lost *streamLost
	if errors.As(cause, &lost) {
		cause = lost.err
	}
	return control.Judge(cause, s.connectType(), disconnect.Server, s.party())
}
