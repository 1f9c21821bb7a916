package server

import (
	"context"
	"errors"
	"net/http"
	"regexp"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"fairlead.dev/fairlead/control"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/verdict"
	"fairlead.dev/fairlead/sdk"
	"fairlead.dev/fairlead/server/auth"
	"fairlead.dev/fairlead/server/store"
)

const (
	// killWait is how long who ends a connection waits to see it ended.
	killWait = 3 * time.Second
	// deleteWait is how long the agent of a workspace that is deleted has to end its
	// sessions and to report them; after that they end without its help.
	deleteWait = time.Second
	// maxNotice is how far ahead a platform can give notice.
	maxNotice = 30 * 24 * time.Hour
)

// ends knows the control links that are rows of the connection log, and who waits for
// the end of a row. All methods are safe for concurrent use.
type ends struct {
	mu      sync.Mutex // guards all below
	links   map[string]*control.Link
	waiting map[string][]chan struct{} // closed at the end
}

func newEnds() *ends {
	return &ends{links: make(map[string]*control.Link), waiting: make(map[string][]chan struct{})}
}

// opened takes note of the link of a row; over must be called when it has ended.
func (e *ends) opened(id string, link *control.Link) (over func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.links[id] = link
	return func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.links, id)
	}
}

// link returns the link of a row, nil if it is not there any more.
func (e *ends) link(id string) *control.Link {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.links[id]
}

// await returns a channel that is closed when a row is closed; leave must be called.
func (e *ends) await(id string) (closed <-chan struct{}, leave func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	ch := make(chan struct{})
	e.waiting[id] = append(e.waiting[id], ch)
	return ch, func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		left := e.waiting[id][:0]
		for _, other := range e.waiting[id] {
			if other != ch {
				left = append(left, other)
			}
		}
		if e.waiting[id] = left; len(left) == 0 {
			delete(e.waiting, id)
		}
	}
}

// ended tells who waits that a row was closed.
func (e *ends) ended(id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, ch := range e.waiting[id] {
		close(ch)
	}
	delete(e.waiting, id)
}

// postStop stops a workspace: its sessions end, and no new ones begin until postStart.
// An agent that is away is told when it is back.
func (s *Server) postStop(w http.ResponseWriter, r *http.Request, p auth.Principal) error {
	return s.changeStop(w, r, p, "workspace stopped", func(ws store.Workspace) (bool, error) {
		return s.store.StopWorkspace(r.Context(), ws.ID, p.UserName, s.opts.Now())
	})
}

// postStart lets sessions into a workspace again.
func (s *Server) postStart(w http.ResponseWriter, r *http.Request, p auth.Principal) error {
	return s.changeStop(w, r, p, "workspace started", func(ws store.Workspace) (bool, error) {
		return s.store.StartWorkspace(r.Context(), ws.ID)
	})
}

func (s *Server) changeStop(w http.ResponseWriter, r *http.Request, p auth.Principal, done string, change func(store.Workspace) (bool, error)) error {
	ws, err := s.managed(r, p)
	if err != nil {
		return err
	}
	changed, err := change(ws)
	if err != nil {
		return err
	}
	if changed {
		s.logger.InfoContext(r.Context(), done, "workspace", ws.OwnerName+"/"+ws.Name, "workspace_id", ws.ID, "by", p.UserName)
	}
	s.orders.changed(ws.ID)
	if ws, err = s.store.WorkspaceByID(r.Context(), ws.ID); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, sdk.WorkspaceChange{Workspace: s.workspaceOut(ws), Changed: changed})
	return nil
}

var noticeKind = regexp.MustCompile(`^[a-z][a-z0-9_]{0,31}$`)

// postNotice takes a platform's word that the workspace's host will be gone.
func (s *Server) postNotice(w http.ResponseWriter, r *http.Request, p auth.Principal) error {
	ws, err := s.managed(r, p)
	if err != nil {
		return err
	}
	var req sdk.NoticeRequest
	if err := readJSON(r, &req); err != nil {
		return err
	}
	now := s.opts.Now()
	switch {
	case !noticeKind.MatchString(req.Kind):
		return invalid("the kind is one word as in preempted: 1 to 32 of a-z, 0-9 and _, the first a letter")
	case !req.Deadline.After(now):
		return invalid("the deadline is over: a notice tells of what is to come")
	case req.Deadline.After(now.Add(maxNotice)):
		return invalid("the deadline is more than 30 days away")
	}
	return s.setNotice(w, r, p, ws, store.Notice{Kind: req.Kind, At: now, Deadline: req.Deadline})
}

// deleteNotice takes it back.
func (s *Server) deleteNotice(w http.ResponseWriter, r *http.Request, p auth.Principal) error {
	ws, err := s.managed(r, p)
	if err != nil {
		return err
	}
	if ws.Orders.Notice.Kind == "" {
		return notFound("no notice was given for the workspace")
	}
	return s.setNotice(w, r, p, ws, store.Notice{})
}

func (s *Server) setNotice(w http.ResponseWriter, r *http.Request, p auth.Principal, ws store.Workspace, n store.Notice) error {
	if err := s.store.SetNotice(r.Context(), ws.ID, n); err != nil {
		return err
	}
	ws.Orders.Notice = n
	s.orders.notice(ws.ID, n) // from now on, whether or not the agent hears of it
	s.orders.changed(ws.ID)
	s.logger.InfoContext(r.Context(), "platform notice", "workspace", ws.OwnerName+"/"+ws.Name, "workspace_id", ws.ID, "by", p.UserName,
		"kind", n.Kind, "deadline", n.Deadline)
	writeJSON(w, http.StatusOK, s.workspaceOut(ws))
	return nil
}

