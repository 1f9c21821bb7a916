package server

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/sdk"
	"fairlead.dev/fairlead/server/auth"
	"fairlead.dev/fairlead/wsconn"
)

const (
	// slowestPing is the longest that a healthy connection of Fairlead is silent: the
	// relay pings every 5 s, a control link beats every 4 s.
	slowestPing = 5 * time.Second
	// checkSilence is for how long a check's WebSocket is silent: what survives that
	// survives a ping that comes a little late.
	checkSilence = slowestPing + time.Second
	// maxChecks bounds the checks at one time, because anybody may begin one.
	maxChecks = 32
)

// noteKey is the context's key for whether the caller's proxy is not trusted.
type noteKey struct{}

// untrustedProxy reports what border found out about the request.
func untrustedProxy(r *http.Request) bool {
	ignored, _ := r.Context().Value(noteKey{}).(bool)
	return ignored
}

// getCheck tells the caller how its request came.
func (s *Server) getCheck(w http.ResponseWriter, r *http.Request, _ auth.Principal) error {
	caller, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		caller = r.RemoteAddr
	}
	writeJSON(w, http.StatusOK, sdk.CheckInfo{
		Version: s.opts.Version, Instance: s.instance, AccessURL: s.url.String(), Time: s.opts.Now(),
		Caller: caller, UntrustedProxy: untrustedProxy(r),
		Ping: slowestPing, Silence: checkSilence,
	})
	return nil
}

// getCheckSocket opens a WebSocket and is silent on it for a while, to find out whether
// whatever is in between bears that.
func (s *Server) getCheckSocket(w http.ResponseWriter, r *http.Request, _ auth.Principal) error {
	done, ok := s.enter()
	if !ok {
		return errStopping
	}
	if s.checks.Add(1) > maxChecks {
		s.checks.Add(-1)
		done()
		return tooMany("there are too many checks at one time", linkRetry)
	}
	conn, err := wsconn.Accept(w, r, wsconn.AcceptOptions{Subprotocols: []string{sdk.CheckSubprotocol}})
	if err != nil { // Accept has answered
		s.checks.Add(-1)
		done()
		s.logger.LogAttrs(r.Context(), slog.LevelDebug, "check refused", slog.String("error", disconnect.Scrub(err.Error())))
		return nil
	}
	go func() { // Close waits for it by done
		defer done()
		defer s.checks.Add(-1)
		s.beSilent(conn)
	}()
	return nil
}

// beSilent is the server's part of a check. Anybody may begin one, so its ending is
// nothing for the log.
func (s *Server) beSilent(conn *wsconn.Conn) {
	gone, cancel := context.WithCancel(s.background)
	reading := make(chan struct{})
	go func() { // ends when conn does
		defer close(reading)
		defer cancel()
		_, _ = io.Copy(io.Discard, io.LimitReader(conn, 1)) // the caller has nothing to say
	}()
	_ = conn.SetWriteDeadline(time.Now().Add(checkSilence + writeTimeout)) // an error shows at Write
	reason := disconnect.Graceful
	if _, err := io.WriteString(conn, sdk.CheckBegin); err == nil {
		timer := time.NewTimer(checkSilence)
		defer timer.Stop()
		select {
		case <-timer.C:
			_, _ = io.WriteString(conn, sdk.CheckEnd) // a caller who left does not need it
		case <-gone.Done():
			if s.background.Err() != nil {
				reason = disconnect.ServerShutdown
			}
		}
	}
	_ = conn.CloseWith(disconnect.Goodbye{Reason: reason, Initiator: disconnect.Server}.CloseCode())
	<-reading
}
