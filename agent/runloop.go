package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"golang.org/x/crypto/ssh"
	"golang.org/x/sync/errgroup"

	"fairlead.dev/fairlead/agent/proto"
	"fairlead.dev/fairlead/control"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/sdk/agentsdk"
	tailnetproto "fairlead.dev/fairlead/tailnet/proto"
)

// runLoop keeps a control link to the server: dial, serve, attribute its ending,
// dial again, until the agent stops. The data plane does not depend on it.
func (a *agent) runLoop() {
	r := retry{first: a.opts.retryFirst, last: a.opts.retryLast}
	var early control.Cuts
	for a.gracefulCtx.Err() == nil {
		link, err := a.connectUntilUp(&r)
		if err != nil {
			if IsRefused(err) {
				a.giveUp(err)
			}
			return
		}
		a.setLink(link)
		a.logger.Info("connected to server", "server_instance", link.PeerInstance())
		begin := time.Now()
		id, known := uuid.Parse(link.ConnectionID())
		if known == nil {
			a.linkOpened(id)
		}
		err = a.serveLink(link)
		a.setLink(nil)
		if time.Since(begin) >= a.opts.retryLast {
			r.reset() // a server that lets us in and then turns us away is not asked at once again
		}
		a.noteLinkEnding(link, id, time.Since(begin), err)
		if err := dismissed(link); err != nil {
			a.giveUp(err)
			return
		}
		a.noteCut(&early, time.Since(begin), link.Ending().Attribution)
		if a.gracefulCtx.Err() == nil && !a.pause(r.next()) {
			return
		}
	}
}

// noteCut warns when links are cut early again and again.
func (a *agent) noteCut(c *control.Cuts, lived time.Duration, attr disconnect.Attribution) {
	if c.Note(lived, attr) {
		a.logger.Warn(control.MsgCuts, "server_url", a.opts.AccessURL.String(), "cuts", c.InARow(), "lived", lived.Round(time.Millisecond).String())
	}
}

// giveUp ends the agent's life with err, a *refusedError.
func (a *agent) giveUp(err error) {
	var refused *refusedError
	if errors.As(err, &refused) {
		a.refused.Store(&refused.attr)
	}
	a.failed <- err
}

// noteLinkEnding writes the link's own disconnect line, and what the server should know of
// the end, which calls the link id. It is the one line of the link; the RPCs on it have
// lines of their own.
func (a *agent) noteLinkEnding(link *control.Link, id uuid.UUID, lasted time.Duration, err error) {
	attr := a.explained(link, link.Ending().Attribution)
	if id != uuid.Nil {
		a.queueOfLink(id, encode(a.linkTestimony(link, attr)))
		a.linkForgotten()
	}
	if attr.Detail == "" && err != nil {
		attr.Detail = err.Error()
	}
	a.countEnding(attr, typeControl, lasted)
	attr.Log(a.hardCtx, a.logger, "disconnected from server", a.linkEnded(link, attr)...)
}

