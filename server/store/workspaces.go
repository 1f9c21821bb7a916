package store

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"fairlead.dev/fairlead/disconnect"
)

// Workspace is a remote machine with one agent.
type Workspace struct {
	ID             string // UUID
	OwnerID        string
	OwnerName      string // read only: the owner's name
	Name           string // unique for its owner
	AgentTokenHash string // hex SHA-256, unique
	SSHHostKey     string // pinned; empty until the agent's first registration
	CreatedAt      time.Time
	Agent          AgentState
	Orders         Orders
	Settings       Settings
}

// AgentState is the last that is known of a workspace's agent.
type AgentState struct {
	// Online: the control link of Instance was open when this was written.
	Online   bool
	Instance string
	// SeenAt is when the link was last known to be open; zero: never.
	SeenAt time.Time
	// Ending tells how the last link ended; the zero value when none did yet.
	Ending disconnect.Attribution
}

const workspaceColumns = `workspaces.id, workspaces.owner_id, users.name, workspaces.name,
	workspaces.agent_token_hash, workspaces.ssh_host_key, workspaces.created_at,
	workspaces.agent_online, workspaces.agent_instance, workspaces.agent_seen_at,
	workspaces.ending_reason, workspaces.ending_initiator, workspaces.ending_detail, ` + ordersColumns + `, ` + settingsColumns

const workspaceFrom = ` FROM workspaces JOIN users ON users.id = workspaces.owner_id`

// scanWorkspace reads a row of workspaceColumns.
func scanWorkspace(scan func(dest ...any) error) (Workspace, error) {
	var (
		w                 Workspace
		created           int64
		seen              sql.NullInt64
		reason, initiator sql.Null[uint8]
		detail            string
		orders            scannedOrders
		settings          scannedSettings
	)
	err := scan(append([]any{&w.ID, &w.OwnerID, &w.OwnerName, &w.Name, &w.AgentTokenHash, &w.SSHHostKey, &created,
		&w.Agent.Online, &w.Agent.Instance, &seen, &reason, &initiator, &detail}, append(orders.dest(), settings.dest()...)...)...)
	if err != nil {
		return Workspace{}, err
	}
	if w.Settings, err = settings.settings(); err != nil {
		return Workspace{}, err
	}
	w.Orders = orders.orders()
	w.CreatedAt, w.Agent.SeenAt = fromMicros(created), fromNullMicros(seen)
	if reason.Valid {
		w.Agent.Ending = disconnect.Attribution{
			ConnectType: disconnect.ServerToAgent,
			Reason:      disconnect.Reason(reason.V),
			Initiator:   disconnect.Initiator(initiator.V),
			Detail:      detail,
		}
	}
	return w, nil
}

// CreateWorkspace stores w without any agent state. A name that its owner has already
// is ErrConflict.
func (s *Store) CreateWorkspace(ctx context.Context, w Workspace) error {
	err := s.insert(ctx, s.write,
		`INSERT INTO workspaces (id, owner_id, name, agent_token_hash, created_at) VALUES ($1, $2, $3, $4, $5)`,
		w.ID, w.OwnerID, w.Name, w.AgentTokenHash, micros(w.CreatedAt))
	if err != nil {
		return fmt.Errorf("create workspace %s: %w", w.Name, err)
	}
	return nil
}

func (s *Store) workspace(ctx context.Context, where string, args ...any) (Workspace, error) {
	w, err := scanWorkspace(s.read.QueryRowContext(ctx, `SELECT `+workspaceColumns+workspaceFrom+where, args...).Scan)
	if err != nil {
		return Workspace{}, fmt.Errorf("look up workspace: %w", scanned(err))
	}
	return w, nil
}

// WorkspaceByID returns one workspace, or ErrNotFound.
func (s *Store) WorkspaceByID(ctx context.Context, id string) (Workspace, error) {
	return s.workspace(ctx, ` WHERE workspaces.id = $1`, id)
}

// WorkspaceByName returns the workspace of that name of one owner, both by name, or
// ErrNotFound.
func (s *Store) WorkspaceByName(ctx context.Context, owner, name string) (Workspace, error) {
	return s.workspace(ctx, ` WHERE users.name = $1 AND workspaces.name = $2`, owner, name)
}

