package agentssh

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"fairlead.dev/fairlead/agent/proto"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/pty"
	"fairlead.dev/fairlead/sshend"
)

const (
	// ptyQuiet is how long a terminal may be silent, after its process ended and
	// while something else still holds it open, before its output counts as done.
	ptyQuiet = 500 * time.Millisecond

	// inputSettle is how soon after the end of the input the channel's end shows when
	// both are the client's leaving. (A transport that broke is known before either.)
	// It delays a process that ends with its input, so it is short; the two are
	// microseconds apart.
	inputSettle = 5 * time.Millisecond

	// notStarted is the exit status that a client is told when nothing could be started,
	// as a shell has it for a program that it found and could not run.
	notStarted = 126
)

// session is one session channel. Its first terminal cause is in end, and decides:
// the process ended (awaitExit), the client left or the transport broke (gone is
// closed, cause judges), or the connection was stopped (conn.stop claims).
type session struct {
	c      *conn
	ch     ssh.Channel
	stderr *lockedWriter

	// Set by the goroutine that serves requests, before run begins.
	pty      pty.PTY // nil without a terminal
	term     string
	env      []string
	app      string
	name     string
	settings Settings
	agent    *agentSocket // nil: the client's authentication agent is not forwarded
	x11      *x11Display  // nil: nor is its display
	kind     Kind
	request  proto.Attach  // of a viewer
	query    *proto.Attach // of terminals, instead of running something
	proc     *process      // nil if it did not start: see startErr
	startErr error
	id       string
	ended    func(Ended)

	bytes     meter
	end       disconnect.Latch
	exited    atomic.Bool               // end is the exit of the process
	exiting   atomic.Bool               // the process ended: only a peer that left may have come first
	gone      chan struct{}             // closed when the channel is closed from the other side
	goneAlone bool                      // set before gone: the transport had not ended then
	inputEnd  atomic.Pointer[time.Time] // when the input ended
	reported  sync.Once
	breakOnce sync.Once
	broken    chan struct{} // closed when one of its goroutines panicked
	over      chan struct{} // closed when run, if it began, has ended
	stopOnce  sync.Once
	stopped   chan struct{} // closed when this session alone was ended

	mu       sync.Mutex // guards signaled
	signaled map[string]bool
}

func newSession(c *conn, ch ssh.Channel) *session {
	return &session{
		c: c, ch: ch, stderr: &lockedWriter{w: ch.Stderr()},
		gone: make(chan struct{}), broken: make(chan struct{}), over: make(chan struct{}),
		stopped: make(chan struct{}), signaled: make(map[string]bool),
	}
}

// lockedWriter serialises the process's standard error with our last words on it.
type lockedWriter struct {
	mu sync.Mutex // guards w
	w  io.Writer
}

func (l *lockedWriter) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(b)
}

// run sees a session that was launched to its end: one log line, one ended call,
// nothing left of the process group that the client does not want to keep.
func (s *session) run() {
	defer close(s.over)
	defer s.c.forget(s)
	defer s.ch.Close()
	defer s.closeLent()
	defer s.cleanUp()
	defer func() {
		if r := recover(); r != nil {
			s.logPanic(r)
			s.end.Set(panicked(r))
			s.report()
		}
	}()
	if s.query != nil {
		s.answer()
		return
	}
	s.tellRefused()
	if s.proc == nil {
		s.end.Set(judgeStart(s.startErr))
		s.report()
		s.say("cannot start: " + startText(s.startErr))
		_, _ = s.ch.SendRequest("exit-status", false, ssh.Marshal(exitStatusPayload{notStarted}))
		return
	}
	flushed := s.await()
	s.end.Set(s.cause())
	s.report()
	if !flushed && (s.isStopped() || s.c.isStopped()) {
		s.tell()
	}
	if s.exited.Load() {
		s.sendStatus(flushed)
	}
}

