package agent

import (
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"time"

	"fairlead.dev/fairlead/agent/proto"
	"fairlead.dev/fairlead/sdk"
)

const (
	// speedSlack is what a measurement may take beyond its time, for what is on its way.
	speedSlack = 15 * time.Second
	// speedChunk is how much is written or read at a time, in bytes.
	speedChunk = 128 << 10
)

// speed is the service that clients measure a path with. One measures at a time: two
// would tell each other's speed.
type speed struct {
	busy chan struct{} // has a place for the one
}

func newSpeed() *speed { return &speed{busy: make(chan struct{}, 1)} }

// ServeHTTP implements [http.Handler].
func (s *speed) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	seconds, err := strconv.Atoi(r.URL.Query().Get("seconds"))
	limit := time.Duration(seconds) * time.Second
	switch {
	case r.Method != http.MethodGet && r.Method != http.MethodPost:
		w.Header().Set("Allow", "GET, POST")
		refuse(w, http.StatusMethodNotAllowed, sdk.CodeMethodNotAllowed, "this path takes GET and POST only")
		return
	case err != nil || seconds < 1 || seconds > int(proto.MaxSpeed.Seconds()):
		refuse(w, http.StatusBadRequest, sdk.CodeInvalid, "seconds must be a number from 1 to "+strconv.Itoa(int(proto.MaxSpeed.Seconds())))
		return
	}
	select {
	case s.busy <- struct{}{}:
		defer func() { <-s.busy }()
	default:
		refuse(w, http.StatusTooManyRequests, sdk.CodeLimitExceeded, "another speed test is under way in this workspace")
		return
	}
	control := http.NewResponseController(w)
	deadline := time.Now().Add(limit + speedSlack)
	if control.SetReadDeadline(deadline) != nil || control.SetWriteDeadline(deadline) != nil {
		refuse(w, http.StatusInternalServerError, sdk.CodeInternal, "this connection has no deadlines")
		return
	}
	if r.Method == http.MethodGet {
		s.send(w, r, limit)
		return
	}
	s.receive(w, r)
}

// send writes for as long as limit says, or the client and the agent live.
func (s *speed) send(w http.ResponseWriter, r *http.Request, limit time.Duration) {
	w.Header().Set("Content-Type", "application/octet-stream")
	chunk := make([]byte, speedChunk)
	for until := time.Now().Add(limit); time.Now().Before(until) && r.Context().Err() == nil; {
		if _, err := w.Write(chunk); err != nil {
			return
		}
	}
}

// receive reads until the client is done, at most until the read deadline.
func (s *speed) receive(w http.ResponseWriter, r *http.Request) {
	n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, r.Body, make([]byte, speedChunk))
	if err != nil || r.Context().Err() != nil {
		return // whoever left, or was too slow, hears nothing
	}
	_ = json.NewEncoder(w).Encode(proto.SpeedReceived{Bytes: n})
}
