package main

import (
	"bufio"
	"context"
	"encoding/json"
	"sync"
	"time"

	"fairlead.dev/fairlead/sdk"
)

// watch follows the connection log for as long as the scenario runs, over the server's
// deaths, and notes when it heard each row.
type watch struct {
	mu    sync.Mutex // guards heard
	heard []heard
}

// heard is a row as it was at a time.
type heard struct {
	at  time.Time
	row sdk.Connection
}

func (s *stage) startWatch() *watch {
	w := &watch{}
	ctx, stop := context.WithCancel(s.ctx)
	var work sync.WaitGroup
	work.Go(func() {
		for ctx.Err() == nil {
			w.list(ctx, s)
			w.follow(ctx, s)
			select {
			case <-time.After(300 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	})
	s.Cleanup(func() {
		stop()
		work.Wait()
	})
	return w
}

// list notes what has changed since the last row was heard.
func (w *watch) list(ctx context.Context, s *stage) {
	text, err := s.admin.Command(ctx, "connections", "--limit", "0", "--output", "json").Output()
	var rows []sdk.Connection
	if err != nil || json.Unmarshal(text, &rows) != nil {
		return // the server is away
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, row := range rows {
		if known := w.last(row.ID); known.Status != row.Status || known.Revision != row.Revision || len(known.Interruptions) != len(row.Interruptions) {
			w.heard = append(w.heard, heard{time.Now(), row})
		}
	}
}

// last is the newest that was heard of a row. Its caller holds mu.
func (w *watch) last(id string) (row sdk.Connection) {
	for _, h := range w.heard {
		if h.row.ID == id {
			row = h.row
		}
	}
	return row
}

// follow reads one stream to its end.
func (w *watch) follow(ctx context.Context, s *stage) {
	cmd := s.admin.Command(ctx, "connections", "--follow", "--output", "ndjson")
	out, err := cmd.StdoutPipe()
	if err != nil || cmd.Start() != nil {
		return
	}
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var row sdk.Connection
		if json.Unmarshal(lines.Bytes(), &row) == nil && row.ID != "" {
			w.mu.Lock()
			w.heard = append(w.heard, heard{time.Now(), row})
			w.mu.Unlock()
		}
	}
	_ = cmd.Wait()
}

// all is what was heard so far.
func (w *watch) all() []heard {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]heard(nil), w.heard...)
}
