package client

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"fairlead.dev/fairlead/companion"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/verdict"
	"fairlead.dev/fairlead/tailnet"
)

// connectTimeout bounds the first connection to an agent that the server calls
// reachable.
const connectTimeout = 15 * time.Second

// workspaceConfig is what a Workspace needs of the world: ways to dial, and the path
// below them.
type workspaceConfig struct {
	name    string
	hostKey ssh.PublicKey // nil when the server has none pinned; then nothing is accepted

	dialSSH, dialCompanion, dialAPI func(ctx context.Context) (net.Conn, error)
	packets                         packets

	instance, version string
	logger            *slog.Logger
	heartbeat         time.Duration // 0: the companion's default
	outageLimit       time.Duration
	records           *Records
	kick              func()                               // tries to reach an agent that is silent; nil: nothing does
	facts             func(since time.Time) []verdict.Fact // what this machine testifies of itself; nil: nothing
	serverSilent      func() bool                          // the server is not heard either; nil: nobody knows
}

// Workspace is the way to one workspace's agent: its SSH port, and the companion
// stream that watches over it. It ends once, for all of its sessions. Methods are
// safe for concurrent use.
type Workspace struct {
	config workspaceConfig
	watch  *companion.Watch
	tasks  sync.WaitGroup // what is told of sessions that are over

	mu    sync.Mutex // guards first
	first net.Conn   // dialled ahead for whoever comes first
}

// openWorkspace starts to watch the agent and dials its SSH port at the same time.
// It returns when the SSH port answered. adopt is called with the workspace before
// anything can have happened to it.
func openWorkspace(ctx context.Context, config workspaceConfig, adopt func(*Workspace)) (*Workspace, error) {
	if config.logger == nil {
		config.logger = slog.New(slog.DiscardHandler)
	}
	w := &Workspace{config: config}
	w.watch = companion.NewWatch(companion.WatchConfig{
		Dial:     config.dialCompanion,
		Instance: config.instance, Version: config.version, Logger: config.logger,
		Heartbeat: config.heartbeat, OutageLimit: config.outageLimit,
		OnInterruption: w.interrupted, Kick: config.kick, Facts: config.facts, Refused: tailnet.Refused,
	})
	if adopt != nil {
		adopt(w)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, connectTimeout, &disconnect.EndedError{Attribution: disconnect.Attribution{
		ConnectType: disconnect.AgentToClient,
		Reason:      disconnect.NetworkTimeout,
		Initiator:   disconnect.Network,
		Detail:      fmt.Sprintf("its agent did not answer for %v", connectTimeout),
	}})
	defer cancel()
	conn, err := config.dialSSH(ctx)
	if err != nil {
		a := w.notConnected(ctx, err)
		w.watch.Goodbye(ctx, disconnect.Goodbye{
			Reason: disconnect.ClientClosed, Initiator: disconnect.Client, Detail: "the client gave up connecting",
		})
		return nil, failed(fmt.Sprintf("connect to workspace %s", disconnect.Scrub(config.name)), a, err)
	}
	w.first = conn
	return w, nil
}

// notConnected says why there is no connection: the watch's word, our own cause, or
// what the error means.
func (w *Workspace) notConnected(ctx context.Context, err error) disconnect.Attribution {
	if a := w.watch.Ending(); !a.IsZero() {
		return a
	}
	if ctx.Err() != nil {
		return judge(context.Cause(ctx))
	}
	return judge(err)
}

// judge is what an error on the way to the agent means.
func judge(err error) disconnect.Attribution {
	return tailnet.Judge(err, disconnect.AgentToClient, disconnect.Client)
}

// Name returns the workspace's name as it was asked for.
func (w *Workspace) Name() string { return w.config.name }

// Done is closed when the agent is gone, said goodbye, or was left.
func (w *Workspace) Done() <-chan struct{} { return w.watch.Done() }

// Ending says why the workspace ended; the zero attribution before that.
func (w *Workspace) Ending() disconnect.Attribution { return w.watch.Ending() }

// Interrupted reports since when the agent has been silent, if that is long enough
// to tell the user.
func (w *Workspace) Interrupted() (since time.Time, interrupted bool) { return w.watch.Interrupted() }

