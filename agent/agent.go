// Package agent is the life of the process in a workspace: it connects to the
// server, joins the tailnet, serves SSH and the companion stream to clients, reports
// their connections, and attributes every ending that it meets.
//
// It is not the SSH server (agent/agentssh), the packet engine (tailnet) or the
// control link (control); it owns those parts, and the order in which they start
// and stop.
package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"fairlead.dev/fairlead/agent/agentcontextconfig"
	"fairlead.dev/fairlead/agent/agentssh"
	"fairlead.dev/fairlead/agent/proto"
	"fairlead.dev/fairlead/agent/reconnectingpty"
	"fairlead.dev/fairlead/companion"
	"fairlead.dev/fairlead/control"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/hostwatch"
	"fairlead.dev/fairlead/sdk/agentsdk"
	"fairlead.dev/fairlead/tailnet"
)

// Defaults of [Options].
const (
	// DefaultDetachedLimit is how long a terminal lives while nobody is attached.
	DefaultDetachedLimit = reconnectingpty.DefaultDetachedLimit
	// DefaultShutdownTimeout bounds Close.
	DefaultShutdownTimeout = 5 * time.Second
)

// EnvToken names the variable that may carry the agent token. It is never passed
// to the processes of sessions.
const EnvToken = "FAIRLEAD_AGENT_TOKEN"

// envLogin carries a user's login. Whoever starts an agent from a script that also
// uses the command line must not hand that login to everybody with a session here.
const envLogin = "FAIRLEAD_TOKEN"

// Options configure an agent. AccessURL, Token and StateDir are required.
type Options struct {
	// AccessURL is where the server is reached; its path prefix is kept.
	AccessURL *url.URL
	Token     string
	// StateDir keeps the SSH host key and the node key. One agent at a time may use it.
	StateDir string
	Logger   *slog.Logger
	Version  string
	// ForceRelay keeps all tailnet traffic on the relay.
	ForceRelay bool
	// OutageLimit is how long a client may be silent before its sessions end; 0: what the
	// server says.
	OutageLimit time.Duration
	// DetachedLimit ends a terminal that nobody was attached to for so long.
	DetachedLimit time.Duration
	// ShutdownTimeout bounds Close.
	ShutdownTimeout time.Duration
	ContextConfig   agentcontextconfig.Config
	HTTPClient      *http.Client
	// Ended is told how each control link (type "control") and each session ended, and how
	// long it lasted; nil: nobody is.
	Ended func(ending disconnect.Attribution, kind string, lasted time.Duration)

	retryFirst, retryLast time.Duration // for tests; see connect.go
}

// Agent is a running workspace agent.
type Agent interface {
	// Wait returns nil when ctx ends, or the error because of which the agent has
	// given up, in one sentence. The agent still has to be closed.
	Wait(ctx context.Context) error
	// Close ends every session with a goodbye, tells the server, and waits for all
	// of it for at most the shutdown time-out. A second call returns what the first did.
	Close() error
	// Status tells what the agent does now.
	Status() Status
	// Kill makes a Close, in progress or to come, stop waiting for anybody.
	Kill()
}

// agent is the one implementation of [Agent].
type agent struct {
	opts     Options
	logger   *slog.Logger
	instance string // names this life of this process

	// hardCtx ends when nothing may go on; its cause carries the attribution.
	hardCtx    context.Context
	hardCancel context.CancelCauseFunc
	// gracefulCtx ends when a local shutdown begins to leave the server, and for no
	// other reason: it is what endings are classified with.
	gracefulCtx    context.Context
	gracefulCancel context.CancelCauseFunc

	// manifest is the server's latest; nil before the first.
	manifest         atomic.Pointer[agentsdk.Manifest]
	contextConfigAPI *agentcontextconfig.API

	reportQueue
	tombstones *tombstones
	ownEndings ownEndings

	live   liveSessions
	notice atomic.Pointer[notice]                 // the platform's, nil: it gave none
	stop   atomic.Pointer[disconnect.Attribution] // the workspace is stopped so; nil: it is not
	// askAgain has one place: the manifest is to be fetched without the server's asking.
	askAgain chan struct{}

	state     *state
	node      *tailnet.Node
	peers     *tailnet.PeerBook
	relay     *tailnet.RelayDialer
	ssh       *agentssh.Server
	terminals *reconnectingpty.Manager
	companion *companion.Host
	host      *hostwatch.Watcher
	memory    *hostwatch.Memory

	gauges gauges

	linkMu sync.Mutex    // guards link and coord
	link   *control.Link // nil while the server is out of reach
	coord  chan error    // gives how the coordination under way ended, then is closed; nil when none is

	routines sync.WaitGroup                         // listeners and runLoop
	loopDone chan struct{}                          // runLoop has returned
	failed   chan error                             // has one place: why the agent gave up
	refused  atomic.Pointer[disconnect.Attribution] // the same, in words; nil: it did not

	patience  context.Context // ends when a shutdown must not wait any longer
	runOut    context.CancelFunc
	closeOnce sync.Once
	closeErr  error
}

