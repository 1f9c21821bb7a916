package tailnet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc/status"
	protobuf "google.golang.org/protobuf/proto"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/wire"
	"fairlead.dev/fairlead/tailnet/proto"
)

// closeWait is how long a polite Close waits for the server to end the stream.
const closeWait = time.Second

// ErrCoordinationEnded is the error of what was asked of a coordination whose stream
// ended first. On a new stream it may succeed.
var ErrCoordinationEnded = errors.New("the coordination ended")

// Coordinatee is what a coordination needs of the node whose peers it keeps current;
// a [Node] is one.
type Coordinatee interface {
	Self() *proto.Node
	SetSelfCallback(func(*proto.Node))
	UpsertPeer(*proto.Node) error
	RemovePeer(proto.NodeKey)
	SetCoordinated(up bool)
}

// CoordinationStream is the node's end of one exchange with the server.
type CoordinationStream = proto.TailnetService_CoordinateClient

// CoordinationConfig says what one coordination works with.
type CoordinationConfig struct {
	Logger *slog.Logger
	// Stream is a fresh stream, and Cancel ends its context; see [StartCoordination].
	// Without Cancel, the goroutines of the coordination end when the stream does, and
	// Close does not wait for them.
	Stream CoordinationStream
	Cancel context.CancelFunc
	Node   Coordinatee
	Key    PrivateKey
	// Book receives the peers; it is shared by the coordinations that follow each other.
	Book *PeerBook
	// ConnectType and Initiator go into the line that Close logs: the layer of the
	// stream, and who we are.
	ConnectType disconnect.ConnectType
	Initiator   disconnect.Initiator
	// OnAdmitted receives the relay token, at once and at each renewal. OnPresence
	// receives what the server knows of the life of agents that we have tunnels to.
	// Either may be nil. They are called one at a time and must not call back into
	// the coordination's Close.
	OnAdmitted func(relayToken string)
	OnPresence func(*proto.Presence)
}

// Tunnel is the permission to reach one workspace's agent: its node, installed as a
// peer, and the SSH host key that was pinned at its registration ("" when unknown).
type Tunnel struct {
	Key        proto.NodeKey
	SSHHostKey string
}

// RefusedError is the server's refusal of a tunnel. Since and Ending tell how the
// agent went when it is offline and that is known.
type RefusedError struct {
	Workspace string
	Code      proto.Refusal_Code
	Message   string
	Since     time.Time
	Ending    disconnect.Attribution
}

// Error returns the refusal in one line.
func (e *RefusedError) Error() string {
	return fmt.Sprintf("tunnel to workspace %q refused: %s", e.Workspace, e.Message)
}

// BasicCoordination is a node's exchange with the server over one stream: it proves
// the node's key, says where the node is, and installs the peers that the server
// names. All methods are safe for concurrent use.
type BasicCoordination struct {
	cfg    CoordinationConfig
	logger *slog.Logger

	wake  chan struct{} // holds one token while there may be something to send
	ended chan struct{} // closed when the stream has ended; endErr is set before
	wait  chan error    // receives endErr once
	loops sync.WaitGroup

	closing  sync.Once
	closeErr error // written inside closing

	mu         sync.Mutex                 // guards all below
	proof      *proto.CoordinateRequest   // to send before anything else
	queue      []*proto.CoordinateRequest // to send once admitted
	acks       map[proto.NodeKey]uint64   // generation to acknowledge, the latest wins
	self       *proto.Node                // to send, the latest wins; nil: nothing new
	sentSelf   *proto.Node
	admitted   bool
	leaving    bool // send Disconnect after what is queued, then nothing more
	endErr     error
	byReply    map[string][]*tunnelWaiter // by workspace, waiting for the reply
	byReady    map[proto.NodeKey][]*tunnelWaiter
	localCause *disconnect.EndedError // why we gave the stream up
}

