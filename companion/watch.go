package companion

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/verdict"
)

const (
	// dialTimeout bounds one attempt: a fresh one finds a path that just came back
	// sooner than the retries of an old one.
	dialTimeout = 3 * time.Second
	minBackoff  = 200 * time.Millisecond
	maxBackoff  = 500 * time.Millisecond
	// staleBeats is how many heartbeats may be missing before the stream is dropped
	// and dialled anew.
	staleBeats = 3
	// patience is how much longer a client waits than its agent: the agent's clock decides,
	// and what it decided has to arrive.
	patience = time.Minute
	// maxConnections bounds what an agent can make a client remember. The accounts that
	// have been there longest make room.
	maxConnections = 4096
)

// WatchConfig is what a [Watch] needs to know.
type WatchConfig struct {
	// Dial opens a stream to the agent's companion port.
	Dial func(ctx context.Context) (net.Conn, error)
	// Instance names this life of the client's process.
	Instance string
	Version  string
	Logger   *slog.Logger // nil discards
	// Heartbeat is the interval of heartbeats; 0 means [DefaultHeartbeat].
	Heartbeat time.Duration
	// OutageLimit is how long the agent may be silent while this end is awake; 0 means what
	// the agent says that it allows its clients, and a minute: it decides.
	OutageLimit time.Duration
	// OnInterruption is told of each silence of the agent that the watch survived, once it
	// is over and explained as far as that is possible. It must not block.
	OnInterruption func(Interruption)
	// Kick is called every second or so while the agent is silent: it should try to reach
	// it. It must not block.
	Kick func()
	// Facts is what this host can testify of itself since a time of its wall clock; nil:
	// nothing. It must not block.
	Facts func(since time.Time) []verdict.Fact
	// Refused asks the machine at a UDP address whether anything listens there, and reports
	// whether the machine itself said no. It may take a second. nil: nobody asks.
	Refused func(ctx context.Context, address string) bool
	// Clock is the host's clock; nil means the system's.
	Clock func() Reading
}

// Watch is the client's end: it keeps a companion stream to one agent, dials again
// when it breaks, and decides when the session with that agent is over and why. It
// ends once; the first terminal cause stays. Methods are safe for concurrent use.
type Watch struct {
	config  WatchConfig
	ctx     context.Context // ends with the watch; its streams are cut then
	cancel  context.CancelFunc
	tasks   sync.WaitGroup
	hello   chan struct{} // closed at the agent's first hello
	done    chan struct{} // closed when the ending is recorded
	recheck chan struct{} // new evidence for the clock
	redial  chan struct{} // do not wait for the backoff

	mu          sync.Mutex // guards all below
	instance    string     // the agent's life that this watch began with
	vigil       *vigil
	mourned     disconnect.Attribution // how a connection ended while we were away
	limit       time.Duration          // the outage limit
	addresses   []netip.Addr           // of the agent's own interfaces
	grave       grave
	replaced    time.Time
	replacedBy  string        // the other life of the agent
	replacedAt  time.Duration // the same as replaced, by the boot clock
	received    told          // the last word that came
	sent        told          // ours
	endedAt     time.Duration // by the boot clock
	stream      *stream
	presences   map[string]presence // by instance id
	successor   string              // another instance that the server calls online
	connections map[uint16]string
	endings     map[string]connectionEnding
	accounts    []string      // the keys of endings, oldest first
	terminals   []string      // that the agent keeps for our user, as last heard
	changed     chan struct{} // closed and replaced at every frame of the agent
	ended       bool
	ending      disconnect.Attribution
}