var errNoConnection = notFound("there is no such connection, or no right to see it")

// postKill ends one connection. It answers with the row, which is closed unless the
// agent needs longer than killWait.
func (s *Server) postKill(w http.ResponseWriter, r *http.Request, p auth.Principal) error {
	id := r.PathValue("id")
	if len(id) != idLen || uuid.Validate(id) != nil {
		return errNoConnection
	}
	closed, leave := s.ends.await(id) // before the look at the row, which may close meanwhile
	defer leave()
	row, err := s.connection(r.Context(), p, id)
	if err != nil {
		return err
	}
	if !p.IsAdmin() && row.Workspace.Owner.ID != p.UserID {
		return notFound("only an admin, or the owner of the workspace, may end this connection")
	}
	if row.Status == store.StatusClosed {
		return conflict("the connection has ended already: " + row.Ending.Reason.String() + " by " + row.Ending.Initiator.String())
	}
	g := disconnect.Goodbye{Reason: disconnect.AdminTerminated, Initiator: disconnect.Server, Detail: "ended by " + p.UserName}
	if err := s.kill(row, g); err != nil {
		return err
	}
	s.logger.InfoContext(r.Context(), "connection is to end", "connection_id", id, "by", p.UserName)
	timer := time.NewTimer(killWait)
	defer timer.Stop()
	select {
	case <-closed:
	case <-timer.C:
	case <-r.Context().Done():
	}
	if row, err = s.connection(r.Context(), p, id); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, s.connectionOut(row))
	return nil
}

// connection returns the row with that id if p may see it.
func (s *Server) connection(ctx context.Context, p auth.Principal, id string) (store.Connection, error) {
	if len(id) != idLen || !idForm.MatchString(id) {
		return store.Connection{}, errNoConnection
	}
	rows, err := s.store.Connections(ctx, store.ConnFilter{For: visibleTo(p), IDPrefix: id, Limit: 1})
	if err == nil && len(rows) == 0 {
		err = errNoConnection
	}
	if err != nil {
		return store.Connection{}, err
	}
	return rows[0], nil
}

// kill ends a control link itself, and has the agent end anything else.
func (s *Server) kill(row store.Connection, g disconnect.Goodbye) error {
	if row.Type == store.TypeControl {
		link := s.ends.link(row.ID)
		if link == nil {
			return conflict("the connection has just ended")
		}
		_ = link.Close(g) // keeps the first cause
		return nil
	}
	if _, online := s.presence.since(row.Workspace.ID); !online {
		return conflict("the agent of workspace " + row.Workspace.Name + " is offline and cannot be told; its session goes on if it still lives")
	}
	s.orders.end(row.Workspace.ID, row.ID, g)
	return nil
}

// endOrphan has the agent end a session whose client is known to have died: nobody can
// come back to it, and the agent would keep it for the outage limit.
func (s *Server) endOrphan(row store.Connection, t verdict.Testimony) {
	if row.Status == store.StatusClosed || row.ConnectType != disconnect.AgentToClient {
		return
	}
	i := slices.IndexFunc(t.Facts, func(f verdict.Fact) bool {
		return f.Kind == verdict.Obituary && (f.About == disconnect.InitiatorUnknown || f.About == disconnect.Client)
	})
	if i >= 0 {
		s.orders.end(row.Workspace.ID, row.ID, disconnect.Goodbye{Reason: disconnect.PeerCrashed, Initiator: disconnect.Client, Detail: t.Facts[i].Text})
	}
}

// drain has the agent of a workspace that is being deleted end its sessions, and waits
// a moment for its reports: nobody takes them later.
func (s *Server) drain(ctx context.Context, ws store.Workspace, g disconnect.Goodbye) (over func()) {
	over = s.orders.deleting(ws.ID, g)
	if _, online := s.presence.since(ws.ID); !online {
		return over
	}
	ctx, cancel := context.WithTimeout(ctx, deleteWait)
	defer cancel()
	tick := time.NewTicker(deleteWait / 20)
	defer tick.Stop()
	for {
		rows, err := s.store.Connections(ctx, store.ConnFilter{
			OwnerName: ws.OwnerName, WorkspaceName: ws.Name, ConnectType: disconnect.AgentToClient, Status: store.StatusOpen, Limit: 1,
		})
		if err != nil || len(rows) == 0 {
			return over
		}
		select {
		case <-ctx.Done():
			return over
		case <-tick.C:
		}
	}
}

// agentEnded follows the end of an agent's link of which its connections' ends follow,
// and of which that agent may tell nothing any more.
func (s *Server) agentEnded(ctx context.Context, workspaceID, instance string, ending disconnect.Attribution) {
	switch ending.Reason {
	case disconnect.WorkspaceEvicted, disconnect.AuthRevoked, disconnect.WorkspaceStopped:
	default:
		return
	}
	err := s.connlog.EndConnections(ctx, workspaceID, instance, ending, true)
	if err != nil && !errors.Is(err, context.Canceled) {
		s.logger.ErrorContext(ctx, "cannot record the ends of an agent's connections", "workspace_id", workspaceID, "error", err)
	}
}
