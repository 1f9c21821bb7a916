package server

import (
	"context"
	"slices"
	"time"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/explain"
	"fairlead.dev/fairlead/disconnect/verdict"
	"fairlead.dev/fairlead/sdk"
	"fairlead.dev/fairlead/server/auth"
	"fairlead.dev/fairlead/server/connlog"
	"fairlead.dev/fairlead/server/store"
)

// explained says in plain language what the verdict on a row means, or what the row says if
// nobody has testified of it: for one that is open, of its last interruption. nil: there
// was none.
func (s *Server) explained(ctx context.Context, row store.Connection, v verdict.Verdict, testified bool, p auth.Principal) (*sdk.Explanation, error) {
	if !testified || row.Status != store.StatusClosed && !ofTheLast(v, row.Interruptions) {
		v = asLogged(row)
	}
	if v.Kind == "" {
		return nil, nil // it is open, and always was
	}
	viewer := explain.Viewer{Mine: row.User.ID == p.UserID, User: row.User.Name, Workspace: row.Workspace.Name}
	if row.Workspace.Owner.ID != p.UserID && row.Workspace.Name != "" {
		viewer.Workspace = row.Workspace.Owner.Name + "/" + row.Workspace.Name
	}
	var err error
	if viewer.Terminal, err = s.terminalLives(ctx, row); err != nil {
		return nil, err
	}
	e := explain.Tell(v, explain.Frame{Opened: row.ConnectedAt, Ended: row.DisconnectedAt, Path: row.Path.String()}, viewer, s.opts.Now())
	return &e, nil
}

// incident is the event that others were lost by too, as p may see it; nil: there was none.
func (s *Server) incident(ctx context.Context, row store.Connection, v verdict.Verdict, p auth.Principal) (*sdk.Incident, error) {
	in, err := connlog.IncidentOf(ctx, s.store.ConnReader(), row, v, s.opts.Now())
	if in == nil || err != nil {
		return nil, err
	}
	seen := in.For(func(id string) bool {
		i := slices.IndexFunc(in.Connections, func(c store.Connection) bool { return c.ID == id })
		c := in.Connections[i]
		return p.IsAdmin() || c.User.ID == p.UserID || c.Workspace.Owner.ID == p.UserID
	})
	return &sdk.Incident{
		Element: sdk.IncidentElement{Kind: string(seen.Element.Kind), Name: elementName(seen.Element.Kind, row)},
		Began:   seen.Began, Noticed: seen.Noticed, Connections: seen.Connections, Others: seen.Others,
		Reason: seen.Reason.String(), Initiator: seen.Initiator.String(),
	}, nil
}

// elementName is what people call the element of that kind which a connection needed.
func elementName(kind verdict.ElementKind, row store.Connection) string {
	switch kind {
	case verdict.AgentElement:
		return row.Workspace.Owner.Name + "/" + row.Workspace.Name
	case verdict.ClientElement:
		return row.User.Name
	case verdict.PathElement:
		return row.IP
	}
	return ""
}

// ofTheLast reports whether a verdict is on the last of several interruptions.
func ofTheLast(v verdict.Verdict, all []store.Interruption) bool {
	n := len(all)
	return v.Kind == verdict.Interruption && n > 0 && v.Over.After(all[n-1].Began)
}

// asLogged is what the row itself says: of its end, or of its last interruption while it
// is open. Without either it has no kind.
func asLogged(row store.Connection) verdict.Verdict {
	v := verdict.Verdict{ConnectionID: row.ID, Rule: verdict.R11, Final: true}
	switch n := len(row.Interruptions); {
	case row.Status == store.StatusClosed:
		v.Kind, v.Attribution, v.Final = verdict.Ending, row.Ending, !row.Provisional
		v.Noticed = row.DisconnectedAt
		if row.ExitCode != nil {
			code := int32(*row.ExitCode)
			v.ExitCode = &code
		}
	case n > 0:
		last := row.Interruptions[n-1]
		v.Kind, v.Attribution = verdict.Interruption, last.Attribution
		v.Began, v.Over = last.Began, last.Began.Add(last.Duration)
		v.Noticed = v.Began
	}
	v.ConnectType = row.ConnectType
	return v
}

// terminalLives reports whether the user of a session has a terminal in its workspace that
// goes on without anybody attached: the same agent still runs, and what ended the last
// attachment was not the end of the terminal.
func (s *Server) terminalLives(ctx context.Context, row store.Connection) (bool, error) {
	instance := s.presence.instanceOf(row.Workspace.ID)
	if row.ConnectType != disconnect.AgentToClient || instance == "" {
		return false, nil
	}
	kind := store.TypeReconnectingPTY
	last, err := s.store.Connections(ctx, store.ConnFilter{
		WorkspaceName: row.Workspace.Name, OwnerName: row.Workspace.Owner.Name, UserName: row.User.Name, Type: &kind, Limit: 1,
		Since: s.opts.Now().Add(-terminalsSince),
	})
	if err != nil || len(last) == 0 || last[0].Instance != instance || last[0].User.ID != row.User.ID {
		return false, err
	}
	if last[0].Status != store.StatusClosed {
		return true, nil
	}
	switch last[0].Ending.Reason {
	case disconnect.ClientClosed, disconnect.Suspended, disconnect.SessionReplaced, disconnect.NetworkError, disconnect.NetworkTimeout,
		disconnect.NetworkUnreachable, disconnect.ConnectionReset, disconnect.RelayLost, disconnect.HostPaused:
		return true, nil
	case disconnect.PeerCrashed, disconnect.PeerUnresponsive:
		return last[0].Ending.Initiator == disconnect.Client, nil
	}
	return false, nil
}

// terminalsSince bounds how far back an attachment is looked for.
const terminalsSince = 30 * 24 * time.Hour