// WorkspaceByAgentToken returns the workspace whose agent has the token with that
// hash, or ErrNotFound.
func (s *Store) WorkspaceByAgentToken(ctx context.Context, hash string) (Workspace, error) {
	return s.workspace(ctx, ` WHERE workspaces.agent_token_hash = $1`, hash)
}

// Workspaces returns the workspaces that one user owns or that are shared with them
// (every workspace when userID is empty) in the order of owner and name.
func (s *Store) Workspaces(ctx context.Context, userID string) ([]Workspace, error) {
	rows, err := s.read.QueryContext(ctx, `SELECT `+workspaceColumns+workspaceFrom+
		` WHERE $1 = '' OR workspaces.owner_id = $1
		   OR workspaces.id IN (SELECT workspace_id FROM shares WHERE user_id = $1)
		  ORDER BY users.name, workspaces.name`, userID)
	if err != nil {
		return nil, fmt.Errorf("list workspaces: %w", err)
	}
	defer rows.Close()
	var all []Workspace
	for rows.Next() {
		w, err := scanWorkspace(rows.Scan)
		if err != nil {
			return nil, fmt.Errorf("list workspaces: %w", err)
		}
		all = append(all, w)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("list workspaces: %w", err)
	}
	return all, nil
}

// DeleteWorkspace removes a workspace with its shares, or returns ErrNotFound.
func (s *Store) DeleteWorkspace(ctx context.Context, id string) error {
	if err := s.withdrawOne(ctx, `DELETE FROM workspaces WHERE id = $1`, id); err != nil {
		return fmt.Errorf("delete workspace: %w", err)
	}
	return nil
}

// SetAgentToken replaces the agent token of a workspace, or returns ErrNotFound.
func (s *Store) SetAgentToken(ctx context.Context, id, hash string) error {
	if err := s.withdrawOne(ctx, `UPDATE workspaces SET agent_token_hash = $1 WHERE id = $2`, hash, id); err != nil {
		return fmt.Errorf("set agent token: %w", err)
	}
	return nil
}

// AgentConnected records that the control link of an agent's instance opened.
func (s *Store) AgentConnected(ctx context.Context, id, instance string, at time.Time) error {
	err := affectOne(ctx, s.write,
		`UPDATE workspaces SET agent_online = TRUE, agent_instance = $1, agent_seen_at = $2 WHERE id = $3`,
		instance, micros(at), id)
	if err != nil {
		return fmt.Errorf("record agent connection: %w", err)
	}
	return nil
}

// AgentEnded records how the control link of an agent ended, or returns ErrNotFound.
func (s *Store) AgentEnded(ctx context.Context, id string, at time.Time, ending disconnect.Attribution) error {
	err := affectOne(ctx, s.write,
		`UPDATE workspaces SET agent_online = FALSE, agent_seen_at = $1,
		        ending_reason = $2, ending_initiator = $3, ending_detail = $4
		 WHERE id = $5`,
		micros(at), int(ending.Reason), int(ending.Initiator), disconnect.Scrub(ending.Detail), id)
	if err != nil {
		return fmt.Errorf("record agent ending: %w", err)
	}
	return nil
}

// EndAllAgents records one ending for every agent that is marked online, at the last
// sign of life of the server ([Store.Alive]) or, if that is later, when the agent came,
// and returns how many there were: what is left of a server that died without a word.
func (s *Store) EndAllAgents(ctx context.Context, ending disconnect.Attribution) (int64, error) {
	res, err := s.write.ExecContext(ctx,
		`UPDATE workspaces SET agent_online = FALSE,
		        agent_seen_at = (SELECT CASE WHEN alive.at > agent_seen_at THEN alive.at ELSE agent_seen_at END
		            FROM (SELECT COALESCE((SELECT CAST(value AS BIGINT) FROM settings WHERE name = $4), 0) AS at) AS alive),
		        ending_reason = $1, ending_initiator = $2, ending_detail = $3
		 WHERE agent_online`,
		int(ending.Reason), int(ending.Initiator), disconnect.Scrub(ending.Detail), aliveAt)
	if err != nil {
		return 0, fmt.Errorf("record agent endings: %w", err)
	}
	return res.RowsAffected()
}