// StartCoordination opens a stream and runs a coordination on it until Close. An
// error means that there never was one. ctx bounds the life of the stream.
func StartCoordination(ctx context.Context, rpc proto.TailnetServiceClient, cfg CoordinationConfig) (*BasicCoordination, error) {
	ctx, cfg.Cancel = context.WithCancel(ctx)
	stream, err := rpc.Coordinate(ctx)
	if err != nil {
		cfg.Cancel()
		return nil, fmt.Errorf("start coordination: %w", err)
	}
	cfg.Stream = stream
	return NewBasicCoordination(cfg), nil
}

// NewBasicCoordination runs a coordination on a fresh stream. The caller must Close it.
func NewBasicCoordination(cfg CoordinationConfig) *BasicCoordination {
	c := &BasicCoordination{
		cfg: cfg, logger: cfg.Logger,
		wake: make(chan struct{}, 1), ended: make(chan struct{}), wait: make(chan error, 1),
		acks:    make(map[proto.NodeKey]uint64),
		byReply: make(map[string][]*tunnelWaiter),
		byReady: make(map[proto.NodeKey][]*tunnelWaiter),
	}
	if c.logger == nil {
		c.logger = slog.New(slog.DiscardHandler)
	}
	c.loops.Go(c.sendLoop)
	c.loops.Go(c.receiveLoop)
	return c
}

// Wait returns a channel that gives the stream's end once: nil when the server ended
// it without an error. An error that the server explained, or that is our own
// decision, carries an attribution (see [disconnect.FromError]).
func (c *BasicCoordination) Wait() <-chan error { return c.wait }

// Admitted reports whether the server ever admitted the node on this stream.
func (c *BasicCoordination) Admitted() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.admitted
}

// Close ends the coordination, waits for its goroutines, and logs how it ended. With
// nil it leaves in order: it says so, and waits up to a second for the server to end
// the stream; an error means that the server did not. With an error it just ends the
// stream, because of that. Only the first call counts; later ones return its result.
func (c *BasicCoordination) Close(err error) error {
	c.closing.Do(func() { c.closeErr = c.close(err) })
	return c.closeErr
}

func (c *BasicCoordination) close(err error) error {
	var result error
	if err == nil {
		result = c.leave()
		err = result
	}
	if c.cfg.Cancel != nil {
		c.cfg.Cancel()
		c.loops.Wait()
	}
	a := disconnect.Attribution{Reason: disconnect.Graceful, Initiator: c.cfg.Initiator}
	if err != nil {
		a.Reason, a.Detail = disconnect.NetworkError, err.Error()
		if told, ok := disconnect.FromError(err); ok {
			a = told // a cause told before the end is better than what the end looked like
		}
	}
	a.On(c.cfg.ConnectType).Log(context.Background(), c.logger, "coordination closed")
	return result
}

// leave ends the exchange in order. It returns nil when the server agreed.
func (c *BasicCoordination) leave() error {
	c.mu.Lock()
	c.leaving = true
	c.mu.Unlock()
	c.poke()
	late := time.NewTimer(closeWait)
	defer late.Stop()
	select {
	case <-c.ended:
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.endErr != nil {
			return fmt.Errorf("close coordination: %w", c.endErr)
		}
		return nil
	case <-late.C:
		return fmt.Errorf("close coordination: the server did not end the stream in %v", closeWait)
	}
}

func (c *BasicCoordination) poke() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// enqueue sends req after what was queued before.
func (c *BasicCoordination) enqueue(req *proto.CoordinateRequest) {
	c.mu.Lock()
	c.queue = append(c.queue, req)
	c.mu.Unlock()
	c.poke()
}

// setSelf takes the node's latest word about itself.
func (c *BasicCoordination) setSelf(n *proto.Node) {
	if n == nil {
		return
	}
	c.mu.Lock()
	c.self = n
	c.mu.Unlock()
	c.poke()
}