// New starts an agent. It returns as soon as the local parts are up; the server is
// contacted in the background and again whenever the link is lost.
func New(opts Options) (Agent, error) {
	a, err := newAgent(opts)
	if err != nil {
		return nil, err
	}
	a.start()
	return a, nil
}

func newAgent(opts Options) (*agent, error) {
	opts = withDefaults(opts)
	state, err := openState(opts.StateDir)
	if err != nil {
		return nil, err
	}
	a := &agent{
		opts:     opts,
		logger:   opts.Logger,
		instance: uuid.NewString(),
		state:    state,
		loopDone: make(chan struct{}),
		failed:   make(chan error, 1),
		askAgain: make(chan struct{}, 1),
	}
	a.watchMemory()
	a.openReports()
	a.tombstones = openTombstones(opts.StateDir, opts.Logger)
	if err := a.init(); err != nil {
		a.memory.Close()
		return nil, errors.Join(err, a.journal.Close(), a.tombstones.close(), state.close())
	}
	return a, nil
}

func withDefaults(opts Options) Options {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.ShutdownTimeout <= 0 {
		opts.ShutdownTimeout = DefaultShutdownTimeout
	}
	if opts.retryFirst <= 0 {
		opts.retryFirst, opts.retryLast = firstRetry, lastRetry
	}
	if opts.HTTPClient == nil {
		opts.HTTPClient = http.DefaultClient
	}
	return opts
}

// init builds the parts; nothing of it talks to the server.
func (a *agent) init() error {
	a.hardCtx, a.hardCancel = context.WithCancelCause(context.Background())
	a.gracefulCtx, a.gracefulCancel = context.WithCancelCause(a.hardCtx)
	a.patience, a.runOut = context.WithCancel(context.Background())
	a.contextConfigAPI = agentcontextconfig.NewAPI(a.directory, a.opts.ContextConfig)

	a.relay = tailnet.NewRelayDialer(a.opts.AccessURL, a.opts.HTTPClient)
	a.relay.SetRole(disconnect.ServerToAgent, disconnect.Agent)
	resetSignals()
	a.host = hostwatch.Start()
	a.companion = companion.NewHost(companion.HostConfig{
		Instance:    a.instance,
		Version:     a.opts.Version,
		Logger:      a.logger.With("part", "companion"),
		OutageLimit: a.opts.OutageLimit,
		OnGoodbye:   a.clientSaidGoodbye,
		OnSilence:   a.clientIsSilent,
		Kick:        a.kickPeer,
		Tombstones:  a.tombstones.of,
		Addresses:   tailnet.HostAddresses,

		Facts:          a.host.Facts,
		OnInterruption: a.clientInterrupted,
		Terminals:      terminals{a}.names,
	})
	node, err := tailnet.NewNode(tailnet.Options{
		PrivateKey:   a.state.nodeKey,
		Logger:       a.logger.With("part", "tailnet"),
		DialRelay:    a.relay.Dial,
		OnRelayEnd:   a.companion.RelayLost,
		ForceRelay:   a.opts.ForceRelay,
		AllowInbound: []uint16{proto.SSHPort, proto.CompanionPort, proto.APIPort},
	})
	if err != nil {
		a.host.Close()
		return fmt.Errorf("join the tailnet: %w", err)
	}
	a.node = node
	node.WatchPaths(a.pathChanged)
	a.host.Subscribe(func() { node.Refresh("the host is back") })
	a.peers = tailnet.NewPeerBook(tailnet.PeerBookOptions{Remove: node.RemovePeer, OnRemoved: a.peerRemoved})
	a.terminals = reconnectingpty.New(reconnectingpty.Config{Logger: a.logger, DetachedLimit: a.opts.DetachedLimit})
	a.ssh = agentssh.New(agentssh.Config{
		Logger:   a.logger,
		HostKey:  a.state.hostKey,
		Settings: a.sessionSettings,
		StripEnv: []string{EnvToken, envLogin},
		Track:    a.trackSession,

		OutOfMemory: a.memory.Killed,

		Terminals:  terminals{a},
		PeerEnding: a.peerEnding,
		Judge: func(err error) disconnect.Attribution {
			return tailnet.Judge(err, disconnect.AgentToClient, disconnect.Agent)
		},
	})
	return nil
}

// start brings up the listeners and the run loop.
func (a *agent) start() {
	a.routines.Go(func() { a.peers.Run(a.hardCtx) })
	a.routines.Go(a.serveSSH)
	a.routines.Go(a.serveCompanion)
	a.routines.Go(func() { a.signLife(a.hardCtx) })
	a.routines.Go(a.serveAPI)
	a.routines.Go(func() {
		defer close(a.loopDone)
		a.runLoop()
	})
}

// directory is where sessions start; "" before the first manifest.
func (a *agent) directory() string {
	if m := a.manifest.Load(); m != nil {
		return agentssh.Directory(m.Directory)
	}
	return ""
}

// Wait implements [Agent].
func (a *agent) Wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case err := <-a.failed:
		return err
	}
}