// serveLink runs the routines of one link until the link ends, one of them fails or
// the agent stops. It returns with the link closed.
func (a *agent) serveLink(link *control.Link) error {
	ctx, cancel := context.WithCancel(a.hardCtx)
	defer cancel()
	api := proto.NewAgentServiceClient(link.RPC())
	if err := a.fetchManifest(ctx, api); err != nil {
		a.endLink(link, err)
		<-link.Done()
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	run := func(routine func(context.Context, *control.Link) error) {
		group.Go(func() error {
			err := routine(ctx, link)
			if err != nil {
				a.endLink(link, err) // the cause, before the siblings are cancelled
			}
			return err
		})
	}
	run(a.runCoordinator)
	run(a.runDERPMapSubscriber)
	run(func(ctx context.Context, _ *control.Link) error { return a.runReporter(ctx, api) })
	run(func(ctx context.Context, link *control.Link) error { return a.followManifest(ctx, link, api) })
	run(a.awaitLinkEnd)
	return group.Wait() // whichever routine ends first closes the link
}

// What ends the routines of a link beside failures.
var (
	errLinkEnded     = errors.New("the control link ended")
	errEndedByServer = errors.New("the server ended the RPC")
	errStopping      = errors.New("the agent is stopping")
)

// awaitLinkEnd makes the end of the link end its other routines.
func (a *agent) awaitLinkEnd(ctx context.Context, link *control.Link) error {
	select {
	case <-link.Done():
		return errLinkEnded
	case <-ctx.Done():
		return ctx.Err()
	}
}

// endLink closes a link because one of its routines ended with err. The link's own
// ending, when it has one, is the better evidence and stays.
func (a *agent) endLink(link *control.Link, err error) {
	_ = link.Close(a.linkGoodbye(link, err)) // keeps the first cause
}

func (a *agent) linkGoodbye(link *control.Link, err error) disconnect.Goodbye {
	if attr, stopping := a.stopping(); stopping {
		return attr.Goodbye()
	}
	if errors.Is(err, errEndedByServer) {
		return disconnect.Goodbye{Reason: disconnect.Graceful, Initiator: disconnect.Agent, Detail: err.Error()}
	}
	if attr, ok := disconnect.FromError(control.EndingOf(link, err)); ok {
		return attr.Goodbye()
	}
	return disconnect.Goodbye{Reason: disconnect.InternalError, Initiator: disconnect.Agent, Detail: err.Error()}
}

// stopping returns the attribution of our own shutdown, if one has begun.
func (a *agent) stopping() (disconnect.Attribution, bool) {
	return disconnect.FromContext(a.gracefulCtx)
}

// fetchManifest registers the SSH host key, stores the manifest and obeys its orders,
// all before anything else on the link can let a client in.
func (a *agent) fetchManifest(ctx context.Context, api proto.AgentServiceClient) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(a.gracefulCtx, cancel)()
	key := string(ssh.MarshalAuthorizedKey(a.state.hostKey.PublicKey()))
	msg, err := api.GetManifest(ctx, &proto.GetManifestRequest{SshHostKey: key, TerminalUsers: a.terminals.Users()})
	if err != nil {
		return fmt.Errorf("get manifest: %w", err)
	}
	manifest, err := agentsdk.ManifestFromProto(msg)
	if err != nil {
		return &disconnect.EndedError{Attribution: disconnect.Attribution{
			ConnectType: disconnect.ServerToAgent,
			Reason:      disconnect.ProtocolError,
			Initiator:   disconnect.Server,
			Detail:      err.Error(),
		}, Err: err}
	}
	a.manifest.Store(manifest)
	if a.opts.OutageLimit <= 0 {
		a.companion.SetOutageLimit(manifest.OutageLimit)
	}
	a.obey(msg.GetOrders())
	return nil
}

const msgRelayMap = "relay map received"

// runDERPMapSubscriber follows the server's relay map for the life of one link.
func (a *agent) runDERPMapSubscriber(ctx context.Context, link *control.Link) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(a.gracefulCtx, cancel)()
	stream, err := tailnetproto.NewTailnetServiceClient(link.RPC()).StreamDERPMaps(ctx, &tailnetproto.StreamDERPMapsRequest{})
	if err != nil {
		return fmt.Errorf("stream derp maps: %w", err)
	}
	received, err := a.followDERPMaps(stream)
	if received {
		a.rpcEnding(link, err).Log(a.hardCtx, a.logger, "disconnected from derp map RPC")
	}
	switch {
	case a.gracefulCtx.Err() != nil:
		return nil // the coordination closes the link once it has left in order
	case err == nil:
		return errEndedByServer
	}
	return fmt.Errorf("stream derp maps: %w", err)
}

func (a *agent) followDERPMaps(stream tailnetproto.TailnetService_StreamDERPMapsClient) (received bool, err error) {
	for {
		derpMap, err := stream.Recv()
		if err != nil {
			return received, streamEnd(err)
		}
		received = true
		a.node.SetDERPMap(derpMap, a.opts.AccessURL.Hostname())
		a.logger.Debug(msgRelayMap, "regions", len(derpMap.GetRegions()))
	}
}
