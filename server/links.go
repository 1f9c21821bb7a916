package server

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"fairlead.dev/fairlead/control"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/verdict"
	"fairlead.dev/fairlead/hostwatch"
	"fairlead.dev/fairlead/metrics"
	"fairlead.dev/fairlead/server/auth"
	"fairlead.dev/fairlead/server/connlog"
	"fairlead.dev/fairlead/server/store"
	"fairlead.dev/fairlead/tailnet/proto"
	"fairlead.dev/fairlead/wsconn"
)

const (
	// aliveEvery is how often the database learns that the server lives: how precisely
	// is known, after it died without a word, until when everything was open.
	aliveEvery = 10 * time.Second
	// recordTimeout bounds one record about an agent.
	recordTimeout = 5 * time.Second
	// maxUnregistered bounds a workspace's links whose agents have not registered: who has
	// a token but not the pinned host key holds no more. An agent registers at once.
	maxUnregistered = 8
)

// presence knows which workspaces' agents have a control link now, and keeps the
// database's record of it in the same order.
type presence struct {
	store  *store.Store
	logger *slog.Logger
	now    func() time.Time

	// lost is told, in order, of agents whose link ended and that have no other. It must
	// not block.
	lost func(workspaceID string, at time.Time, ending disconnect.Attribution)

	records sync.Mutex // held while the database is told; orders what it is told
	mu      sync.Mutex // guards online, callers and strangers; nobody waits for the database with it
	online  map[string]present
	callers map[string]*caller // of each workspace whose agent registered in this life
	// strangers are a workspace's links that have not registered, the oldest first.
	strangers map[string][]*control.Link
}

// present is the newest link of one workspace's agent.
type present struct {
	link     *control.Link
	instance string // of the agent's process
	since    time.Time
}

// since returns since when a workspace's agent is online, if it is.
func (p *presence) since(workspaceID string) (time.Time, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	here, ok := p.online[workspaceID]
	return here.since, ok
}

// instanceOf is the process of a workspace's agent that is there; empty: none is.
func (p *presence) instanceOf(workspaceID string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.online[workspaceID].instance
}

// nudge has the agent of a workspace ask anew for its manifest, if it is there.
func (s *Server) nudge(workspaceID string) {
	link := s.presence.linkOf(workspaceID)
	if link == nil {
		return // it asks when it connects
	}
	done, ok := s.enter()
	if !ok {
		return
	}
	go func() { // Close waits for it by done; a link whose peer does not read takes its time
		defer done()
		link.Nudge()
	}()
}

// nudgeAll has every agent ask anew for its manifest.
func (s *Server) nudgeAll() {
	for _, workspaceID := range s.presence.here() {
		s.nudge(workspaceID)
	}
}

// here returns the workspaces whose agents are online.
func (p *presence) here() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Collect(maps.Keys(p.online))
}

// linkOf returns the link that counts for a workspace's agent; nil: there is none.
func (p *presence) linkOf(workspaceID string) *control.Link {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.online[workspaceID].link
}

// registered reports whether link is the one that counts for its agent's workspace.
func (p *presence) registered(link *control.Link) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.online[link.Peer().ID].link == link
}

// arrived notes a link of an agent that has yet to register, and returns the oldest such
// link of the workspace if they are too many now.
func (p *presence) arrived(workspaceID string, link *control.Link) (surplus *control.Link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.online[workspaceID].link == link {
		return nil // it was quick
	}
	all := append(p.strangers[workspaceID], link)
	if len(all) > maxUnregistered {
		surplus, all = all[0], all[1:]
	}
	p.strangers[workspaceID] = all
	return surplus
}

// knownLocked takes a link out that has registered, or has ended.
func (p *presence) knownLocked(workspaceID string, link *control.Link) {
	all := slices.DeleteFunc(p.strangers[workspaceID], func(l *control.Link) bool { return l == link })
	if len(all) == 0 {
		delete(p.strangers, workspaceID)
		return
	}
	p.strangers[workspaceID] = all
}

// opened records a new link of an agent that has registered. An older one of the same
// workspace that has not ended yet is no longer what counts; if it is another process',
// it is returned.
func (p *presence) opened(ws store.Workspace, link *control.Link) (displaced *control.Link) {
	p.records.Lock()
	defer p.records.Unlock()
	here := present{link: link, instance: link.PeerInstance(), since: p.now()}
	former, ok := p.replace(ws, here)
	if !ok {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), recordTimeout)
	defer cancel()
	if err := p.store.AgentConnected(ctx, ws.ID, here.instance, here.since); err != nil {
		p.logger.WarnContext(ctx, "cannot record an agent's connection", "workspace_id", ws.ID, "error", err)
	}
	if former.instance == here.instance {
		return nil
	}
	return former.link
}

