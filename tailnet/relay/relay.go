package relay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/tailnet/proto"
	"fairlead.dev/fairlead/wsconn"
	"tailscale.com/derp/derpserver"
	"tailscale.com/types/key"
)

const (
	// Path is where a relay is reached, below its access URL, and ProbePath where it
	// says which one it is.
	Path      = "/api/v1/relay"
	ProbePath = "/api/v1/relay/probe"

	// Subprotocol is the WebSocket sub-protocol of a relay connection.
	Subprotocol = "derp"

	defaultPingInterval = 5 * time.Second
	defaultSilence      = 15 * time.Second
	defaultMaxConns     = 16384
	// maxConnsPerNode bounds what one node key may hold: a node uses one connection,
	// and leaves others behind only when the network swallows their ends. The same
	// again may be in the handshake.
	maxConnsPerNode = 3
	// maxHandshake bounds the time until a node has shown its key.
	maxHandshake = 10 * time.Second
	// writeTimeout bounds one write to a node that does not read.
	writeTimeout = 5 * time.Second
	// expiryInterval is how often the relay looks whose admission is over.
	expiryInterval = time.Second
	// turns is how many parts the nodes are asked in.
	turns = 10
	// socketBuffer is the size of each of a WebSocket's buffers in bytes: one packet
	// of a node with its head.
	socketBuffer = 2048
	// maxToken bounds the Authorization header's token, in bytes.
	maxToken = 1024
)

// EventKind says what happened to a relay connection.
type EventKind uint8

// Event kinds. Each connection has one Opened and then one Ended.
const (
	Opened EventKind = 1
	Ended  EventKind = 2
)

// Event is the relay's testimony about one connection.
type Event struct {
	Kind       EventKind
	ID         uint64 // counts the relay's connections; the same in both events
	Key        proto.NodeKey
	RemoteAddr string
	At         time.Time
	// Ending is set in Ended. Its detail is what the relay saw, not a verdict.
	Ending disconnect.Attribution
}

// Config says how a relay runs. Only Admit is required.
type Config struct {
	// Logger receives the relay's log lines; nil discards them.
	Logger *slog.Logger
	// Admit returns whom a token admits. It is called concurrently, with the request's
	// context; its error's text is not shown to the node. [ErrUndecided] says that the
	// node may ask again, any other error that it may not come in.
	Admit func(ctx context.Context, token string) (Admission, error)
	// Witness is told of each connection's opening and end, in this order, from the
	// connection's goroutine; it should return soon. Nil: nobody is told.
	Witness func(Event)
	// Refuse answers a request that is not admitted. Nil: a JSON error and the
	// reason's number in the header.
	Refuse func(w http.ResponseWriter, r *http.Request, status int, reason disconnect.Reason, message string)
	// PingInterval is how often each node is asked for a life sign (5 s when zero),
	// Silence after how long without one its connection is cut (15 s when zero).
	PingInterval, Silence time.Duration
	// MaxConns bounds the connections at one time (16384 when zero).
	MaxConns int

	// Now is the clock of admissions; nil: time.Now.
	Now func() time.Time

	// For tests; the defaults are maxHandshake and writeTimeout.
	handshake, write time.Duration
}

// Admission is who may have a connection.
type Admission struct {
	Node proto.NodeKey
	// Agent: the node is an agent's, and the connection counts as server_to_agent;
	// otherwise it is a client's.
	Agent bool
	// Expires is when the connection ends unless [Relay.Extend] gives it more; zero: never.
	Expires time.Time
	// Tags name what the admission rests on, for [Relay.End].
	Tags []string
}

// ErrUndecided is for a Config.Admit that cannot find out now.
var ErrUndecided = errors.New("the relay cannot find out now who may come in")

// Relay is a DERP server for the nodes that its Config admits. It is an http.Handler
// for GET requests; all methods are safe for concurrent use.
type Relay struct {
	cfg  Config
	derp *derpserver.Server

	done chan struct{} // closed when Close begins
	wg   sync.WaitGroup

	ends atomic.Uint64 // calls of End

	mu      sync.Mutex                // guards byName, pending, proven, lastID and closing
	byName  map[string]*conn          // every open connection, by conn.name
	pending map[proto.NodeKey][]*conn // those in the handshake, oldest first
	proven  map[proto.NodeKey][]*conn // those past it, oldest first
	lastID  uint64
	closing *disconnect.Goodbye // set by Close
}

