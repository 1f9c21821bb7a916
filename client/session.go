package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"fairlead.dev/fairlead/agent/proto"
	"fairlead.dev/fairlead/companion"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/verdict"
	"fairlead.dev/fairlead/sshend"
)

const (
	// exitLost is the exit code of a session that the remote process did not end.
	exitLost = 255
	// outputGrace is how long a session whose agent is gone may still end by itself.
	outputGrace = 300 * time.Millisecond
	// leaveWait bounds what a leaving client waits for.
	leaveWait = 300 * time.Millisecond
	// nudgeTime is how long a program that is to paint its terminal anew has another size:
	// long enough that it is not one change that changed nothing.
	nudgeTime = 50 * time.Millisecond
)

// Size is a terminal's size in characters.
type Size struct{ Columns, Rows int }

// SessionOptions say what to run and what it is connected to.
type SessionOptions struct {
	// Command is a command line for the remote user's shell. Shell asks for a login
	// shell instead.
	Command string
	Shell   bool
	// Subsystem, if not empty, is asked for instead of both.
	Subsystem string
	// PTY gives the session a terminal of type Term and of Size. Resize follows the
	// local one; nil: never.
	PTY    bool
	Term   string
	Size   Size
	Resize <-chan Size
	Env    map[string]string
	// Repaint has whoever paints the terminal do it anew at each value: the agent for an
	// attachment, and else the program, by a size that is another one for a moment. nil:
	// never.
	Repaint <-chan struct{}
	// Stdin nil is an empty input. Its end is not the session's: the agent is told
	// that no more input comes. [ErrLeave] from it is the user's wish to leave. A Read
	// that blocks cannot be ended from here, so the goroutine that reads Stdin may
	// outlive the session until its Read returns; what it read then is lost.
	Stdin io.Reader
	// Stdout and Stderr nil discard. An error of theirs ends the session. A Write that
	// blocks does not keep a session whose user left or whose ctx ended: its goroutine
	// may outlive the session until the Write returns.
	Stdout, Stderr io.Writer
	// Signals are passed to the remote process; nil: none.
	Signals <-chan os.Signal
}

// SessionEnd says how a session ended.
type SessionEnd struct {
	// ExitCode is the remote exit status, 128+n for a remote process that signal n
	// ended, and 255 when the session was lost or never began.
	ExitCode int
	// Exited: the exit code is the remote process' own.
	Exited      bool
	Attribution disconnect.Attribution
	// ConnectionID is the agent's name for the connection; empty when it is not known.
	ConnectionID string
	// Err is set when the session never began: why, in one sentence.
	Err error
	// Testimony is what the client testifies of the end; nil of a session that never began.
	Testimony *verdict.Testimony

	noticed      verdict.Moment         // when the session was seen to end
	parentKilled bool                   // the local program that was served is gone
	broken       disconnect.Attribution // what the transport's own error means; zero if it gave none
}

// Goodbye is what a client that leaves after this session tells the agent and the
// server.
func (e SessionEnd) Goodbye() disconnect.Goodbye {
	g := disconnect.Goodbye{Reason: disconnect.ClientClosed, Initiator: disconnect.Client}
	switch {
	case e.Exited:
		g.Reason, g.Detail = disconnect.Graceful, "the session is over"
	case e.Attribution.Reason == disconnect.ClientClosed:
		g.Detail = e.Attribution.Detail
	default:
		g.Detail = "its session ended: " + e.Attribution.Reason.String()
	}
	return g
}

// session is one run of a command or shell.
type session struct {
	workspace *Workspace
	options   SessionOptions
	conn      *sshConn
	channel   ssh.Channel

	cause    disconnect.Latch // our own reason to end it
	leaving  chan struct{}    // closed when cause is set
	finished chan struct{}    // closed when the channel is closed and all output is written
	over     chan struct{}    // closed when nothing more is waited for
	tasks    sync.WaitGroup   // all goroutines but those of Stdin, Stdout and Stderr

	noticed verdict.Moment         // when await saw the end
	broken  disconnect.Attribution // what the transport's error means that was there then

	mu    sync.Mutex // guards exit and early
	exit  exitStatus
	early bool // the exit arrived before anybody spoke of another ending
}