// replace makes here what counts for a workspace and returns what did before, or reports
// false when there is nothing to do.
func (p *presence) replace(ws store.Workspace, here present) (former present, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-here.link.Done():
		return former, false // whoever waits for its end has been here already, or finds nothing to do
	default:
	}
	former = p.online[ws.ID]
	if former.link == here.link {
		return former, false // it registers a second time
	}
	p.online[ws.ID] = here
	p.knownLocked(ws.ID, here.link)
	c := p.callers[ws.ID]
	if c == nil {
		c = newCaller(connlog.Former{Instance: ws.Agent.Instance, At: ws.Agent.SeenAt, Ending: ws.Agent.Ending})
		p.callers[ws.ID] = c
	}
	if c.older = former.link; c.older != nil {
		c.former = connlog.Former{Instance: former.instance, At: here.since}
	}
	return former, true
}

// ended records how a link of an agent ended, unless a newer one has taken its place.
func (p *presence) ended(workspaceID string, link *control.Link, ending disconnect.Attribution) {
	p.records.Lock()
	defer p.records.Unlock()
	p.mu.Lock()
	p.knownLocked(workspaceID, link)
	here := p.online[workspaceID]
	counts, at := here.link == link, p.now()
	if counts {
		delete(p.online, workspaceID)
		p.callers[workspaceID].former = connlog.Former{Instance: here.instance, At: at, Ending: ending}
		p.lost(workspaceID, at, ending)
	}
	p.mu.Unlock()
	if !counts {
		return
	}
	// The server may be stopping: this record is part of that.
	ctx, cancel := context.WithTimeout(context.Background(), recordTimeout)
	defer cancel()
	err := p.store.AgentEnded(ctx, workspaceID, at, ending)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		p.logger.WarnContext(ctx, "cannot record an agent's ending", "workspace_id", workspaceID, "error", err)
	}
}