// New returns a running relay. The caller must Close it.
func New(cfg Config) *Relay {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Refuse == nil {
		cfg.Refuse = refuse
	}
	cfg.PingInterval = orDefault(cfg.PingInterval, defaultPingInterval)
	cfg.Silence = orDefault(cfg.Silence, defaultSilence)
	cfg.MaxConns = orDefault(cfg.MaxConns, defaultMaxConns)
	cfg.handshake = orDefault(cfg.handshake, maxHandshake)
	cfg.write = orDefault(cfg.write, writeTimeout)
	r := &Relay{
		cfg:     cfg,
		done:    make(chan struct{}),
		byName:  make(map[string]*conn),
		pending: make(map[proto.NodeKey][]*conn),
		proven:  make(map[proto.NodeKey][]*conn),
	}
	r.derp = derpserver.New(key.NewNode(), r.derpLog)
	r.derp.SetTCPWriteTimeout(cfg.write)
	r.wg.Go(r.keep)
	r.wg.Go(r.expire)
	return r
}

func orDefault[T int | time.Duration](v, fallback T) T {
	if v == 0 {
		return fallback
	}
	return v
}

// ServeHTTP upgrades a GET request with a relay token to a relay connection. It
// returns after the upgrade; the connection lives on until it breaks or Close.
func (r *Relay) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if req.Method != http.MethodGet {
		w.Header().Set("Allow", http.MethodGet)
		r.cfg.Refuse(w, req, http.StatusMethodNotAllowed, disconnect.ProtocolError, "the relay is reached with GET")
		return
	}
	ends := r.ends.Load()
	admission, err := r.admit(req)
	if errors.Is(err, ErrUndecided) {
		r.cfg.Logger.Debug("relay connection put off", "remote_addr", req.RemoteAddr, "error", err)
		r.cfg.Refuse(w, req, http.StatusServiceUnavailable, disconnect.NetworkUnreachable, ErrUndecided.Error())
		return
	}
	if err != nil {
		r.cfg.Logger.Debug("relay connection refused", "remote_addr", req.RemoteAddr, "error", err)
		r.cfg.Refuse(w, req, http.StatusUnauthorized, disconnect.AuthFailed, "the relay needs a valid relay token")
		return
	}
	if !offers(req, Subprotocol) {
		r.cfg.Refuse(w, req, http.StatusUpgradeRequired, disconnect.VersionMismatch, "the relay speaks the WebSocket sub-protocol "+Subprotocol)
		return
	}
	if status, reason, message := r.room(); status != 0 {
		r.cfg.Refuse(w, req, status, reason, message)
		return
	}
	ws, err := wsconn.Accept(w, req, wsconn.AcceptOptions{
		Subprotocols: []string{Subprotocol}, ReadBuffer: socketBuffer, WriteBuffer: socketBuffer,
	})
	if err != nil {
		// Accept has answered the request.
		r.cfg.Logger.Debug("relay upgrade failed", "remote_addr", req.RemoteAddr, "error", err)
		return
	}
	c := r.start(ws, admission, req.RemoteAddr)
	if r.ends.Load() != ends { // the right may have gone since we asked, and the word of it passed c by
		if _, err := r.admit(req); err != nil && !errors.Is(err, ErrUndecided) {
			why, ok := disconnect.FromError(err)
			if !ok {
				why = disconnect.Attribution{Reason: disconnect.AuthRevoked, Initiator: disconnect.Server, Detail: "the right was withdrawn"}
			}
			c.cut(why.Reason, why.Initiator, why.Detail)
		}
	}
}

// admit reads the token of a request.
func (r *Relay) admit(req *http.Request) (Admission, error) {
	scheme, token, ok := strings.Cut(req.Header.Get("Authorization"), " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") || token == "" || len(token) > maxToken {
		return Admission{}, errors.New("admit to relay: no bearer token")
	}
	admission, err := r.cfg.Admit(req.Context(), token)
	if err != nil {
		return Admission{}, fmt.Errorf("admit to relay: %w", err)
	}
	if admission.Node.IsZero() {
		return Admission{}, errors.New("admit to relay: the token names no node key")
	}
	return admission, nil
}

// offers reports whether the request is a WebSocket upgrade that offers protocol.
func offers(req *http.Request, protocol string) bool {
	if !strings.EqualFold(req.Header.Get("Upgrade"), "websocket") {
		return false
	}
	for _, line := range req.Header.Values("Sec-WebSocket-Protocol") {
		for offer := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.TrimSpace(offer), protocol) {
				return true
			}
		}
	}
	return false
}

// room returns how to refuse a new connection, or 0 when there is room for it.
func (r *Relay) room() (status int, reason disconnect.Reason, message string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.closing != nil:
		return http.StatusServiceUnavailable, disconnect.ServerShutdown, "the relay is stopping"
	case len(r.byName) >= r.cfg.MaxConns:
		return http.StatusTooManyRequests, disconnect.LimitExceeded, "the relay has too many connections"
	default:
		return 0, 0, ""
	}
}