// next takes what is to be sent next. Before the node is admitted that is the proof
// and nothing else, whatever was asked for meanwhile. Where we are goes before what we
// want, because a tunnel cannot be made without it. last: nothing will follow.
func (c *BasicCoordination) next() (req *proto.CoordinateRequest, last bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.admitted {
		req, c.proof = c.proof, nil
		return req, false
	}
	if self := c.self; self != nil {
		c.self = nil
		if !protobuf.Equal(self, c.sentSelf) {
			c.sentSelf = self
			return &proto.CoordinateRequest{Request: &proto.CoordinateRequest_Self{Self: self}}, false
		}
	}
	if len(c.queue) > 0 {
		req, c.queue = c.queue[0], c.queue[1:]
		return req, false
	}
	for key, generation := range c.acks {
		delete(c.acks, key)
		return &proto.CoordinateRequest{Request: &proto.CoordinateRequest_Installed{
			Installed: &proto.Installed{NodeKey: key.Bytes(), Generation: generation},
		}}, false
	}
	if c.leaving {
		return &proto.CoordinateRequest{Request: &proto.CoordinateRequest_Disconnect{Disconnect: &proto.Disconnect{}}}, true
	}
	return nil, false
}

func (c *BasicCoordination) sendLoop() {
	for {
		select {
		case <-c.ended:
			return
		case <-c.wake:
		}
		for req, last := c.next(); req != nil; req, last = c.next() {
			if err := c.cfg.Stream.Send(req); err != nil {
				return // Recv has the reason
			}
			if last {
				_ = c.cfg.Stream.CloseSend()
				return
			}
		}
	}
}

func (c *BasicCoordination) receiveLoop() {
	err := c.receive()
	if errors.Is(err, io.EOF) {
		err = nil // status OK: the server ended the stream in order
	}
	err = c.explain(err)
	c.cfg.Node.SetCoordinated(false)
	c.mu.Lock()
	c.endErr = err
	c.mu.Unlock()
	close(c.ended)
	c.wait <- err
	close(c.wait)
}

// explain attaches what the server told about the end of the stream, or our own
// reason to give it up.
func (c *BasicCoordination) explain(err error) error {
	c.mu.Lock()
	local := c.localCause
	c.mu.Unlock()
	if local != nil {
		return local
	}
	if told, ok := ToldEnding(err); ok {
		return &disconnect.EndedError{Attribution: told.On(c.cfg.ConnectType), Err: err}
	}
	return err
}

// ToldEnding returns the goodbye that the server attached to the end of a stream.
func ToldEnding(err error) (disconnect.Goodbye, bool) {
	st, ok := status.FromError(err)
	if err == nil || !ok {
		return disconnect.Goodbye{}, false
	}
	for _, detail := range st.Details() {
		if g, ok := detail.(*wire.Goodbye); ok {
			return wire.ToGoodbye(g), true
		}
	}
	return disconnect.Goodbye{}, false
}

// giveUp ends the stream because the server broke the protocol.
func (c *BasicCoordination) giveUp(err error) error {
	cause := &disconnect.EndedError{Err: err, Attribution: disconnect.Attribution{
		ConnectType: c.cfg.ConnectType, Reason: disconnect.ProtocolError,
		Initiator: disconnect.Server, Detail: err.Error(),
	}}
	c.mu.Lock()
	c.localCause = cause
	c.mu.Unlock()
	if c.cfg.Cancel != nil {
		c.cfg.Cancel()
	}
	return cause
}

// receive handles what the server says until the stream ends.
func (c *BasicCoordination) receive() error {
	first, err := c.cfg.Stream.Recv()
	if err != nil {
		return err
	}
	if err := c.prove(first.GetChallenge()); err != nil {
		return c.giveUp(err)
	}
	for {
		resp, err := c.cfg.Stream.Recv()
		if err != nil {
			return err
		}
		if err := c.handle(resp); err != nil {
			return c.giveUp(err)
		}
	}
}

