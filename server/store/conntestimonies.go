package store

import (
	"context"
	"fmt"
	"time"

	"fairlead.dev/fairlead/disconnect"
)

// RawTestimony is what one observer testified of a connection, as it came.
type RawTestimony struct {
	ID        string // given by the observer
	Observer  disconnect.Initiator
	Principal string // who was authenticated as the sender
	Received  time.Time
	Body      []byte // JSON
}

// maxTestimonies bounds those of one observer of one connection, so that nobody leaves no
// place for the others. The first are kept.
const (
	maxTestimonies = 16
	maxOwn         = 64 // of the server's own, which sees every loss of a link in a long session
)

// InsertTestimony adds a testimony to a connection. One of the same observer and id that
// is there stays as it is. It reports whether it was added.
func (t *ConnTx) InsertTestimony(ctx context.Context, key int64, raw RawTestimony) (added bool, err error) {
	most := maxTestimonies
	if raw.Observer == disconnect.Server {
		most = maxOwn
	}
	res, err := t.exec(ctx, `INSERT INTO testimonies (connection, observer, testimony, principal, received_at, body)
		SELECT $1, $2, $3, $4, $5, $6
		WHERE (SELECT COUNT(*) FROM testimonies WHERE connection = $1 AND observer = $2) < $7
		ON CONFLICT (connection, observer, testimony) DO NOTHING`,
		key, int(raw.Observer), raw.ID, raw.Principal, micros(raw.Received), string(raw.Body), most)
	if err != nil {
		return false, fmt.Errorf("insert testimony: %w", err)
	}
	n, err := res.RowsAffected()
	return n > 0, err
}

const selectTestimonies = `SELECT testimony, observer, principal, received_at, body FROM testimonies WHERE connection = $1 ORDER BY no`

func scanTestimony(scan func(dest ...any) error) (raw RawTestimony, err error) {
	var received int64
	var body string
	err = scan(&raw.ID, &raw.Observer, &raw.Principal, &received, &body)
	raw.Received, raw.Body = fromMicros(received), []byte(body)
	return raw, err
}

// Testimonies returns those of a connection, in the order in which they came.
func (r ConnReader) Testimonies(ctx context.Context, key int64) ([]RawTestimony, error) {
	rows, err := r.query(ctx, selectTestimonies, key)
	if err != nil {
		return nil, fmt.Errorf("list testimonies: %w", err)
	}
	return collect(rows, scanTestimony)
}

// Testimonies returns those of a connection, in the order in which they came.
func (s *Store) Testimonies(ctx context.Context, key int64) ([]RawTestimony, error) {
	return s.ConnReader().Testimonies(ctx, key)
}