// NewWatch starts to watch; the first stream is dialled at once. The caller owns
// the watch and must Close it.
func NewWatch(config WatchConfig) *Watch {
	if config.Heartbeat <= 0 {
		config.Heartbeat = DefaultHeartbeat
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	if config.OnInterruption == nil {
		config.OnInterruption = func(Interruption) {}
	}
	if config.Kick == nil {
		config.Kick = func() {}
	}
	if config.Clock == nil {
		config.Clock = now
	}
	ctx, cancel := context.WithCancel(context.Background())
	w := &Watch{
		config:      config,
		ctx:         ctx,
		cancel:      cancel,
		hello:       make(chan struct{}),
		done:        make(chan struct{}),
		recheck:     make(chan struct{}, 1),
		redial:      make(chan struct{}, 1),
		limit:       config.OutageLimit,
		vigil:       newVigil(disconnect.Client, disconnect.Agent, config.Heartbeat, config.Heartbeat, config.Clock()),
		presences:   make(map[string]presence),
		connections: make(map[uint16]string),
		endings:     make(map[string]connectionEnding),
		changed:     make(chan struct{}),
	}
	w.vigil.facts = config.Facts
	if w.limit <= 0 {
		w.limit = DefaultOutageLimit + patience
	}
	w.tasks.Go(w.clock)
	w.tasks.Go(w.run)
	if config.Refused != nil {
		w.tasks.Go(w.knock)
	}
	return w
}

// Done is closed when the session with the agent is over.
func (w *Watch) Done() <-chan struct{} { return w.done }

// Ending says why the session is over; the zero attribution before that.
func (w *Watch) Ending() disconnect.Attribution {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ending
}

// AgentInstance returns the id of the agent's life that this watch began with;
// empty before the first hello.
func (w *Watch) AgentInstance() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.instance
}

// WaitHello waits for the agent's first hello. It returns a
// *[disconnect.EndedError] when the watch ends before, and ctx's cause.
func (w *Watch) WaitHello(ctx context.Context) error {
	select {
	case <-w.hello:
		return nil
	default:
	}
	select {
	case <-w.hello:
		return nil
	case <-w.done:
		return &disconnect.EndedError{Attribution: w.Ending()}
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Interrupted reports since when the agent has been silent, if that is longer than
// two heartbeats and the session is not over.
func (w *Watch) Interrupted() (since time.Time, interrupted bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended || w.vigil.silence(w.config.Clock()) <= 2*w.vigil.beat {
		return time.Time{}, false
	}
	return w.vigil.heardAt, true
}

// Own says why the present silence is this host's own doing, if it is one and is: it slept
// or stood still, or its network was down.
func (w *Watch) Own() (disconnect.Attribution, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.config.Clock()
	w.vigil.look(now)
	return w.vigil.lately(now)
}

// Terminals names the terminals that the agent kept for our user when it was last heard,
// or some of them.
func (w *Watch) Terminals() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.terminals)
}

// usable returns what of the names may be kept and shown.
func usable(names []string) []string {
	names = names[:min(len(names), maxTerminals)]
	return slices.DeleteFunc(names, func(name string) bool { return !validID(name) })
}

// Presence feeds the watch what the server says of one life of the agent: online,
// or how its control link ended and whether the agent itself declared that.
func (w *Watch) Presence(instance string, online, goodbye bool, ending disconnect.Attribution) {
	if !validID(instance) {
		return
	}
	w.mu.Lock()
	if len(w.presences) >= 16 {
		mine, known := w.presences[w.instance]
		clear(w.presences)
		if known {
			w.presences[w.instance] = mine
		}
	}
	p := presence{online: online, goodbye: goodbye, ending: ending, at: w.config.Clock().Boot}
	if before, known := w.presences[instance]; known && !before.online && !online {
		p.at = before.at // it is told again on every link to the server
	}
	w.presences[instance] = p
	switch {
	case !online && w.successor == instance:
		w.successor = ""
	case online:
		w.successor = instance
	}
	var old *stream
	if online && w.instance != "" && instance != w.instance {
		old = w.stream
	}
	w.mu.Unlock()
	nudge(w.recheck)
	if online {
		// Ask whoever holds the agent's address now who it is.
		nudge(w.redial)
	}
	if old != nil {
		old.cut()
	}
}

// Heard waits until the agent was heard after t, and reports false when ctx or the
// watch ended before that.
func (w *Watch) Heard(ctx context.Context, t time.Time) bool {
	for {
		w.mu.Lock()
		heard := w.vigil.heardAt.After(t) && w.instance != ""
		changed := w.changed
		w.mu.Unlock()
		if heard {
			return true
		}
		select {
		case <-changed:
		case <-w.done:
			return false
		case <-ctx.Done():
			return false
		}
	}
}

// Goodbye ends the watch: it records g as the cause if there is none yet, tells the
// agent, waits for it to have read that (until ctx ends, at most 200 ms), and
// closes. Of an ending that was recorded before, the agent is told nothing.
func (w *Watch) Goodbye(ctx context.Context, g disconnect.Goodbye) {
	w.mu.Lock()
	s := w.stream
	first := w.endLocked(g.On(disconnect.AgentToClient))
	if first && s != nil {
		w.sent = told{w.ending, disconnect.Client, w.endedAt}
	}
	w.mu.Unlock()
	if first && s != nil {
		ctx, cancel := context.WithTimeout(ctx, goodbyeTimeout)
		defer cancel()
		s.finish(ctx, g)
	}
	w.stop()
}