// prove answers the server's challenge.
func (c *BasicCoordination) prove(ch *proto.Challenge) error {
	if len(ch.GetKey()) != 32 || len(ch.GetNonce()) != proto.NonceSize {
		return errors.New("coordinate: the server's first message is not a challenge")
	}
	sealed := c.cfg.Key.Seal([32]byte(ch.GetKey()), proto.ProofMessage([proto.NonceSize]byte(ch.GetNonce())))
	c.mu.Lock()
	c.proof = &proto.CoordinateRequest{Request: &proto.CoordinateRequest_Proof{
		Proof: &proto.Proof{NodeKey: c.cfg.Key.Public().Bytes(), Sealed: sealed},
	}}
	c.mu.Unlock()
	c.poke()
	return nil
}

// handle acts on one message. An error means that it was not valid.
func (c *BasicCoordination) handle(resp *proto.CoordinateResponse) error {
	if a := resp.GetAdmitted(); a != nil {
		c.becomeAdmitted(a)
		return nil
	}
	if !c.Admitted() {
		return errors.New("coordinate: the server spoke before it admitted us")
	}
	switch m := resp.GetResponse().(type) {
	case *proto.CoordinateResponse_PeerUpdate:
		return c.updatePeer(m.PeerUpdate)
	case *proto.CoordinateResponse_TunnelReply:
		return c.replied(m.TunnelReply)
	case *proto.CoordinateResponse_Ready:
		key, err := proto.ParseNodeKey(m.Ready.GetNodeKey())
		if err != nil {
			return fmt.Errorf("coordinate: ready: %w", err)
		}
		c.resolve(key, nil)
	case *proto.CoordinateResponse_Presence:
		return c.presence(m.Presence)
	default: // of a newer version: not for us
	}
	return nil
}

// becomeAdmitted says where we are and what we have installed, the first time; later
// the server only renews the relay token.
func (c *BasicCoordination) becomeAdmitted(a *proto.Admitted) {
	if c.cfg.OnAdmitted != nil {
		c.cfg.OnAdmitted(a.GetRelayToken())
	}
	if c.Admitted() {
		return
	}
	c.cfg.Node.SetCoordinated(true)
	c.cfg.Node.SetSelfCallback(c.setSelf)
	c.setSelf(c.cfg.Node.Self())
	announce := c.cfg.Book.Announce()
	c.mu.Lock()
	c.admitted = true
	if announce != nil { // before any tunnel that somebody asked for meanwhile
		req := &proto.CoordinateRequest{Request: &proto.CoordinateRequest_Announce{Announce: announce}}
		c.queue = append([]*proto.CoordinateRequest{req}, c.queue...)
	}
	c.mu.Unlock()
	c.poke()
}

// updatePeer installs or removes a peer before the next message is read, so that
// Ready always finds it installed.
func (c *BasicCoordination) updatePeer(u *proto.PeerUpdate) error {
	key, err := proto.ParseNodeKey(u.GetNode().GetKey())
	if err != nil {
		return fmt.Errorf("coordinate: peer update: %w", err)
	}
	switch u.GetKind() {
	case proto.PeerUpdate_DROP:
		var why disconnect.Goodbye
		if u.GetGoodbye() != nil {
			why = wire.ToGoodbye(u.GetGoodbye())
		}
		c.cfg.Book.drop(key, c.cfg.Node.RemovePeer, why)
		c.withdrawn(key)
	case proto.PeerUpdate_UPSERT:
		ok, err := c.cfg.Book.upsert(key, u, c.cfg.Node.UpsertPeer)
		if err != nil {
			c.logger.Warn("install peer failed", "peer", key.Short(), "error", err)
		}
		if ok {
			c.mu.Lock()
			c.acks[key] = u.GetGeneration()
			c.mu.Unlock()
			c.poke()
		}
	}
	return nil
}
