package store

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"fairlead.dev/fairlead/disconnect"
)

// Interruption is a time in which a connection's client was silent, and that the
// connection survived.
type Interruption struct {
	Began    time.Time // by the server's clock
	Observed time.Time // the same moment by the agent's
	Duration time.Duration
	// Attribution says why; its connect type is the connection's.
	Attribution disconnect.Attribution
}

// maxInterruptions bounds those of one connection. The first are kept.
const maxInterruptions = 100

// InsertInterruption adds an interruption to a connection, unless it is there already or
// the connection has too many.
func (t *ConnTx) InsertInterruption(ctx context.Context, key int64, i Interruption) error {
	_, err := t.exec(ctx, `INSERT INTO connection_interruptions
		(connection, observed_at, began_at, lasted, reason, initiator, expected, detail)
		SELECT $1, $2, $3, $4, $5, $6, $7, $8
		WHERE (SELECT COUNT(*) FROM connection_interruptions WHERE connection = $1) < $9
		ON CONFLICT (connection, observed_at) DO NOTHING`,
		key, micros(i.Observed), micros(i.Began), max(0, i.Duration.Microseconds()), int(i.Attribution.Reason),
		int(i.Attribution.Initiator), i.Attribution.Expected(), disconnect.Scrub(i.Attribution.Detail), maxInterruptions)
	if err != nil {
		return fmt.Errorf("insert interruption: %w", err)
	}
	return nil
}

// AddInterruptions reads those of the given rows into them, oldest first.
func (s *Store) AddInterruptions(ctx context.Context, rows []Connection) error {
	const batch = 500
	for part := range slices.Chunk(rows, batch) {
		if err := s.addInterruptions(ctx, part); err != nil {
			return fmt.Errorf("list interruptions: %w", err)
		}
	}
	return nil
}

func (s *Store) addInterruptions(ctx context.Context, part []Connection) error {
	byKey := make(map[int64]*Connection, len(part))
	places, args := make([]string, len(part)), make([]any, len(part))
	for i := range part {
		byKey[part[i].Key], part[i].Interruptions = &part[i], nil
		places[i], args[i] = "$"+strconv.Itoa(i+1), part[i].Key
	}
	rows, err := s.read.QueryContext(ctx, `SELECT connection, observed_at, began_at, lasted, reason, initiator, detail
		FROM connection_interruptions WHERE connection IN (`+strings.Join(places, ", ")+`) ORDER BY connection, observed_at`, args...)
	if err != nil {
		return err
	}
	_, err = collect(rows, func(scan func(...any) error) (none struct{}, err error) {
		var key, observed, began, lasted int64
		var i Interruption
		if err := scan(&key, &observed, &began, &lasted, &i.Attribution.Reason, &i.Attribution.Initiator, &i.Attribution.Detail); err != nil {
			return none, err
		}
		c := byKey[key]
		i.Observed, i.Began, i.Duration = fromMicros(observed), fromMicros(began), time.Duration(lasted)*time.Microsecond
		i.Attribution.ConnectType = c.ConnectType
		c.Interruptions = append(c.Interruptions, i)
		return none, nil
	})
	return err
}
