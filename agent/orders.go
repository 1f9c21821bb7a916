package agent

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"fairlead.dev/fairlead/agent/agentssh"
	"fairlead.dev/fairlead/agent/proto"
	"fairlead.dev/fairlead/control"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/wire"
)

// notice is the platform's word, through the server, that this host will be gone.
type notice struct {
	kind     string
	deadline time.Time // by the server's clock
	until    time.Time // by ours: an end up to then is the platform's doing
	heard    time.Time // by ours
	goodbye  disconnect.Goodbye
}

// followManifest fetches the manifest again whenever the server nudges the link, and when
// a client's right was withdrawn, until the link ends. The last one stands while the server is away.
func (a *agent) followManifest(ctx context.Context, link *control.Link, api proto.AgentServiceClient) error {
	r := retry{first: a.opts.retryFirst, last: a.opts.retryLast}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-link.Nudged():
		case <-a.askAgain:
		}
		for {
			err := a.fetchManifest(ctx, api)
			if err == nil {
				r.reset()
				break
			}
			if ctx.Err() == nil {
				a.logger.Warn("cannot fetch the manifest again yet", "error", disconnect.Scrub(err.Error()))
			}
			if !sleep(ctx, r.next()) {
				return ctx.Err()
			}
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
		a.terminals.EndAll(word)
	} else {
		a.stop.Store(nil)
		a.ssh.Allow()
	}
	for _, gone := range orders.GetWithdrawn() {
		a.terminals.EndUser(gone.GetUser(), serversWord(gone.GetGoodbye()))
	}
	a.heedVerdicts(orders.GetVerdicts())
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
		NoFileTransfer:     slices.Contains(p.GetBlocked(), "file_transfer"),
		NoLocalForwarding:  slices.Contains(p.GetBlocked(), "local_forwarding"),
		NoRemoteForwarding: slices.Contains(p.GetBlocked(), "remote_forwarding"),
		AcceptEnv:          strings.Join(p.GetAcceptEnv(), ","),
	}
}

// heedNotice keeps the platform's notice, and tells who sits at a terminal of a new one,
// and of one that was withdrawn. The server also drops one whose time is over: that is no
// news.
func (a *agent) heedNotice(n *proto.Orders_Notice) {
	if n == nil {
		if old := a.notice.Swap(nil); old != nil && time.Now().Before(old.until) {
			a.logger.Info("the platform's notice is withdrawn", "kind", old.kind)
			a.ssh.Announce("the platform leaves this workspace where it is: the notice is withdrawn")
		}
		return
	}
	heard := &notice{
		kind: disconnect.Scrub(n.GetKind()), deadline: n.GetDeadline().AsTime(), heard: time.Now(),
		until: time.Now().Add(n.GetCovers().AsDuration()), goodbye: wire.ToGoodbye(n.GetGoodbye()).From(disconnect.Server),
	}
	if old := a.notice.Load(); old != nil && old.kind == heard.kind && old.deadline.Equal(heard.deadline) {
		heard.heard = old.heard
		a.notice.Store(heard)
		return
	}
	a.notice.Store(heard)
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
