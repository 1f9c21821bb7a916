package inject

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"time"

	"fairlead.dev/fairlead/tests/faults/netlab"
)

// Garbage is a connection that should not be.
type Garbage struct {
	*Injection
	conn net.Conn
}

// SendGarbage connects from a host and sends those bytes: no protocol's, or half of one for
// a dial that never ends. The connection stays open until the undo.
func SendGarbage(ctx context.Context, from *netlab.Host, address string, bytes []byte) (*Garbage, error) {
	g := &Garbage{}
	var err error
	g.Injection, err = inject(ctx, Truth{Fault: "garbage bytes", Whom: from.Name + "->" + address},
		func(ctx context.Context) error {
			if g.conn, err = from.Dial(ctx, "tcp4", address); err != nil {
				return err
			}
			_, err = g.conn.Write(bytes)
			return err
		},
		func(context.Context) error {
			if g.conn == nil {
				return nil
			}
			return g.conn.Close()
		})
	if err != nil {
		return nil, err
	}
	return g, nil
}

// Answer returns what came back until the other side ended the connection, or limit is
// over; ended says which.
func (g *Garbage) Answer(limit time.Duration) (answer string, ended bool, err error) {
	if err := g.conn.SetReadDeadline(time.Now().Add(limit)); err != nil {
		return "", false, err
	}
	all, err := io.ReadAll(g.conn)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return string(all), false, nil
	}
	return string(all), true, err
}
