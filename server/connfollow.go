package server

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"sync"
	"time"

	"fairlead.dev/fairlead/sdk"
	"fairlead.dev/fairlead/server/auth"
	"fairlead.dev/fairlead/server/connlog"
	"fairlead.dev/fairlead/server/store"
)

const (
	// followBeat is how often a stream that has nothing to say sends an empty line: the
	// reader, and every proxy on the way, sees that it lives.
	followBeat = 15 * time.Second
	// defaultFollowPatience is how long one write of it may take.
	defaultFollowPatience = 10 * time.Second
)

// errSlowReader ends a stream that is not read fast enough.
var errSlowReader = tooMany("connections came faster than they were read, and some were left out", linkRetry)

// signal tells everybody who waits that something happened. The zero value is ready.
type signal struct {
	mu sync.Mutex    // guards ch
	ch chan struct{} // closed by the next send; nil: nobody waits
}

// wait returns a channel that the next send closes.
func (s *signal) wait() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ch == nil {
		s.ch = make(chan struct{})
	}
	return s.ch
}

func (s *signal) send() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ch != nil {
		close(s.ch)
		s.ch = nil
	}
}

// connStream is one stream of the connection log.
type connStream struct {
	s      *Server
	w      http.ResponseWriter
	rc     *http.ResponseController
	r      *http.Request
	p      auth.Principal
	filter store.ConnFilter
	feed   *connlog.Feed
}

// followConnections streams rows as they open, close, and get a better ending, one a
// line; before them, if a limit is given, the newest that there are. An empty line means
// nothing. When the server ends the stream, the last line is an error.
func (s *Server) followConnections(w http.ResponseWriter, r *http.Request, p auth.Principal, filter store.ConnFilter) error {
	if filter.Before != 0 {
		return invalid("a stream has no cursor")
	}
	left, err := s.limits.follow(p)
	if err != nil {
		return err
	}
	defer left()
	done, ok := s.enter()
	if !ok {
		return errStopping
	}
	defer done()
	f := &connStream{s: s, w: w, rc: http.NewResponseController(w), r: r, p: p, filter: filter, feed: s.connlog.Follow()}
	defer f.feed.Close()
	var rows []store.Connection
	if filter.Limit > 0 {
		if rows, err = s.store.Connections(r.Context(), filter); err != nil {
			return err
		}
		slices.Reverse(rows)
	}
	_ = f.rc.SetReadDeadline(time.Time{}) // the server's own is for requests that end
	h := w.Header()
	h.Set("Content-Type", "application/x-ndjson")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Accel-Buffering", "no") // nginx would keep lines back
	w.WriteHeader(http.StatusOK)
	if r.Method != http.MethodGet {
		return nil
	}
	if f.send(rows) && f.beat() {
		f.run()
	}
	return nil
}

// run streams until somebody ends it.
func (f *connStream) run() {
	beat := time.NewTicker(followBeat)
	defer beat.Stop()
	var expiry <-chan time.Time
	if at := f.p.ExpiresAt; !at.IsZero() {
		timer := time.NewTimer(at.Sub(f.s.opts.Now()))
		defer timer.Stop()
		expiry = timer.C
	}
	changed := f.s.rights.wait()
	for ok := f.mayStay(); ok; {
		select {
		case <-f.r.Context().Done():
			return
		case <-f.s.leaving:
			f.end(errStopping)
			return
		case <-f.feed.Ready():
			ok = f.next()
		case <-changed:
			changed = f.s.rights.wait()
			ok = f.mayStay()
		case <-expiry:
			ok = f.mayStay()
		case <-beat.C:
			ok = f.mayStay() && f.beat()
		}
	}
}

// next sends what the feed has, and reports whether the stream goes on.
func (f *connStream) next() bool {
	rows, err := f.feed.Next()
	switch {
	case errors.Is(err, connlog.ErrSlow):
		f.end(errSlowReader)
	case err != nil:
		f.end(errStopping)
	default:
		return f.send(rows)
	}
	return false
}

// mayStay asks again who follows and what they may see, and reports whether the stream
// goes on.
func (f *connStream) mayStay() bool {
	p, err := f.s.authenticate(f.r.Context(), f.r.Header.Get("Authorization"))
	if err == nil && !slices.Contains(reading, p.Scope) {
		err = errScope(p)
	}
	if err != nil {
		f.end(err)
		return false
	}
	f.p, f.filter.For = p, visibleTo(p)
	return true
}

// send writes those of rows that are wanted, and reports whether the stream goes on.
func (f *connStream) send(rows []store.Connection) bool {
	var lines []byte
	for _, row := range rows {
		if f.filter.Match(row) {
			lines = append(lines, line(f.s.connectionOut(row))...)
		}
	}
	return len(lines) == 0 || f.write(lines)
}

func (f *connStream) beat() bool { return f.write([]byte("\n")) }

// end says why the stream ends.
func (f *connStream) end(err error) {
	var e *refusal
	if !errors.As(err, &e) {
		f.s.logger.ErrorContext(f.r.Context(), "cannot go on with a stream of connections", "error", err)
		e = errInternal
	}
	f.write(line(sdk.ErrorResponse{Error: sdk.ErrorBody{Code: e.code, Message: e.message}}))
}

func (f *connStream) write(b []byte) bool {
	_ = f.rc.SetWriteDeadline(time.Now().Add(f.s.limits.followPatience)) // a reader who takes longer is cut
	_, err := f.w.Write(b)
	return err == nil && f.rc.Flush() == nil
}

func line(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // only our own types come here, and they all marshal
	}
	return append(b, '\n')
}
