package connlog

import (
	"context"
	"time"

	"github.com/google/uuid"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/server/store"
)

// Link is one control link that the server has accepted.
type Link struct {
	// ConnectType is ServerToAgent, with a workspace, or ClientToServer, with a user.
	ConnectType   disconnect.ConnectType
	Workspace     store.LoggedWorkspace
	User          store.LoggedUser
	IP            string
	ClientVersion string
	ConnectedAt   time.Time
}

// LinkRow is the row of a control link that is open.
type LinkRow struct {
	log *Log
	row store.Connection
}

// ID is the connection's id.
func (r *LinkRow) ID() string { return r.row.ID }

// LinkOpened adds the row of a control link. When the row cannot be stored now, its end
// stores all of it.
func (l *Log) LinkOpened(ctx context.Context, link Link) (*LinkRow, error) {
	r := &LinkRow{log: l, row: store.Connection{
		ID: uuid.NewString(), ConnectType: link.ConnectType, Type: store.TypeControl,
		Workspace: link.Workspace, User: link.User, Instance: l.cfg.Instance,
		IP: link.IP, ClientVersion: link.ClientVersion, ConnectedAt: link.ConnectedAt, Status: store.StatusOpen,
	}}
	return r, l.write(ctx, func(ctx context.Context, tx *store.ConnTx) ([]store.Connection, error) {
		row := r.row
		return nil, tx.Insert(ctx, &row)
	})
}

// Ended closes the row. Call it once.
func (r *LinkRow) Ended(ctx context.Context, at time.Time, ending disconnect.Attribution) error {
	return r.log.write(ctx, func(ctx context.Context, tx *store.ConnTx) ([]store.Connection, error) {
		row := r.row
		closeRow(&row, at, ending)
		stored, err := tx.ByID(ctx, row.ID)
		if err != nil {
			return []store.Connection{row}, tx.Insert(ctx, &row)
		}
		row.Key = stored.Key
		return []store.Connection{row}, tx.Update(ctx, &row)
	})
}
