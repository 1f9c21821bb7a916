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
	row loggedRow
}

// loggedRow is a row of the connection log. Interruptions are what it went through and
// survived; a program that records none has none.
type loggedRow struct {
	sdk.Connection
	Interruptions []struct {
		Reason    string `json:"disconnect_reason"`
		Initiator string `json:"disconnect_initiator"`
		Expected  bool   `json:"disconnect_expected"`
		Detail    string `json:"disconnect_detail"`
	} `json:"interruptions"`
}

func (s *stage) startWatch() *watch {
	w := &watch{}
	ctx, stop := context.WithCancel(s.ctx)
	var work sync.WaitGroup
	work.Go(func() {
		for ctx.Err() == nil {
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

// follow reads one stream to its end.
func (w *watch) follow(ctx context.Context, s *stage) {
	cmd := s.admin.Command(ctx, "connections", "--follow", "--limit", "100", "--output", "ndjson")
	out, err := cmd.StdoutPipe()
	if err != nil || cmd.Start() != nil {
		return
	}
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var row loggedRow
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