// await returns when the session is over, and whether all output was sent.
func (s *session) await() (flushed bool) {
	p := s.proc
	output := make(chan struct{})
	s.spawn(func() { s.awaitExit(p) })
	s.spawn(s.keepTime)
	if p.files != nil {
		close(output) // it answers itself
	} else {
		s.spawn(func() { s.copyInput(p) })
		s.spawn(func() {
			defer close(output)
			s.copyOutput(p)
		})
	}
	select {
	case <-p.exited:
		if p.sentAway {
			return false
		}
	case <-s.gone:
		return false
	case <-s.stopped:
		return false
	case <-s.c.stopped:
		return false
	case <-s.broken:
		return false
	}
	if s.pty != nil && p.cmd != nil {
		_ = s.pty.SetReadDeadline(time.Now().Add(ptyQuiet))
	}
	// The process ended, but what it started may still hold its pipes: like sshd,
	// wait for the last of them to close for as long as the client does.
	select {
	case <-output:
		return true
	case <-s.gone:
		return false
	case <-s.stopped:
		return false
	case <-s.c.stopped:
		return false
	case <-s.broken:
		return false
	}
}

// spawn runs f in a goroutine of the connection; a panic ends only this session.
func (s *session) spawn(f func()) {
	s.c.goroutines.Go(func() {
		defer func() {
			if r := recover(); r != nil {
				s.logPanic(r)
				s.end.Set(panicked(r))
				s.breakOnce.Do(func() { close(s.broken) })
			}
		}()
		f()
	})
}

// awaitExit owns the process until it ended.
func (s *session) awaitExit(p *process) {
	defer close(p.exited)
	if p.viewer != nil && !s.awaitViewer(p) {
		return
	}
	st := p.wait()
	s.exiting.Store(true)
	s.inputSettled()
	if s.peerLost() {
		return // it died of that
	}
	s.mu.Lock()
	source := sourceUnknown
	if s.signaled[st.signal] {
		source = sourceClient
	} else if s.pty != nil && (st.signal == "INT" || st.signal == "QUIT") {
		source = sourceTerminal
	}
	s.mu.Unlock()
	if f := s.c.srv.cfg.OutOfMemory; f != nil && source == sourceUnknown && (st.signal == "KILL" || st.code == killedStatus) {
		st.oom = f(st.signal == "")
		p.status.oom = st.oom
	}
	a := judgeExit(st, source)
	if p.files != nil {
		a = p.files.judge()
	}
	if s.end.Set(a) {
		s.exited.Store(true)
	}
}

// inputSettled tells a client that left from one that only ended its input: both end
// the process's input, the former an instant before gone is closed.
func (s *session) inputSettled() {
	at := s.inputEnd.Load()
	if at == nil {
		return
	}
	t := time.NewTimer(time.Until(at.Add(inputSettle)))
	defer t.Stop()
	select {
	case <-s.gone:
	case <-t.C:
	}
}

// peerLost reports whether the other side left, or its transport broke, already.
func (s *session) peerLost() bool {
	select {
	case <-s.gone:
		return true
	default:
		return s.c.nc.Err() != nil
	}
}

// claim records a as the end, unless another cause came first, even one that is still
// to be judged.
func (s *session) claim(a disconnect.Attribution) {
	if !s.peerLost() && !s.exiting.Load() {
		s.end.Set(a)
	}
}

// cause returns why the session ended, once it did.
func (s *session) cause() disconnect.Attribution {
	if s.exiting.Load() {
		<-s.proc.exited // awaitExit is judging
	}
	if a, ok := s.end.Get(); ok {
		return a
	}
	if !s.peerLost() && s.c.isStopped() {
		if a, ok := s.c.end.Get(); ok {
			return a
		}
	}
	<-s.gone
	if !s.goneAlone {
		<-s.c.done
		a, _ := s.c.end.Get()
		return a
	}
	// Either the client closed the channel, or the connection is just ending: by a
	// word of the client or by bytes that are not SSH.
	t := time.NewTimer(settleTime)
	defer t.Stop()
	select {
	case <-s.c.done:
		if a, ok := s.c.end.Get(); ok && s.c.declared.Load() {
			return a
		}
	case <-t.C:
	}
	return attribute(disconnect.ClientClosed, disconnect.Client, "client closed the session")
}

// endedByExit reports whether a, how the session ended, is how its process ended, and the
// signal that killed that. A signal of our own or of the user's is no end of that sort.
func (s *session) endedByExit(a disconnect.Attribution) (exited bool, signal string) {
	if !s.exited.Load() || a != judgeExit(s.proc.status, sourceUnknown) {
		return false, ""
	}
	if a.Reason == disconnect.ProcessExited && s.proc.status.signal != "" {
		return false, "" // its own pipe
	}
	return true, s.proc.status.signal
}

