package agent

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"fairlead.dev/fairlead/agent/agentssh"
	"fairlead.dev/fairlead/agent/proto"
	"fairlead.dev/fairlead/control"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/wire"
)

// firstOrdersWait bounds how long the first orders of a link may take.
const firstOrdersWait = 10 * time.Second

// notice is the platform's word, through the server, that this host will be gone.
type notice struct {
	kind     string
	deadline time.Time // by the server's clock
	until    time.Time // by ours: an end up to then is the platform's doing
	goodbye  disconnect.Goodbye
}

// firstOrders opens the stream of orders and does what the first say, before anything
// else on the link can let a client in. A server that gives no orders is obeyed too:
// then the stream is nil.
func (a *agent) firstOrders(ctx context.Context, link *control.Link, api proto.AgentServiceClient) (proto.AgentService_StreamOrdersClient, error) {
	late := time.AfterFunc(firstOrdersWait, func() {
		a.endLink(link, fmt.Errorf("stream orders: none came for %v", firstOrdersWait))
	})
	defer late.Stop()
	defer context.AfterFunc(a.gracefulCtx, func() { a.endLink(link, errStopping) })()
	stream, err := api.StreamOrders(ctx, &proto.StreamOrdersRequest{})
	if err != nil {
		return nil, fmt.Errorf("stream orders: %w", err)
	}
	orders, err := stream.Recv()
	if status.Code(err) == codes.Unimplemented {
		a.logger.Debug("the server gives no orders")
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("stream orders: %w", err)
	}
	a.obey(orders)
	return stream, nil
}

// followOrders does what the server says until the stream ends. The last orders stand
// while the server is away.
func (a *agent) followOrders(ctx context.Context, api proto.AgentServiceClient, stream proto.AgentService_StreamOrdersClient) error {
	r := retry{first: a.opts.retryFirst, last: a.opts.retryLast}
	for {
		for stream != nil {
			orders, err := stream.Recv()
			if err != nil {
				if ctx.Err() == nil {
					a.logger.Debug("stream of orders ended", "error", disconnect.Scrub(err.Error()))
				}
				break
			}
			r.reset()
			a.obey(orders)
		}
		if stream == nil {
			<-ctx.Done()
			return ctx.Err()
		}
		if !sleep(ctx, r.next()) {
			return ctx.Err()
		}
		next, err := api.StreamOrders(ctx, &proto.StreamOrdersRequest{})
		if err == nil {
			stream = next
		}
	}
}

// obey does what orders say. They may come again: what is done stays done.
func (a *agent) obey(orders *proto.Orders) {
	a.ssh.SetPolicy(sessionPolicy(orders.GetPolicy()))
	a.heedNotice(orders.GetNotice())
	if stop := orders.GetStopped(); stop != nil {
		word := serversWord(stop.GetGoodbye())
		a.stop.Store(&word)
		a.ssh.Refuse(word)
	} else {
		a.stop.Store(nil)
		a.ssh.Allow()
	}
	for _, end := range orders.GetEnds() {
		if id, err := uuid.FromBytes(end.GetId()); err == nil {
			a.live.end(id.String(), serversWord(end.GetGoodbye()))
		}
	}
}

func serversWord(g *wire.Goodbye) disconnect.Attribution {
	return wire.ToGoodbye(g).From(disconnect.Server).On(disconnect.AgentToClient)
}

func sessionPolicy(p *proto.Orders_Policy) agentssh.Policy {
	return agentssh.Policy{
		IdleTimeout: max(p.GetIdleTimeout().AsDuration(), 0), IdleRule: disconnect.Scrub(p.GetIdleRule()),
		SessionLimit: max(p.GetSessionLimit().AsDuration(), 0), LimitRule: disconnect.Scrub(p.GetSessionRule()),
	}
}

// heedNotice keeps the platform's notice, and tells who sits at a terminal of a new one.
func (a *agent) heedNotice(n *proto.Orders_Notice) {
	if n == nil {
		a.notice.Store(nil)
		return
	}
	heard := &notice{
		kind: disconnect.Scrub(n.GetKind()), deadline: n.GetDeadline().AsTime(),
		until: time.Now().Add(n.GetCovers().AsDuration()), goodbye: wire.ToGoodbye(n.GetGoodbye()).From(disconnect.Server),
	}
	if old := a.notice.Swap(heard); old != nil && old.kind == heard.kind && old.deadline.Equal(heard.deadline) {
		return
	}
	at := heard.deadline.Local().Format("15:04:05 MST")
	a.logger.Warn("the platform will take this host away", "kind", heard.kind, "deadline", heard.deadline.Format(time.RFC3339))
	a.ssh.Announce("the platform takes this workspace away at " + at + " (" + heard.kind + ")")
}

// toldBefore returns what a shutdown that begins now is, if it was told of before: by the
// server, which wants no more of this agent; by the platform's notice; or by whoever
// stopped the workspace.
func (a *agent) toldBefore() (disconnect.Attribution, bool) {
	if told := a.refused.Load(); told != nil && forGood(told.Reason) {
		return *told, true
	}
	if n := a.notice.Load(); n != nil && !time.Now().After(n.until) {
		return n.goodbye.On(disconnect.AgentToClient), true
	}
	if stop := a.stop.Load(); stop != nil {
		return *stop, true
	}
	return disconnect.Attribution{}, false
}
