package main

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"
)

// log keeps what a program writes, with the time of each piece.
type log struct {
	mu     sync.Mutex // guards pieces
	pieces []piece
}

type piece struct {
	at   time.Time
	text string
}

// Write never fails.
func (l *log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pieces = append(l.pieces, piece{time.Now(), string(b)})
	return len(b), nil
}

// since is what was written after a moment, and when the last of it was.
func (l *log) since(moment time.Time) (text string, last time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range l.pieces {
		if p.at.After(moment) {
			text, last = text+p.text, p.at
		}
	}
	return text, last
}

// await returns when part was written.
func (l *log) await(ctx context.Context, part string) error {
	if poll(ctx, 30*time.Second, func() bool { text, _ := l.since(time.Time{}); return strings.Contains(text, part) }) {
		return nil
	}
	text, _ := l.since(time.Time{})
	return fmt.Errorf("%q was not written, but %q", part, text[max(0, len(text)-400):])
}

// poll asks again until ok says yes, or the time is over.
func poll(ctx context.Context, within time.Duration, ok func() bool) bool {
	deadline := time.After(within)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			return ok()
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
	}
	return true
}