// RunSession runs a command or shell in the workspace until it ends, ctx ends (the
// user's choice to leave, unless ctx's cause carries another attribution), or the
// connection is lost; then it logs the ending once. Leaving says goodbye for the
// whole workspace.
func (w *Workspace) RunSession(ctx context.Context, options SessionOptions) SessionEnd {
	end := w.runSession(ctx, options)
	w.logEnd(ctx, &end)
	return end
}

func (w *Workspace) logEnd(ctx context.Context, end *SessionEnd) {
	end.Attribution.Log(context.WithoutCancel(ctx), w.config.logger, "session ended",
		slog.String("workspace", disconnect.Scrub(w.config.name)),
		slog.String("connection_id", end.ConnectionID),
		slog.Int("exit_code", end.ExitCode))
	w.testify(ctx, end)
}

func (w *Workspace) runSession(ctx context.Context, options SessionOptions) SessionEnd {
	conn, err := w.connect(ctx)
	if err != nil {
		return notBegun(err)
	}
	s := &session{
		workspace: w, options: options, conn: conn,
		leaving: make(chan struct{}), finished: make(chan struct{}), over: make(chan struct{}),
	}
	defer s.tasks.Wait()
	defer close(s.over)
	defer conn.close()
	there, stop := w.whileThere(ctx)
	defer stop()
	uncut := context.AfterFunc(there, func() { _ = conn.raw.Close() })
	requests, err := s.start()
	if !uncut() {
		err = context.Cause(there)
	}
	if err != nil {
		return notBegun(s.notStarted(there, err))
	}
	s.serve(requests)
	s.tasks.Go(func() { w.record(conn.port, s.over) })
	s.await(ctx)
	end := s.end(ctx)
	end.noticed, end.broken = s.noticed, s.broken
	return end
}

// record notes that our connection from port is open, as soon as the agent has named it,
// until over.
func (w *Workspace) record(port uint16, over <-chan struct{}) {
	if w.config.records == nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	var waiting sync.WaitGroup
	defer waiting.Wait()
	defer cancel()
	waiting.Go(func() {
		defer cancel()
		select {
		case <-over:
		case <-ctx.Done():
		}
	})
	if id, ok := w.watch.WaitConnection(ctx, port); ok {
		w.config.records.keep(id, openRecord+w.config.name, over)
	}
}

// notBegun is the end of a session that never was.
func notBegun(err error) SessionEnd {
	a, ok := disconnect.FromError(err)
	if !ok {
		a = judge(err)
	}
	return SessionEnd{ExitCode: exitLost, Attribution: a.On(disconnect.AgentToClient), Err: err}
}

// notStarted says why the agent did not start what was asked for.
func (s *session) notStarted(ctx context.Context, err error) error {
	what := "start a session in workspace " + disconnect.Scrub(s.workspace.config.name)
	if ctx.Err() != nil {
		return failed(what, judge(context.Cause(ctx)), err)
	}
	var refused *ssh.OpenChannelError
	if errors.As(err, &refused) {
		if a, ok := refusedFor(refused.Message); ok {
			return failed(what, a, err)
		}
	}
	if refused != nil || errors.Is(err, errRefused) {
		return failed(what, disconnect.Attribution{
			ConnectType: disconnect.AgentToClient,
			Reason:      disconnect.ResourceExhausted,
			Initiator:   disconnect.Agent,
			Detail:      disconnect.Scrub(err.Error()),
		}, err)
	}
	return failed(what, s.workspace.lost(ctx, s.conn.port, s.conn.broken, &s.conn.told), err)
}