// watch records now and then that the server lives, until ctx ends.
func (p *presence) watch(ctx context.Context) {
	tick := time.NewTicker(aliveEvery)
	defer tick.Stop()
	for {
		if err := p.store.Alive(ctx, p.now()); err != nil && ctx.Err() == nil {
			p.logger.WarnContext(ctx, "cannot record that the server lives", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// buryFormerLife records an ending for agents that the database believes online when
// the server starts: the server's former life ended without a word.
func (p *presence) buryFormerLife(ctx context.Context) error {
	ending := disconnect.Attribution{
		ConnectType: disconnect.ServerToAgent, Reason: disconnect.PeerCrashed, Initiator: disconnect.Server,
		Detail: "the server died without a goodbye",
	}
	_, err := p.store.EndAllAgents(ctx, ending)
	return err
}

// getControl makes the request a control link. The link outlives the request.
func (s *Server) getControl(w http.ResponseWriter, r *http.Request, p auth.Principal) error {
	leave, err := s.limits.enter(p, r.RemoteAddr)
	if err != nil {
		s.logRefusal(r, p, disconnect.Attribution{Reason: disconnect.LimitExceeded, Initiator: disconnect.Server, Detail: err.Error()})
		return err
	}
	over, ok := s.enter()
	if !ok {
		leave()
		return errStopping
	}
	done := func() { leave(); over() }
	id := control.Identity{Kind: control.ClientPeer, ID: p.UserID, Principal: p.UserName, TokenID: p.TokenID, Expires: p.ExpiresAt}
	switch p.Kind {
	case auth.KindAgent:
		id.Kind, id.ID = control.AgentPeer, p.WorkspaceID
	case auth.KindRelay:
		id.Kind, id.ID, id.Principal = control.RelayPeer, p.RelayID, p.RelayName
	}
	if p.Kind != auth.KindRelay { // nobody's connection
		id.ConnectionID = uuid.NewString()
	}
	link, err := s.control.Accept(w, r, id)
	if err != nil { // Accept has answered
		done()
		s.logRefusal(r, p, acceptFailure(err))
		return nil
	}
	started := time.Now()
	remote := r.RemoteAddr
	bearer := r.Header.Get("Authorization")
	go func() { // Close waits for it by done
		s.confirm(link, bearer)
		s.attend(link, p, remote, started, done)
	}()
	return nil
}

// acceptFailure is why a link that was let in never came to be.
func acceptFailure(err error) disconnect.Attribution {
	a := disconnect.Attribution{Reason: disconnect.ProtocolError, Initiator: disconnect.Client, Detail: err.Error()}
	switch {
	case errors.Is(err, control.ErrServerClosed):
		a.Reason, a.Initiator = disconnect.ServerShutdown, disconnect.Server
	case errors.Is(err, wsconn.ErrSubprotocol):
		a.Reason, a.Initiator = disconnect.VersionMismatch, disconnect.Server
	}
	return a
}

// logRefusal writes down, also in the connection log, that somebody known could not open a
// control link.
func (s *Server) logRefusal(r *http.Request, p auth.Principal, why disconnect.Attribution) {
	if p.Kind == auth.KindRelay || !s.limits.refusals.AllowN(s.opts.Now(), 1) { // a relay's is nobody's connection
		return
	}
	l := s.linkOf(p, r.RemoteAddr)
	why.ConnectType = l.ConnectType
	if why.Initiator == disconnect.Client && p.Kind == auth.KindAgent {
		why.Initiator = disconnect.Agent
	}
	why.Detail = disconnect.Scrub(why.Detail)
	why.LogAttempt(r.Context(), s.logger, slog.LevelWarn, "control link refused", slog.String("user", p.UserName), slog.String("remote_addr", r.RemoteAddr))
	s.connlog.LinkOpened(l).Ended(l.ConnectedAt, why)
}

// confirm ends a link whose right went while it was made: who ended the links of that
// right did not find this one yet.
func (s *Server) confirm(link *control.Link, bearer string) {
	ctx, cancel := context.WithTimeout(s.background, withdrawTimeout)
	defer cancel()
	_, err := s.authenticate(ctx, bearer)
	var refused *refusal
	switch {
	case err == nil || s.background.Err() != nil:
		return
	case !errors.As(err, &refused):
		s.logger.ErrorContext(ctx, "cannot confirm who opened a control link", "error", err)
		refused = errInternal
	case refused.reason != disconnect.AuthExpired:
		refused = &refusal{reason: disconnect.AuthRevoked, message: refused.message}
	}
	_ = link.Close(disconnect.Goodbye{Reason: refused.reason, Initiator: disconnect.Server, Detail: refused.message}) // keeps the first cause
}

// attend sees a link through its life, and calls done when that is over, which may be
// after attend has returned.
func (s *Server) attend(link *control.Link, p auth.Principal, remote string, started time.Time, done func()) {
	msg, leg, attrs := "client control link", disconnect.ClientToServer, []slog.Attr{slog.String("user", p.UserName)}
	switch p.Kind {
	case auth.KindAgent:
		msg, leg = "agent control link", disconnect.ServerToAgent
		attrs = append(attrs, slog.String("workspace", p.WorkspaceName), slog.String("workspace_id", p.WorkspaceID))
	case auth.KindRelay:
		msg, leg, attrs = "relay control link", disconnect.RelayToServer, []slog.Attr{slog.String("relay", p.RelayName)}
	}
	attrs = append(attrs, slog.String("instance", disconnect.Scrub(link.PeerInstance())), slog.String("remote_addr", remote))
	if id := link.Peer().ConnectionID; id != "" {
		attrs = append(attrs, slog.String("connection_id", id))
	}
	ctx := context.Background()
	var row *connlog.LinkRow // of a relay there is none: it is nobody's connection
	if p.Kind != auth.KindRelay {
		row = s.logLink(link, p, remote)
	}
	s.logger.LogAttrs(ctx, slog.LevelInfo, msg+" opened", attrs...)
	if p.Kind == auth.KindAgent {
		s.boundStrangers(p.WorkspaceID, link)
	}
	rowOver := func() {}
	if row != nil {
		rowOver = s.ends.opened(row.ID(), link)
	}
	over := func() {
		defer done()
		rowOver()
		ending := link.Ending().On(leg)
		if p.Kind == auth.KindAgent {
			ending = s.orders.judge(p.WorkspaceID, s.opts.Now(), link.Ending()).On(leg)
		}
		ending, facts := s.ownDoing(link, ending)
		s.meters.set.Ended(ending, metrics.TypeControl, time.Since(started))
		s.leftBehind(link, row, ending, facts)
		attrs = append(attrs, slog.Duration("duration", time.Since(started).Round(time.Millisecond)))
		ending.Log(ctx, s.logger, msg+" ended", attrs...)
	}
	if p.ExpiresAt.IsZero() {
		context.AfterFunc(link.Context(), over) // no goroutine for each idle agent
		return
	}
	s.untilExpired(link, p)
	<-link.Done()
	over()
}

// boundStrangers makes room for an agent's link that has yet to register.
func (s *Server) boundStrangers(workspaceID string, link *control.Link) {
	if surplus := s.presence.arrived(workspaceID, link); surplus != nil {
		_ = surplus.Close(disconnect.Goodbye{ // keeps the first cause
			Reason: disconnect.LimitExceeded, Initiator: disconnect.Server,
			Detail: "newer agents of this workspace wait to register",
		})
	}
}

// leftBehind writes down that a link has ended.
func (s *Server) leftBehind(link *control.Link, row *connlog.LinkRow, ending disconnect.Attribution, facts []verdict.Fact) {
	switch id := link.Peer(); id.Kind {
	case control.RelayPeer:
		s.relays.ended(link, link.Ending())
		return
	case control.AgentPeer:
		defer s.presence.ended(id.ID, link, ending)
		defer s.agentEnded(context.Background(), id.ID, link.PeerInstance(), ending)
		if own := link.Ending().Attribution; ending.Reason == disconnect.WorkspaceEvicted && own.Reason != ending.Reason {
			s.orders.evicted(id.ID, lostLink{row: row, instance: link.PeerInstance(), ending: own})
		}
	}
	row.Ended(s.opts.Now(), ending, facts...)
}

// linkMissing is how long after it was last heard it can be noticed that a peer is not:
// after a heartbeat, and a moment.
const linkMissing = 5 * time.Second

// ownDoing is how a control link ended that nobody said goodbye on, and what the server saw
// of its own host: when that stood still, or had no network, the peer did nothing.
func (s *Server) ownDoing(link *control.Link, ending disconnect.Attribution) (disconnect.Attribution, []verdict.Fact) {
	switch ending.Reason {
	case disconnect.NetworkTimeout, disconnect.NetworkError, disconnect.ConnectionReset, disconnect.NetworkUnreachable,
		disconnect.PeerUnresponsive:
	default:
		return ending, nil
	}
	heard := link.LastHeard()
	own, known := s.host.Explain(disconnect.Server, ending.ConnectType, heard, heard.Add(linkMissing), control.Patience(ending))
	if !known {
		return ending, nil
	}
	return own, s.host.Facts(heard.Add(-hostwatch.Before))
}

// logLink opens the link's row in the connection log.
func (s *Server) logLink(link *control.Link, p auth.Principal, remote string) *connlog.LinkRow {
	l := s.linkOf(p, remote)
	l.ID, l.ClientVersion, l.Heard = link.ConnectionID(), link.PeerVersion(), link.LastHeard
	if p.Kind == auth.KindAgent {
		l.Instance = link.PeerInstance()
	}
	return s.connlog.LinkOpened(l)
}

// linkOf is a link of p that begins now, as far as p says what it is.
func (s *Server) linkOf(p auth.Principal, remote string) connlog.Link {
	l := connlog.Link{ConnectType: disconnect.ClientToServer, IP: hostOf(remote), ConnectedAt: s.opts.Now()}
	if p.Kind == auth.KindAgent {
		l.ConnectType = disconnect.ServerToAgent
		l.Workspace = store.LoggedWorkspace{ID: p.WorkspaceID, Name: p.WorkspaceName, Owner: store.LoggedUser{ID: p.UserID, Name: p.UserName}}
	} else {
		l.User = store.LoggedUser{ID: p.UserID, Name: p.UserName}
	}
	return l
}

// nodeAdmitted notes which node a control link is that of a client: its sessions are known
// by that.
func (s *Server) nodeAdmitted(id control.Identity, node proto.NodeKey) {
	if id.Kind == control.ClientPeer {
		s.connlog.LinkOf(id.ConnectionID, node.Address().String())
	}
}

// hostOf is an address without its port.
func hostOf(remote string) string {
	if host, _, err := net.SplitHostPort(remote); err == nil {
		return host
	}
	return remote
}

// untilExpired returns when a link has ended, or else ends what its token began once
// that has expired.
func (s *Server) untilExpired(link *control.Link, p auth.Principal) {
	timer := time.NewTimer(p.ExpiresAt.Sub(s.opts.Now()))
	defer timer.Stop()
	select {
	case <-link.Done():
	case <-timer.C:
		s.endToken(p.UserID, p.TokenID, expired())
	}
}
