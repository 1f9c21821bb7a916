package relayhost

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"fairlead.dev/fairlead/control"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/wire"
	"fairlead.dev/fairlead/metrics"
	"fairlead.dev/fairlead/tailnet/proto"
	"fairlead.dev/fairlead/tailnet/relay"
	"fairlead.dev/fairlead/wsconn"
)

const (
	// Delays between attempts to reach the server: doubling, with a jitter of half.
	firstRetry = 250 * time.Millisecond
	lastRetry  = 10 * time.Second
	dialTime   = 15 * time.Second
	// maxRechecks bounds the nodes that are asked for at one time after a new link.
	maxRechecks = 16
)

// refusedError says that the server does not accept this relay.
type refusedError struct {
	text string
	err  error
}

func (e *refusedError) Error() string { return e.text }
func (e *refusedError) Unwrap() error { return e.err }

// IsRefused reports whether err says that the server does not accept the relay, so that
// another attempt can only fail the same way.
func IsRefused(err error) bool {
	var refused *refusedError
	return errors.As(err, &refused)
}

// keepLink keeps a control link to the server until the relay stops or is refused.
func (h *Host) keepLink() {
	for delay := firstRetry; h.ctx.Err() == nil; delay = min(2*delay, lastRetry) {
		begun := time.Now()
		err := h.oneLink()
		if IsRefused(err) {
			h.failed <- err
			return
		}
		if time.Since(begun) > lastRetry {
			delay = firstRetry
		}
		timer := time.NewTimer(delay/2 + rand.N(delay/2))
		select {
		case <-timer.C:
		case <-h.ctx.Done():
			timer.Stop()
		}
	}
}

// leaving is what the server is told when the relay stops.
var leaving = disconnect.Goodbye{Reason: disconnect.ServerShutdown, Initiator: disconnect.Relay, Detail: "the relay is stopping"}

// oneLink dials, serves the link until it ends, and says how it ended.
func (h *Host) oneLink() error {
	ctx, cancel := context.WithTimeout(h.ctx, dialTime)
	defer cancel()
	link, err := control.Dial(ctx, control.DialOptions{
		AccessURL: h.opts.ServerURL, Token: h.opts.Token, Instance: h.instance, Version: h.opts.Version,
		ConnectType: disconnect.RelayToServer, Self: disconnect.Relay, Peer: disconnect.Server,
		Logger: h.logger, HTTPClient: h.opts.HTTPClient,
	})
	if err != nil {
		if h.ctx.Err() != nil {
			return nil
		}
		if refused := refusedDial(err); refused != nil {
			return refused
		}
		h.logger.Warn("could not reach the server", "error", disconnect.Scrub(err.Error()))
		return nil
	}
	begin := time.Now()
	err = h.serveLink(link)
	h.linked.Store(false)
	h.admissions.setServer(nil)
	why := leaving
	if a, ok := disconnect.FromError(control.EndingOf(link, err)); ok && h.ctx.Err() == nil {
		why = a.Goodbye()
	}
	_ = link.Close(why) // keeps the first cause
	ending := link.Ending()
	ending.Log(context.Background(), h.logger, "relay control link ended")
	h.set.Ended(ending.Attribution, metrics.TypeControl, time.Since(begin))
	return dismissed(ending, err)
}

// refusedDial returns an error when dialling again can only fail the same way: the
// server's own word counts, and not that of a box in between.
func refusedDial(err error) error {
	var failed *wsconn.DialError
	if !errors.As(err, &failed) {
		return nil
	}
	_, told := failed.Reason()
	switch a := control.JudgeDial(err, disconnect.RelayToServer, disconnect.Relay, disconnect.Server); {
	case told && a.Reason == disconnect.AuthFailed:
		return &refusedError{"the server does not accept this relay's token: it is wrong, or the relay was deleted; `fairlead relay create` makes a new one", err}
	case a.Reason == disconnect.VersionMismatch && (told || errors.Is(err, wsconn.ErrSubprotocol)):
		return &refusedError{"the server refuses this relay: " + disconnect.Scrub(err.Error()), err}
	}
	return nil
}

