package server

import (
	"context"
	"log/slog"
	"time"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/server/store"
)

// Names of the events that a server tells of the connections in its log.
const (
	EventOpened = "fairlead.connection.opened"
	EventClosed = "fairlead.connection.closed"
)

// events tells [Options.Event] of connections.
type events struct {
	tell func(ctx context.Context, name string, at time.Time, level slog.Level, attrs ...slog.Attr)
}

// changed tells of a row of the connection log.
func (e events) changed(c store.Connection) {
	switch {
	case e.tell == nil:
	case c.Status == store.StatusClosed:
		e.closed(c)
	default:
		e.opened(c)
	}
}

// opened tells that a connection is in the log, or, with a revision above zero, that it
// lives after all.
func (e events) opened(c store.Connection) {
	e.tell(context.Background(), EventOpened, c.ConnectedAt, slog.LevelInfo, connectionAttrs(c,
		slog.String(disconnect.KeyConnectType, c.ConnectType.String()), slog.Int("revision", c.Revision))...)
}

// closed tells how a connection has ended. An ending that a better one may replace is
// provisional, and the better one has a higher revision.
func (e events) closed(c store.Connection) {
	level := slog.LevelInfo
	if !c.Ending.Expected() {
		level = slog.LevelWarn
	}
	attrs := connectionAttrs(c,
		c.Ending.Attr(), slog.Duration("duration", c.DisconnectedAt.Sub(c.ConnectedAt)),
		slog.Int64("bytes_sent", c.BytesSent), slog.Int64("bytes_received", c.BytesReceived),
		slog.Int("revision", c.Revision), slog.Bool("provisional", c.Provisional))
	if c.ExitCode != nil {
		attrs = append(attrs, slog.Int("exit_code", *c.ExitCode))
	}
	e.tell(context.Background(), EventClosed, c.DisconnectedAt, level, attrs...)
}

// connectionAttrs are what identifies a connection, and more.
func connectionAttrs(c store.Connection, more ...slog.Attr) []slog.Attr {
	return append(more,
		slog.String("connection_id", c.ID), slog.String("type", c.Type.String()), slog.String("app", c.App),
		slog.String("workspace_id", c.Workspace.ID), slog.String("workspace", c.Workspace.Name), slog.String("user", c.User.Name),
		slog.String("ip", c.IP), slog.String("path", c.Path.String()), slog.String("client_version", c.ClientVersion))
}