// End ends the watch for a cause that others told: the server, which took the right
// to be here back. The agent is told nothing. It reports whether nothing had ended the
// watch before, and does not wait.
func (w *Watch) End(a disconnect.Attribution) bool {
	w.mu.Lock()
	first := w.endLocked(a.On(disconnect.AgentToClient))
	if first && a.Initiator == disconnect.Server {
		w.received = told{w.ending, disconnect.Server, w.endedAt}
	}
	w.mu.Unlock()
	if first {
		w.cancel()
	}
	return first
}

// Close cuts the stream without a word and waits for the watch's goroutines. An
// ending by Close alone is ours, so the watch calls it client_closed.
func (w *Watch) Close() {
	w.end(disconnect.Attribution{
		ConnectType: disconnect.AgentToClient,
		Reason:      disconnect.ClientClosed,
		Initiator:   disconnect.Client,
		Detail:      "closed without a goodbye",
	})
	w.stop()
}

func (w *Watch) stop() {
	w.cancel()
	w.tasks.Wait()
}

func (w *Watch) end(a disconnect.Attribution) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.endLocked(a)
}

// endLocked records the first terminal cause.
func (w *Watch) endLocked(a disconnect.Attribution) bool {
	if w.ended {
		return false
	}
	w.ended, w.ending, w.endedAt = true, a, w.config.Clock().Boot
	close(w.done)
	return true
}

// clock weighs the evidence whenever there is new, and when time itself is some.
func (w *Watch) clock() {
	defer func() {
		w.mu.Lock()
		rest := w.vigil.rest()
		w.mu.Unlock()
		w.interrupted(rest)
	}()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-w.done:
			return
		case <-w.recheck:
		case <-timer.C:
		}
		next, over := w.weigh()
		if over {
			return
		}
		w.mu.Lock()
		now := w.config.Clock()
		ready, word := w.vigil.ripe(now)
		if word != nil && w.stream != nil {
			w.stream.send(explanationFrame(*word))
		}
		noticed, silence := w.vigil.notice(now), w.vigil.silence(now)
		kick, pace := w.vigil.missed(now) || w.vigil.unsettled(), w.vigil.pace(now)
		w.mu.Unlock()
		w.interrupted(ready)
		if noticed {
			w.config.Logger.Info("the agent is not heard", "silent_for", silence.Round(time.Second))
		}
		timer.Reset(min(time.Until(next), pace))
		if kick {
			w.config.Kick()
		}
	}
}

func (w *Watch) interrupted(all []Interruption) {
	for _, i := range all {
		w.config.OnInterruption(i)
	}
}

// weigh ends the watch if the evidence suffices. The outage limit counts the time in
// which this process was there to hear.
func (w *Watch) weigh() (next time.Time, over bool) {
	w.mu.Lock()
	reading := w.config.Clock()
	w.vigil.look(reading)
	now := time.Now()
	a, over, next := w.evidenceLocked(now).judge(now)
	if over {
		if cause, known := w.vigil.cause(reading); known && a.Reason == disconnect.NetworkTimeout {
			a.Reason, a.Initiator, a.Detail = cause.Reason, cause.Initiator, disconnect.Scrub(cause.Detail+"; "+a.Detail)
		}
		w.endLocked(a)
	}
	w.mu.Unlock()
	if over {
		w.cancel()
	}
	return next, over
}

// Probe makes the watch look at once, and dial anew if it has no stream: something has
// changed on this host.
func (w *Watch) Probe() {
	nudge(w.recheck)
	nudge(w.redial)
}

// PathChanged tells the watch how packets reach the agent now.
func (w *Watch) PathChanged(p Path) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.vigil.pathChanged(p, w.config.Clock())
}

// RelayLost tells the watch how a connection of this end to a relay ended, which may be the
// server's own.
func (w *Watch) RelayLost(a disconnect.Attribution, ofServer bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.vigil.relayLost(a, ofServer, w.config.Clock())
}

// OutageLimit is how long the agent may be silent before the watch ends.
func (w *Watch) OutageLimit() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.limit
}

// nudge sends on a channel of capacity 1 without waiting.
func nudge(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