// refusedFor reads why the agent lets no session in, which it says as "reason: detail";
// it reports false for a refusal that is no rule of the workspace.
func refusedFor(message string) (disconnect.Attribution, bool) {
	word, detail, _ := strings.Cut(message, ": ")
	reason, err := disconnect.ParseReason(word)
	if err != nil || reason == disconnect.Unknown {
		return disconnect.Attribution{}, false
	}
	g := disconnect.Goodbye{Reason: reason, Initiator: disconnect.Agent, Detail: disconnect.Scrub(detail)}
	if reason == disconnect.WorkspaceStopped {
		g.Initiator = disconnect.Server
	}
	return g.On(disconnect.AgentToClient), true
}

var errRefused = errors.New("the agent refused")

// start opens the channel and asks for everything in it. The requests that expect
// no answer share their round trip with the last one.
func (s *session) start() (<-chan *ssh.Request, error) {
	channel, requests, err := s.conn.client.OpenChannel("session", nil)
	if err != nil {
		return nil, fmt.Errorf("open session: %w", err)
	}
	s.channel = channel
	for name, value := range s.options.Env {
		payload := ssh.Marshal(struct{ Name, Value string }{name, value})
		if _, err := channel.SendRequest("env", false, payload); err != nil {
			return nil, fmt.Errorf("send environment: %w", err)
		}
	}
	if s.options.PTY {
		if err := s.ask("pty-req", ptyRequest(s.options.Term, s.options.Size)); err != nil {
			return nil, err
		}
	}
	if name := s.options.Subsystem; name != "" {
		return requests, s.ask("subsystem", ssh.Marshal(struct{ Name string }{name}))
	}
	if s.options.Shell {
		return requests, s.ask("shell", nil)
	}
	return requests, s.ask("exec", ssh.Marshal(struct{ Command string }{s.options.Command}))
}

func (s *session) ask(name string, payload []byte) error {
	ok, err := s.channel.SendRequest(name, true, payload)
	switch {
	case err != nil:
		return fmt.Errorf("request %s: %w", name, err)
	case !ok:
		return fmt.Errorf("request %s: %w", name, errRefused)
	}
	return nil
}

func ptyRequest(term string, size Size) []byte {
	if term == "" {
		term = "xterm"
	}
	return ssh.Marshal(struct {
		Term                         string
		Columns, Rows, Width, Height uint32
		Modes                        string
	}{term, dimension(size.Columns), dimension(size.Rows), 0, 0, "\x00"})
}

// dimension is a size that came from outside, as the wire has it.
func dimension(n int) uint32 { return uint32(min(max(n, 0), 1<<16-1)) }

// serve starts the goroutines that carry the session.
func (s *session) serve(requests <-chan *ssh.Request) {
	var output sync.WaitGroup
	output.Go(func() { s.copyOut(s.options.Stdout, s.channel) })
	output.Go(func() { s.copyOut(s.options.Stderr, s.channel.Stderr()) })
	output.Go(func() { s.serveRequests(requests) })
	go func() { // see SessionOptions.Stdout; await waits for it, but not for ever
		output.Wait()
		close(s.finished)
	}()
	s.tasks.Go(s.control)
	if s.options.Stdin == nil {
		_ = s.channel.CloseWrite()
		return
	}
	go s.copyIn() // see SessionOptions.Stdin
}

func (s *session) copyIn() {
	err, _ := transfer(s.channel, s.options.Stdin)
	if errors.Is(err, ErrLeave) {
		s.leave("~.")
		return
	}
	// An end of the input is not an ending; a failed write is seen by who reads.
	_ = s.channel.CloseWrite()
}

// copyOut writes what the remote process says. When nobody takes it any more, there
// is no use in going on.
func (s *session) copyOut(to io.Writer, from io.Reader) {
	if to == nil {
		to = io.Discard
	}
	if _, err := transfer(to, from); err != nil {
		s.leave("local output: " + err.Error())
		_, _ = io.Copy(io.Discard, from)
	}
}