// report tells the tracker and writes the log line, the first time it is called. The
// client hears of the end later: what it was told is on record.
func (s *session) report() {
	s.reported.Do(func() {
		a, _ := s.end.Get()
		app, code := s.application(), -1
		if s.exited.Load() {
			code = s.proc.status.code
		}
		if s.ended != nil {
			exited, signal := s.endedByExit(a)
			s.ended(Ended{
				Attribution: a, App: app, ExitCode: code, Exited: exited, Signal: signal,
				OutOfMemory: exited && s.proc.status.oom,
				BytesSent:   s.bytes.sent.Load(), BytesReceived: s.bytes.received.Load(),
			})
		}
		a.Log(context.Background(), s.c.srv.logger, s.kind.closed(),
			slog.String("connection_id", s.id), slog.Int("exit_code", code), slog.String("kind", string(s.kind)),
			slog.String("app", app.Name), slog.String("app_source", string(app.Source)))
	})
}

// sendStatus says how the process ended, and then that no more output comes. A client
// may answer the latter by closing the channel, after which nothing can be sent.
func (s *session) sendStatus(flushed bool) {
	st := s.proc.status
	if st.signal == "" {
		_, _ = s.ch.SendRequest("exit-status", false, ssh.Marshal(exitStatusPayload{uint32(st.code)}))
	} else {
		_, _ = s.ch.SendRequest("exit-signal", false, ssh.Marshal(exitSignalPayload{Signal: st.signal, Core: st.core}))
	}
	if flushed { // else someone may still be writing
		_ = s.ch.CloseWrite()
	}
}

func lastWords(a disconnect.Attribution) string {
	text := "session ended by " + a.Initiator.String() + ": " + a.Reason.String()
	if a.Detail != "" {
		text += ": " + a.Detail
	}
	return text
}

// tell says why we ended the session: to its user, or to our own client, which tells
// them. That one hears it over the connection unless only this session ends.
func (s *session) tell() {
	a, _ := s.end.Get()
	if !s.c.tellsItsUser() {
		s.say(lastWords(a))
		return
	}
	if !s.isStopped() {
		return
	}
	s.within(tellTimeout, func() { _, _ = s.ch.SendRequest(sshend.Request, false, causePayload(a)) })
}

// say writes one scrubbed line to the user, and waits a short while for it to leave.
func (s *session) say(text string) {
	line, eol := "fairlead: "+disconnect.Scrub(text), "\n"
	if s.pty != nil { // the user's terminal may be raw, its cursor anywhere
		line, eol = "\r\n"+line, "\r\n"
	}
	s.within(tellTimeout, func() { _, _ = s.stderr.Write([]byte(line + eol)) })
}

// within runs f in a goroutine of the connection, and waits for it no longer than d.
func (s *session) within(d time.Duration, f func()) {
	done := make(chan struct{})
	s.c.goroutines.Go(func() {
		defer close(done)
		f()
	})
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-done:
	case <-t.C:
	}
}

// cleanUp ends what the process left. After a normal end on pipes that is nothing:
// as with sshd a background job lives on. A terminal's end hangs up its jobs.
func (s *session) cleanUp() {
	if s.proc == nil {
		s.closePTY()
		return
	}
	p := s.proc
	defer p.close()
	if p.files != nil {
		p.files.cut.Store(true)
		return
	}
	select {
	case <-p.exited:
		if s.isStopped() || s.c.isStopped() || s.peerLost() {
			p.hangUp()
		}
		return
	default:
	}
	p.hangUp()
	t := time.NewTimer(s.c.srv.cfg.KillGrace)
	defer t.Stop()
	select {
	case <-p.exited:
		return
	case <-t.C:
	case <-s.c.srv.hard:
	}
	p.kill()
	<-p.exited
}

func (s *session) closePTY() {
	if s.pty != nil {
		_ = s.pty.Close()
	}
}

func (s *session) logPanic(r any) {
	s.c.srv.logger.Error("panic in ssh session", "panic", fmt.Sprint(r), "stack", string(debug.Stack()))
}

func panicked(r any) disconnect.Attribution {
	return attribute(disconnect.InternalError, disconnect.Agent, fmt.Sprintf("panic: %v", r))
}