// Known says in a few words what is known of the agent's silence: of this machine, of the
// server, and of what the server says of the agent; empty: nothing.
func (w *Workspace) Known() string {
	if own, known := w.watch.Own(); known {
		if own.Reason == disconnect.NetworkUnreachable {
			return "no network here"
		}
		return "this side slept"
	}
	if w.config.serverSilent != nil && w.config.serverSilent() {
		return "the server too"
	}
	return w.watch.ServersWord()
}

// OutageLimit is how long the agent may be silent before the workspace ends.
func (w *Workspace) OutageLimit() time.Duration {
	return w.watch.OutageLimit()
}

// Terminals names the terminals that the agent kept for our user when it was last heard,
// or some of them.
func (w *Workspace) Terminals() []string { return w.watch.Terminals() }

// interrupted writes down that the agent was silent for a while.
func (w *Workspace) interrupted(i companion.Interruption) {
	i.Attribution.Log(context.Background(), w.config.logger, "connection interrupted",
		slog.String("workspace", disconnect.Scrub(w.config.name)), slog.Any("connection_ids", i.Connections),
		slog.Time("began", i.Began), slog.Duration("duration", i.Duration))
	w.testifyInterruption(i)
}

// DialSSH opens a connection to the agent's SSH port for raw use. The caller owns it.
func (w *Workspace) DialSSH(ctx context.Context) (net.Conn, error) {
	w.mu.Lock()
	conn := w.first
	w.first = nil
	w.mu.Unlock()
	if conn != nil {
		return conn, nil
	}
	conn, err := w.config.dialSSH(ctx)
	if err != nil {
		return nil, failed("connect to workspace "+disconnect.Scrub(w.config.name), w.notConnected(ctx, err), err)
	}
	return conn, nil
}

// SSH opens an SSH connection to the agent, whose host key must be the pinned one;
// otherwise the error is a [*HostKeyError]. The caller owns the connection.
func (w *Workspace) SSH(ctx context.Context) (*ssh.Client, error) {
	conn, err := w.connect(ctx)
	if err != nil {
		return nil, err
	}
	return conn.client, nil
}

func (w *Workspace) connect(ctx context.Context) (*sshConn, error) {
	ctx, stop := w.whileThere(ctx)
	defer stop()
	nc, err := w.DialSSH(ctx)
	if err != nil {
		return nil, err
	}
	return handshake(ctx, nc, w.config.name, w.config.hostKey)
}

// whileThere returns a context that also ends when the workspace does, with its ending as
// the cause. A transport to an agent that is gone need never fail by itself, so whoever
// waits for it waits with this. Call stop.
func (w *Workspace) whileThere(ctx context.Context) (there context.Context, stop func()) {
	there, cancel := context.WithCancelCause(ctx)
	var watching sync.WaitGroup
	watching.Go(func() {
		select {
		case <-w.watch.Done():
			cancel(&disconnect.EndedError{Attribution: w.watch.Ending()})
		case <-there.Done():
		}
	})
	return there, func() {
		cancel(nil)
		watching.Wait()
	}
}

// Goodbye leaves the workspace: it records g as the cause unless the end came
// before, and tells the agent. It waits for the agent to have read that until ctx
// ends, at most 200 ms, and then for the workspace's goroutines. It does not wait for what
// is told of its sessions: [Client.Close] does.
func (w *Workspace) Goodbye(ctx context.Context, g disconnect.Goodbye) {
	w.watch.Goodbye(ctx, g)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.first != nil {
		_ = w.first.Close()
		w.first = nil
	}
}

// presence passes on what the server says of the agent's life.
func (w *Workspace) presence(instance string, online, goodbye bool, ending disconnect.Attribution) {
	w.watch.Presence(instance, online, goodbye, ending)
}

// pathChanged passes on how packets reach the agent.
func (w *Workspace) pathChanged(p tailnet.Path) {
	w.watch.PathChanged(companion.Path{Relayed: p.Kind == tailnet.PathRelay, Via: p.Endpoint + p.Relay})
}

// failure is an ending told in one sentence. It carries the attribution for callers
// that ask [disconnect.FromError].
type failure struct {
	text  string
	ended *disconnect.EndedError
}

func failed(what string, a disconnect.Attribution, err error) error {
	text := what + ": " + a.Reason.String()
	if a.Detail != "" {
		text = what + ": " + disconnect.Scrub(a.Detail)
	}
	return &failure{text: text, ended: &disconnect.EndedError{Attribution: a, Err: err}}
}

func (f *failure) Error() string { return f.text }
func (f *failure) Unwrap() error { return f.ended }