// start registers the connection and serves it on a goroutine of its own.
func (r *Relay) start(ws *wsconn.Conn, a Admission, from string) *conn {
	c := &conn{Conn: ws, key: a.Node, tags: a.Tags, from: from, began: time.Now(), onProven: r.prove}
	c.leg, c.peer = disconnect.ClientToServer, disconnect.Client
	if a.Agent {
		c.leg, c.peer = disconnect.ServerToAgent, disconnect.Agent
	}
	c.extend(a.Expires)
	c.ctx, c.stop = context.WithCancel(context.Background())
	c.heard.Store(c.began.UnixNano())

	r.mu.Lock()
	r.lastID++
	c.id = r.lastID
	closing := r.closing
	if closing == nil {
		r.byName[c.name()] = c
		r.wg.Go(func() { r.serve(c) })
		r.makeRoomLocked(add(r.pending, c))
	}
	r.mu.Unlock()

	if closing != nil {
		c.cut(closing.Reason, closing.Initiator, closing.Detail)
	}
	return c
}

// prove moves a connection whose node has shown its key out of the handshake. Only
// such a connection can displace another one that is in use: a token alone cannot.
func (r *Relay) prove(c *conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	drop(r.pending, c)
	r.makeRoomLocked(add(r.proven, c))
}

// makeRoomLocked ends surplus, if there is one, in favour of a newer connection of the
// same node. The caller is a connection's goroutine, or has just started one.
func (r *Relay) makeRoomLocked(surplus *conn) {
	if surplus == nil {
		return
	}
	r.wg.Go(func() {
		surplus.cut(disconnect.LimitExceeded, disconnect.Server, "the node has opened newer relay connections")
	})
}

// add puts c into the list of its node, and returns the connection that has to make
// room for it, if there are too many.
func add(m map[proto.NodeKey][]*conn, c *conn) (surplus *conn) {
	held := m[c.key]
	if len(held) >= maxConnsPerNode {
		surplus = held[len(held)-maxConnsPerNode]
	}
	m[c.key] = append(held, c)
	return surplus
}

func drop(m map[proto.NodeKey][]*conn, c *conn) {
	held := slices.DeleteFunc(m[c.key], func(other *conn) bool { return other == c })
	if len(held) == 0 {
		delete(m, c.key)
		return
	}
	m[c.key] = held
}

// serve runs a registered connection to its end.
func (r *Relay) serve(c *conn) {
	r.witness(Event{Kind: Opened}, c)
	r.derp.Accept(c.ctx, c, c.buffers(), c.name())
	c.finish()

	r.mu.Lock()
	delete(r.byName, c.name())
	drop(r.pending, c)
	drop(r.proven, c)
	r.mu.Unlock()

	cause, _ := c.cause.Get()
	level := slog.LevelInfo
	if cause.Expected() {
		level = slog.LevelDebug
	}
	r.cfg.Logger.LogAttrs(context.Background(), level, "relay connection ended", cause.Attr(),
		slog.String("node", c.key.Short()), slog.String("remote_addr", c.from), slog.Uint64("relay_conn", c.id))
	r.witness(Event{Kind: Ended, Ending: cause}, c)
}

func (r *Relay) witness(e Event, c *conn) {
	if r.cfg.Witness == nil {
		return
	}
	e.ID, e.Key, e.RemoteAddr, e.At = c.id, c.key, c.from, time.Now()
	r.cfg.Witness(e)
}

// Connected reports whether node has a connection and has shown its key on it.
func (r *Relay) Connected(node proto.NodeKey) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.proven[node]) > 0
}

// End ends every connection whose admission has the tag, with g. It does not wait for
// the nodes.
func (r *Relay) End(tag string, g disconnect.Goodbye) {
	r.ends.Add(1)
	r.cutAll(g, func(c *conn) bool { return slices.Contains(c.tags, tag) })
}

// EndNode ends every connection of a node, with g. It does not wait for the node.
func (r *Relay) EndNode(node proto.NodeKey, g disconnect.Goodbye) {
	r.ends.Add(1)
	r.cutAll(g, func(c *conn) bool { return c.key == node })
}

// cutAll cuts the open connections of those who, each on a goroutine of its own.
func (r *Relay) cutAll(g disconnect.Goodbye, who func(*conn) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closing != nil {
		return // they are being told that
	}
	for _, c := range r.byName {
		if who(c) {
			r.wg.Go(func() { c.cut(g.Reason, g.Initiator, g.Detail) })
		}
	}
}