// dismissed returns the error to give up with when the server said no for good.
func dismissed(ending control.Ending, err error) error {
	switch {
	case ending.Goodbye && ending.Reason == disconnect.DuplicateAgent:
		return &refusedError{"another relay runs with the same token; start only one, and create a relay for each machine", err}
	case ending.Goodbye && ending.Reason == disconnect.AuthRevoked:
		return &refusedError{"the server does not accept this relay any more: " + disconnect.Scrub(ending.Detail), err}
	}
	switch st := status.Convert(err); st.Code() {
	case codes.InvalidArgument, codes.NotFound, codes.PermissionDenied, codes.Unimplemented:
		return &refusedError{"the server refuses this relay: " + disconnect.Scrub(st.Message()), err}
	}
	return nil
}

// serveLink registers the relay and does as the server says until the stream ends, or
// the relay stops.
func (h *Host) serveLink(link *control.Link) error {
	// A relay that stops says goodbye first: that ends the stream.
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	defer context.AfterFunc(h.ctx, func() { _ = link.Close(leaving) })()
	server := proto.NewRelayServiceClient(link.RPC())
	req := &proto.RegisterRelayRequest{AccessUrl: h.access.String()}
	if h.stun != nil {
		req.StunPort = uint32(h.stun.Addr().Port())
	}
	stream, err := server.Register(ctx, req)
	if err != nil {
		return err
	}
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	me := first.GetRegistered()
	h.logger.Info("relay registered", "relay", disconnect.Scrub(me.GetName()), "region", int(me.GetRegionId()),
		"region_code", disconnect.Scrub(me.GetRegionCode()), "server_instance", link.PeerInstance())
	var recheck sync.WaitGroup
	defer recheck.Wait()
	defer cancel()
	tokens := h.admissions.open(h.relay.Connected)
	h.admissions.setServer(server)
	h.linked.Store(true)
	recheck.Go(func() { h.recheck(ctx, tokens) })
	for {
		notice, err := stream.Recv()
		if err != nil {
			return err
		}
		h.notice(notice)
	}
}

// notice does what the server says.
func (h *Host) notice(n *proto.RelayNotice) {
	switch m := n.GetNotice().(type) {
	case *proto.RelayNotice_Probe:
		if m.Probe.GetOk() {
			h.logger.Info("the server reaches this relay at its access url")
			return
		}
		h.logger.Warn("nodes may not reach this relay", "error", disconnect.Scrub(m.Probe.GetMessage()))
	case *proto.RelayNotice_End:
		h.admissions.end(m.End.GetTag())
		h.relay.End(m.End.GetTag(), wire.ToGoodbye(m.End.GetGoodbye()).From(disconnect.Server))
	case *proto.RelayNotice_Extend:
		node, err := proto.ParseNodeKey(m.Extend.GetNodeKey())
		hash := m.Extend.GetTokenHash()
		if err != nil || len(hash) != len(tokenHash{}) || !m.Extend.GetExpiresAt().IsValid() {
			return
		}
		expires := m.Extend.GetExpiresAt().AsTime()
		h.admissions.extend(node, tokenHash(hash), expires)
		h.relay.Extend(node, expires)
	}
}

// recheck asks for every node that is connected whether it may stay: what was withdrawn
// while the server was away is heard of only so.
func (h *Host) recheck(ctx context.Context, tokens map[proto.NodeKey]string) {
	places := make(chan struct{}, maxRechecks)
	var asking sync.WaitGroup
	defer asking.Wait()
	for node, token := range tokens {
		select {
		case places <- struct{}{}:
		case <-ctx.Done():
			return
		}
		asking.Go(func() {
			defer func() { <-places }()
			expires, err := h.admissions.again(ctx, node, token)
			switch {
			case err == nil:
				h.relay.Extend(node, expires)
			case !errors.Is(err, relay.ErrUndecided):
				h.expel(node, err)
			}
		})
	}
}

// expel ends a node's connections for what the server said of its right.
func (h *Host) expel(node proto.NodeKey, denied error) {
	g := disconnect.Goodbye{Reason: disconnect.AuthRevoked, Initiator: disconnect.Server, Detail: "the server does not let this node in any more"}
	if a, ok := disconnect.FromError(denied); ok {
		g = a.Goodbye()
	}
	h.admissions.forget(node)
	h.relay.EndNode(node, g)
}