// serveRequests takes the remote process' exit, and the agent's word of why it ends
// this session, until the channel is closed.
func (s *session) serveRequests(requests <-chan *ssh.Request) {
	for req := range requests {
		if a, ok := parseDisconnect(req); ok {
			s.conn.hear(a)
		}
		if exit, ok := parseExit(req); ok {
			s.exited(exit)
		}
		if req.WantReply {
			_ = req.Reply(false, nil)
		}
	}
}

func (s *session) exited(exit exitStatus) {
	early := true
	select {
	case <-s.workspace.watch.Done():
		early = false
	case <-s.conn.heard:
		early = false
	case <-s.leaving:
		early = false
	default:
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.exit.known {
		s.exit, s.early = exit, early
	}
}

// control passes on signals and sizes until the session ends.
func (s *session) control() {
	resize, signals, size := s.options.Resize, s.options.Signals, s.options.Size
	var nudged <-chan time.Time
	for {
		select {
		case <-s.finished:
			return
		case <-s.over:
			return
		case now, ok := <-resize:
			if !ok {
				resize = nil
				continue
			}
			size = now
			s.tellSize(size)
		case <-s.options.Repaint:
			if strings.HasPrefix(s.options.Subsystem, proto.AttachSubsystem+" ") {
				_, _ = s.channel.SendRequest(proto.RefreshRequest, false, nil)
				continue
			}
			s.tellSize(Size{size.Columns, max(size.Rows-1, 1)})
			nudged = time.After(nudgeTime)
		case <-nudged:
			s.tellSize(size)
		case signal, ok := <-signals:
			if !ok {
				signals = nil
				continue
			}
			if name := sshend.SignalName(signal); name != "" {
				_, _ = s.channel.SendRequest("signal", false, ssh.Marshal(struct{ Name string }{name}))
			}
		}
	}
}

func (s *session) tellSize(size Size) {
	_, _ = s.channel.SendRequest("window-change", false, ssh.Marshal(struct {
		Columns, Rows, Width, Height uint32
	}{dimension(size.Columns), dimension(size.Rows), 0, 0}))
}

// leave ends the session by the user's choice.
func (s *session) leave(how string) { s.abandon(s.workspace.left(how)) }

// abandon records why this side ends the session.
func (s *session) abandon(a disconnect.Attribution) {
	if s.cause.Set(a) {
		close(s.leaving)
	}
}

// await waits until the session is over, for whichever reason, and takes down the
// connection. Causes are recorded before anything is closed.
func (s *session) await(ctx context.Context) {
	defer func() {
		if s.noticed.IsZero() {
			s.noticed = companion.Moment()
		}
	}()
	select {
	case <-s.finished:
		s.broken = brokenBy(s.conn.raw)
		return
	case <-s.leaving:
	case <-ctx.Done():
		s.abandon(s.workspace.leaving(ctx))
	case <-s.workspace.watch.Done():
		s.noticed = companion.Moment()
		s.drain(ctx, outputGrace)
		s.conn.close()
		s.drain(ctx, 0)
		return
	}
	s.noticed = companion.Moment()
	if a, ok := s.cause.Get(); ok {
		tell, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveWait)
		defer cancel()
		s.workspace.Goodbye(tell, a.Goodbye())
	}
	s.conn.close()
	s.drain(ctx, leaveWait)
}

// brokenBy is what the error means that a transport gave; zero when it gave none, or just
// ended.
func brokenBy(conn *sshend.Conn) disconnect.Attribution {
	if err := conn.Err(); err != nil && !errors.Is(err, io.EOF) {
		return judge(err)
	}
	return disconnect.Attribution{}
}

// drain waits for the output to be written: for at most d, or with 0 until the
// caller gives up.
func (s *session) drain(ctx context.Context, d time.Duration) {
	var late <-chan time.Time
	if d > 0 {
		timer := time.NewTimer(d)
		defer timer.Stop()
		late = timer.C
		ctx = context.WithoutCancel(ctx)
	}
	select {
	case <-s.finished:
	case <-late:
	case <-ctx.Done():
	}
}
