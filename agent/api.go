package agent

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"fairlead.dev/fairlead/agent/agentcontextconfig"
	"fairlead.dev/fairlead/agent/proto"
	"fairlead.dev/fairlead/sdk"
)

// Bounds of the agent's HTTP API.
const (
	maxAPIConns    = 4                // of one peer
	maxAPIAnswers  = 4                // whose files are being read, for all peers
	maxAPIHeader   = 8 << 10          // bytes
	apiReadTimeout = 5 * time.Second  // for a request
	apiTimeout     = 30 * time.Second // for a request and its answer, which may be large
	apiIdle        = 30 * time.Second // between two requests
	apiStop        = time.Second      // for what is being answered when the node has closed
)

// serveAPI serves HTTP inside the tailnet until the node closes. Only a peer that the
// server has introduced gets as far as this port.
func (a *agent) serveAPI() {
	listener, err := a.node.Listen(proto.APIPort)
	if err != nil {
		if a.hardCtx.Err() == nil {
			a.logger.Error("http api stopped", "error", err)
		}
		return
	}
	srv := newAPIServer(a.hardCtx, a.contextConfigAPI, a.logger)
	err = srv.Serve(&peerLimit{Listener: listener, open: map[netip.Addr]int{}})
	if a.hardCtx.Err() == nil {
		a.logger.Error("http api stopped", "error", err)
	}
	ctx, cancel := context.WithTimeout(a.patience, apiStop)
	defer cancel()
	_ = srv.Shutdown(ctx) // waits for what is being answered; the connections are cut already
}

// newAPIServer returns the server of the API. What it does ends with ctx.
func newAPIServer(ctx context.Context, config *agentcontextconfig.API, logger *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           &apiHandler{config: config, reading: make(chan struct{}, maxAPIAnswers), speed: newSpeed()},
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ReadHeaderTimeout: apiReadTimeout, ReadTimeout: apiReadTimeout, WriteTimeout: apiTimeout, IdleTimeout: apiIdle,
		MaxHeaderBytes: maxAPIHeader,
		ErrorLog:       slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
	}
}

// apiHandler answers the requests that there are.
type apiHandler struct {
	config  *agentcontextconfig.API
	reading chan struct{} // has a place for each answer whose files are being read
	speed   *speed
}

// ServeHTTP implements [http.Handler].
func (h *apiHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	switch {
	case r.URL.Path == proto.SpeedPath:
		h.speed.ServeHTTP(w, r)
		return
	case r.URL.Path != proto.ContextConfigPath:
		refuse(w, http.StatusNotFound, sdk.CodeNotFound, "there is nothing at this path")
		return
	case r.Method != http.MethodGet:
		w.Header().Set("Allow", http.MethodGet)
		refuse(w, http.StatusMethodNotAllowed, sdk.CodeMethodNotAllowed, "this path takes GET only")
		return
	}
	select {
	case h.reading <- struct{}{}:
	case <-r.Context().Done():
		refuse(w, http.StatusServiceUnavailable, sdk.CodeUnavailable, "the agent is stopping")
		return
	}
	config := h.config.ContextConfig(r.Context())
	<-h.reading // before the answer: a client that takes it slowly holds up nobody
	answer := json.NewEncoder(w)
	answer.SetEscapeHTML(false)
	_ = answer.Encode(config) // a client that left hears nothing
}

func refuse(w http.ResponseWriter, status int, code, message string) {
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(sdk.ErrorResponse{Error: sdk.ErrorBody{Code: code, Message: message}})
}

// peerLimit is a listener that closes at once what one peer opens beyond its share.
type peerLimit struct {
	net.Listener
	mu   sync.Mutex // guards open
	open map[netip.Addr]int
}

// Accept implements [net.Listener].
func (l *peerLimit) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		peer := addrPort(c.RemoteAddr()).Addr()
		if l.add(peer, 1) {
			return &limitedConn{Conn: c, release: sync.OnceFunc(func() { l.add(peer, -1) })}, nil
		}
		_ = c.Close()
	}
}

// add counts a connection of peer in or out, and reports false for one too many.
func (l *peerLimit) add(peer netip.Addr, n int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch open := l.open[peer] + n; {
	case open > maxAPIConns:
		return false
	case open == 0:
		delete(l.open, peer)
	default:
		l.open[peer] = open
	}
	return true
}

type limitedConn struct {
	net.Conn
	release func()
}

// Close implements [net.Conn].
func (c *limitedConn) Close() error {
	defer c.release()
	return c.Conn.Close()
}
