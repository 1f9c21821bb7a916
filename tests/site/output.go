package site

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/disconnect"
)

// Output collects what a process writes and lets a test wait for a part of it. It is
// safe for concurrent use.
type Output struct {
	mu      sync.Mutex // guards data, ended and changed
	data    bytes.Buffer
	ended   bool
	changed chan struct{} // closed and renewed at every change
}

// NewOutput returns an empty Output.
func NewOutput() *Output { return &Output{changed: make(chan struct{})} }

// Write never fails.
func (o *Output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.data.Write(b)
	o.announce()
	return len(b), nil
}

// end tells who waits that nothing more comes.
func (o *Output) end() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ended = true
	o.announce()
}

func (o *Output) announce() {
	close(o.changed)
	o.changed = make(chan struct{})
}

// String returns all that was written.
func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.data.String()
}

// Await returns once ok is satisfied by all that was written.
func (o *Output) Await(t T, what string, ok func(string) bool) string {
	t.Helper()
	deadline := time.After(Patience)
	for {
		o.mu.Lock()
		text, ended, changed := o.data.String(), o.ended, o.changed
		o.mu.Unlock()
		if ok(text) {
			return text
		}
		if ended {
			fatalf(t, "waiting for %s: the process ended with:\n%s", what, text)
		}
		select {
		case <-changed:
		case <-deadline:
			fatalf(t, "waiting for %s: not seen in:\n%s", what, text)
		}
	}
}

// AwaitText waits for a part of the output and returns all of it.
func (o *Output) AwaitText(t T, part string) string {
	t.Helper()
	return o.Await(t, fmt.Sprintf("%q", part), func(s string) bool { return strings.Contains(s, part) })
}

// Records parses a JSON log.
func (o *Output) Records(t T) []map[string]any {
	t.Helper()
	var all []map[string]any
	lines := bufio.NewScanner(strings.NewReader(o.String()))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var record map[string]any
		if json.Unmarshal(lines.Bytes(), &record) == nil {
			all = append(all, record)
		}
	}
	require.NoError(t, lines.Err())
	return all
}

var endingKeys = []string{
	disconnect.KeyConnectType, disconnect.KeyReason, disconnect.KeyExpected,
	disconnect.KeyInitiator, disconnect.KeyDetail,
}

// Endings returns the records with msg, each checked to have all five fields.
func (o *Output) Endings(t T, msg string) []map[string]any {
	t.Helper()
	var found []map[string]any
	for _, record := range o.Records(t) {
		if record["msg"] == msg {
			for _, key := range endingKeys {
				require.Contains(t, record, key, "%q without all five fields", msg)
			}
			found = append(found, record)
		}
	}
	return found
}
