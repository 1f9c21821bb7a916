package reconnectingpty

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"fairlead.dev/fairlead/agent/proto"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/pty"
)

// Defaults of [Config].
const (
	DefaultHistory       = 1 << 20
	DefaultDetachedLimit = 24 * time.Hour
	DefaultSlowLimit     = 90 * time.Second
	defaultKillGrace     = 5 * time.Second
	defaultMaxTerminals  = 64
	smallestHistory      = 4 << 10
	// killWait bounds what Close waits for killed processes.
	killWait = 200 * time.Millisecond
)

// Config says how a Manager keeps terminals. The zero value is good.
type Config struct {
	Logger *slog.Logger
	// History is how many bytes of the main screen a terminal keeps. Zero means 1 MiB.
	History int
	// DetachedLimit ends a terminal that nobody was attached to for so long. Zero means
	// 24 h.
	DetachedLimit time.Duration
	// SlowLimit is how long a viewer may read nothing while there is something to read.
	// It should be longer than a network may be away. Zero means 90 s.
	SlowLimit time.Duration
	// KillGrace is the time between SIGHUP and SIGKILL. Zero means 5 s.
	KillGrace time.Duration
	// MaxTerminals bounds those of one user. Zero means 64.
	MaxTerminals int
}

// Request asks for an attachment.
type Request struct {
	User string // whose terminal it is; opaque
	Name string // of the terminal; see ValidName
	// TakeOver sends the other viewers away.
	TakeOver bool
	// Terminal has the viewer's size and modes. The manager owns it from now on: a new
	// program runs on it.
	Terminal pty.PTY
	// Command is called when the program has to be started.
	Command func() *exec.Cmd
	// Title names the command in lists.
	Title string
}

// Info describes a terminal.
type Info struct {
	Name     string     `json:"name"`
	Command  string     `json:"command"` // "" is the login shell
	Title    string     `json:"title"`   // as the program set it
	Began    time.Time  `json:"began"`
	Detached *time.Time `json:"detached"` // since when nobody is attached; nil: somebody is
	Viewers  int        `json:"viewers"`
	Columns  int        `json:"columns"`
	Rows     int        `json:"rows"`
}

// key names a terminal.
type key struct{ user, name string }

// Manager keeps terminals. It is safe for concurrent use.
type Manager struct {
	cfg Config

	tasks sync.WaitGroup // the terminals' run

	mu        sync.Mutex // guards all below
	terminals map[key]*terminal
	ending    map[*terminal]struct{} // their program has ended, or is to
	closed    bool
}

// ErrNotFound says that a user has no terminal of that name.
var ErrNotFound = errors.New("there is no terminal of that name")

// New returns a manager without terminals.
func New(cfg Config) *Manager {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.History <= 0 {
		cfg.History = DefaultHistory
	}
	cfg.History = max(cfg.History, smallestHistory)
	cfg.DetachedLimit = cmp.Or(cfg.DetachedLimit, DefaultDetachedLimit)
	cfg.SlowLimit = cmp.Or(cfg.SlowLimit, DefaultSlowLimit)
	cfg.KillGrace = cmp.Or(cfg.KillGrace, defaultKillGrace)
	cfg.MaxTerminals = cmp.Or(cfg.MaxTerminals, defaultMaxTerminals)
	return &Manager{cfg: cfg, terminals: map[key]*terminal{}, ending: map[*terminal]struct{}{}}
}

// NameRule is what [ValidName] asks for, in words.
const NameRule = "it has 1 to 64 letters, digits, dots, dashes and underscores, and begins with a letter or digit"

// ValidName reports whether a terminal may be called s.
func ValidName(s string) bool {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
	return s != "" && len(s) <= 64 && strings.IndexByte(letters, s[0]) >= 0 && strings.Trim(s, letters+"._-") == ""
}