// Extend lets the node's open connections live until expires at least.
func (r *Relay) Extend(node proto.NodeKey, expires time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, held := range [][]*conn{r.pending[node], r.proven[node]} {
		for _, c := range held {
			c.extend(expires)
		}
	}
}

// Nodes returns how many nodes have a connection on which they have shown their key.
func (r *Relay) Nodes() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.proven)
}

// Close says g to every node, closes the connections and waits for everything that
// the relay started. When ctx ends, it waits for no node's answer any more. New
// connections are refused from the beginning. Only the first call's g counts.
func (r *Relay) Close(ctx context.Context, g disconnect.Goodbye) {
	r.mu.Lock()
	first := r.closing == nil
	if first {
		r.closing = &g
		close(r.done)
	}
	r.mu.Unlock()
	if !first {
		r.wg.Wait()
		return
	}
	r.farewell(ctx, g)
	r.derp.Close()
	r.wg.Wait()
}

// farewell closes all connections with g at the same time, and returns when all are
// closed or ctx ends.
func (r *Relay) farewell(ctx context.Context, g disconnect.Goodbye) {
	all := make(chan struct{})
	var wg sync.WaitGroup
	for _, c := range r.open() {
		wg.Go(func() { c.cut(g.Reason, g.Initiator, g.Detail) })
	}
	r.wg.Go(func() {
		wg.Wait()
		close(all)
	})
	select {
	case <-all:
	case <-ctx.Done():
		for _, c := range r.open() {
			c.Conn.Close()
		}
	}
}

func (r *Relay) open() []*conn {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]*conn, 0, len(r.byName))
	for _, c := range r.byName {
		all = append(all, c)
	}
	return all
}

// keep asks the nodes for life signs until Close, and cuts those that give none: the
// kernel alone would hold a dead connection for a quarter of an hour. Each tick is a
// part of the nodes' turn, for each question needs a goroutine until it is answered.
func (r *Relay) keep() {
	tick := time.NewTicker(r.cfg.PingInterval / turns)
	defer tick.Stop()
	for turn := uint64(0); ; turn++ {
		select {
		case <-r.done:
			return
		case now := <-tick.C:
			for _, c := range r.open() {
				if c.id%turns == turn%turns {
					r.check(c, now)
				}
			}
		}
	}
}

// expire ends the connections whose admission is over, until Close.
func (r *Relay) expire() {
	tick := time.NewTicker(expiryInterval)
	defer tick.Stop()
	for {
		select {
		case <-r.done:
			return
		case <-tick.C:
		}
		now := r.cfg.Now()
		r.cutAll(disconnect.Goodbye{
			Reason: disconnect.AuthExpired, Initiator: disconnect.Server, Detail: "the admission to the relay was not renewed",
		}, func(c *conn) bool { return c.expired(now) })
	}
}

func (r *Relay) check(c *conn, now time.Time) {
	if !c.proven.Load() && now.Sub(c.began) > r.cfg.handshake {
		r.wg.Go(func() { c.cut(disconnect.SlowPeer, c.peer, "the relay handshake was not finished in time") })
		return
	}
	if silence := c.silence(now); silence > r.cfg.Silence {
		detail := "nothing heard of the node for " + silence.Round(time.Millisecond).String()
		r.wg.Go(func() { c.cut(disconnect.NetworkTimeout, disconnect.Network, detail) })
		return
	}
	if c.pinging.CompareAndSwap(false, true) {
		r.wg.Go(c.ping)
	}
}

// derpLog takes the DERP server's log lines. The one that says why a connection is
// given up is the only place where that is told; its shape is that of the pinned
// version, and only a detail depends on it.
func (r *Relay) derpLog(format string, args ...any) {
	if format == "derp: %s: %v" && len(args) == 2 {
		if name, ok := args[0].(string); ok {
			r.mu.Lock()
			c := r.byName[name]
			r.mu.Unlock()
			if c != nil {
				c.setWord(fmt.Sprint(args[1]))
			}
		}
	}
	if r.cfg.Logger.Enabled(context.Background(), slog.LevelDebug) {
		r.cfg.Logger.Debug("derp server message", "text", disconnect.Scrub(fmt.Sprintf(format, args...)))
	}
}

func refuse(w http.ResponseWriter, _ *http.Request, status int, reason disconnect.Reason, message string) {
	var body struct {
		Error struct {
			Code    string `json:"code"`
			Message string `json:"message"`
		} `json:"error"`
	}
	body.Error.Code, body.Error.Message = reason.String(), message
	w.Header().Set(wsconn.HTTPReason, strconv.Itoa(int(reason)))
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(body)
}