// Attach attaches to the terminal that the request names, and starts it if it is not
// there. The viewer has to be closed.
func (m *Manager) Attach(r Request) (*Viewer, error) {
	if !ValidName(r.Name) {
		_ = r.Terminal.Close()
		return nil, &disconnect.EndedError{Attribution: attribute(disconnect.ProtocolError, disconnect.Client,
			disconnect.Scrub(fmt.Sprintf("%q cannot be the name of a terminal: %s", r.Name, NameRule)))}
	}
	size, err := r.Terminal.Size()
	if err != nil {
		_ = r.Terminal.Close()
		return nil, fmt.Errorf("attach: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	t, ok := m.terminals[key{r.User, r.Name}]
	if ok {
		_ = r.Terminal.Close()
	} else if t, err = m.start(r, size); err != nil {
		_ = r.Terminal.Close()
		return nil, err
	}
	return t.attach(size, r.TakeOver), nil
}

// start starts a terminal. mu is held.
func (m *Manager) start(r Request, size pty.Size) (*terminal, error) {
	if m.closed {
		return nil, &disconnect.EndedError{Attribution: attribute(disconnect.ServerShutdown, disconnect.Agent, "the agent is stopping")}
	}
	n := 0
	for k := range m.terminals {
		if k.user == r.User {
			n++
		}
	}
	if n >= m.cfg.MaxTerminals {
		return nil, &disconnect.EndedError{Attribution: attribute(disconnect.LimitExceeded, disconnect.Agent,
			fmt.Sprintf("there are %d terminals already; end one with: fairlead attach WORKSPACE --kill NAME", n))}
	}
	t := &terminal{
		m: m, key: key{r.User, r.Name}, tty: r.Terminal, cmd: r.Command(), command: r.Title, began: time.Now(),
		exited: make(chan struct{}), dead: make(chan struct{}), over: make(chan struct{}),
		stop: make(chan struct{}), hard: make(chan struct{}),
		changed: make(chan struct{}, 1), read: make(chan struct{}, 1), nudge: make(chan struct{}, 1), keys: make(chan []byte),
		stream: newStream(), history: newHistory(m.cfg.History), modes: newModes(), size: size,
	}
	if err := r.Terminal.Start(t.cmd); err != nil {
		return nil, err
	}
	m.terminals[t.key] = t
	m.tasks.Go(func() {
		t.run()
		m.bury(t)
	})
	return t, nil
}

// attach adds a viewer.
func (t *terminal) attach(size pty.Size, takeOver bool) *Viewer {
	t.mu.Lock()
	defer t.mu.Unlock()
	v := &Viewer{
		t: t, wake: make(chan struct{}, 1), gone: make(chan struct{}),
		size: size, at: t.stream.head, since: time.Now(), stale: true,
	}
	if t.stopping && !t.ending.IsZero() {
		v.why = t.ending
		close(v.gone)
		return v
	}
	if takeOver {
		for _, other := range slices.Clone(t.viewers) {
			t.oust(other, attribute(disconnect.SessionReplaced, disconnect.Client, "another viewer took the terminal over"))
		}
	}
	t.viewers = append(t.viewers, v)
	t.detached = time.Time{}
	signal(t.changed)
	return v
}

// forget makes the name free, for a program that has ended.
func (m *Manager) forget(t *terminal) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.terminals[t.key] == t {
		delete(m.terminals, t.key)
		m.ending[t] = struct{}{}
	}
}

func (m *Manager) bury(t *terminal) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.ending, t)
}

// List describes a user's terminals by name.
func (m *Manager) List(user string) []Info {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := []Info{}
	for k, t := range m.terminals {
		if k.user == user {
			all = append(all, t.info())
		}
	}
	slices.SortFunc(all, func(a, b Info) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// Kill hangs a terminal up. Its viewers leave as by their user's wish, which it is. The
// name is free at once.
func (m *Manager) Kill(user, name string) error {
	m.mu.Lock()
	t, ok := m.terminals[key{user, name}]
	if ok {
		delete(m.terminals, t.key)
		m.ending[t] = struct{}{}
	}
	m.mu.Unlock()
	if !ok {
		return ErrNotFound
	}
	m.cfg.Logger.Info("terminal killed by its user", "terminal", name)
	t.halt(attribute(disconnect.ClientClosed, disconnect.Client, proto.TerminalKilled))
	return nil
}

// Users returns whose terminals are kept, in order.
func (m *Manager) Users() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	users := map[string]struct{}{}
	for k := range m.terminals {
		users[k.user] = struct{}{}
	}
	return slices.Sorted(maps.Keys(users))
}

// EndUser hangs up every terminal of a user for cause a, attached or not, and returns at
// once.
func (m *Manager) EndUser(user string, a disconnect.Attribution) {
	m.endThose(a, func(t *terminal) bool { return t.key.user == user })
}

// EndAll hangs up every terminal for cause a, and returns at once.
func (m *Manager) EndAll(a disconnect.Attribution) {
	m.endThose(a, func(*terminal) bool { return true })
}

func (m *Manager) endThose(a disconnect.Attribution, chosen func(*terminal) bool) {
	for _, t := range m.all() {
		if chosen(t) && t.halt(a) {
			m.cfg.Logger.Info("terminal ended", "terminal", t.key.name, "cause", a.String())
		}
	}
}

// Close refuses new terminals, hangs up those that are there, sending their viewers away
// for cause a, and waits for their ends. What is left when ctx ends is killed.
func (m *Manager) Close(ctx context.Context, a disconnect.Attribution) {
	m.mu.Lock()
	m.closed = true
	m.mu.Unlock()
	m.EndAll(a)
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		m.tasks.Wait()
	}()
	select {
	case <-gone:
		return
	case <-ctx.Done():
	}
	for _, t := range m.all() {
		t.kill()
	}
	late := time.NewTimer(killWait)
	defer late.Stop()
	select {
	case <-gone:
	case <-late.C: // a process in an uninterruptible sleep
	}
}

func (m *Manager) all() []*terminal {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []*terminal
	for _, t := range m.terminals {
		all = append(all, t)
	}
	for t := range m.ending {
		all = append(all, t)
	}
	return all
}
