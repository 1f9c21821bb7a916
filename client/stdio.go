package client

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"os"
	"sync"
	"time"

	"fairlead.dev/fairlead/companion"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/verdict"
	"fairlead.dev/fairlead/sshend"
)

const (
	// politeWait is how long the agent has to close the connection after the local SSH
	// client has closed its pipe: it does so at once when that client said in the SSH
	// stream that it leaves.
	politeWait = 300 * time.Millisecond
	// copyBuffer is the size of one read, in bytes.
	copyBuffer = 64 << 10
)

// parent is the process that started this one.
var parent = os.Getppid()

// Stdio carries the bytes of a local SSH client, stock ssh mostly, between in and out
// and the agent's SSH port, until either end is done, ctx ends, or the agent is lost;
// then it logs the ending once.
//
// The SSH inside is encrypted, so what the local client wants shows only in what
// follows the end of in:
//   - The agent closes the connection, or what ran on it has ended: the client had said
//     in SSH that it leaves, or was done. The agent's account tells why.
//   - It does not, and the process that started this one is gone: that was killed.
//     Nobody chose to leave; the agent is told that the client crashed.
//   - It does not, and that process lives: only the input ended. The agent is told so
//     by a half-close, and its output goes on.
//
// A Read of in or a Write to out that blocks cannot be ended from here: its goroutine may
// outlive the call until it returns.
func (w *Workspace) Stdio(ctx context.Context, in io.Reader, out io.Writer) SessionEnd {
	end := w.stdio(ctx, in, out, func() bool { return os.Getppid() != parent })
	w.logEnd(ctx, &end)
	return end
}

// stdio is one run of Workspace.Stdio.
type stdio struct {
	workspace  *Workspace
	raw        *sshend.Conn
	port       uint16
	parentGone func() bool

	noticed verdict.Moment         // when the end was seen
	lost    bool                   // the local client vanished
	broke   disconnect.Attribution // what the transport's error means that was there then

	input  chan struct{} // closed when the local client sends no more
	output chan struct{} // closed when the agent sends no more, or nobody takes it
	tasks  sync.WaitGroup

	mu       sync.Mutex // guards localErr
	localErr error      // why the agent's bytes could not be handed out
}

func (w *Workspace) stdio(ctx context.Context, in io.Reader, out io.Writer, parentGone func() bool) SessionEnd {
	conn, err := w.DialSSH(ctx)
	if err != nil {
		return notBegun(err)
	}
	s := &stdio{
		workspace: w, raw: sshend.NewConn(conn), parentGone: parentGone,
		input: make(chan struct{}), output: make(chan struct{}),
	}
	if ap, err := netip.ParseAddrPort(conn.LocalAddr().String()); err == nil {
		s.port = ap.Port()
	}
	over := make(chan struct{})
	defer s.tasks.Wait()
	defer close(over)
	s.tasks.Go(func() { w.record(s.port, over) })
	defer s.outputWithin(leaveWait)
	defer s.raw.Close()
	go func() { // see Stdio about its life
		defer close(s.input)
		_, _ = transfer(s.raw, in)
	}()
	go func() { // a Write that blocks does not keep the call either
		defer close(s.output)
		_, err := transfer(out, s.raw)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.localErr = err
	}()
	end := SessionEnd{Attribution: w.knowing(s.run(ctx))}
	end.noticed, end.parentKilled, end.broken = s.noticed, s.lost, s.broke
	end.ConnectionID = w.connectionID(ctx, s.port)
	switch end.Attribution.Reason {
	case disconnect.Graceful, disconnect.ProcessExited, disconnect.ClientClosed:
		end.Exited = end.Attribution.Reason != disconnect.ClientClosed
	default:
		end.ExitCode = exitLost
	}
	return end
}

// run waits for the end and says why it came.
func (s *stdio) run(ctx context.Context) disconnect.Attribution {
	select {
	case <-s.output:
		s.noticed = companion.Moment()
		if s.broken() != nil {
			return s.localEnded(ctx)
		}
		return s.remoteEnded(ctx)
	case <-s.input:
		s.noticed = companion.Moment()
		return s.localEnded(ctx)
	case <-ctx.Done():
		s.noticed = companion.Moment()
		return s.stopped(ctx)
	case <-s.workspace.watch.Done():
		s.noticed = companion.Moment()
		return s.agentEnded()
	}
}

// broken returns why nobody takes the agent's bytes any more.
func (s *stdio) broken() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.localErr
}

// localEnded finds out what the local client meant by closing its pipe.
func (s *stdio) localEnded(ctx context.Context) disconnect.Attribution {
	if s.overWithin(politeWait) {
		return s.account("the local ssh client left")
	}
	if s.broken() != nil || s.parentGone() {
		return s.tell(ctx, s.localLost())
	}
	_ = s.raw.CloseWrite()
	select { // only the input had ended before
	case <-s.output:
		s.noticed = companion.Moment()
		if s.raw.Err() == nil || errors.Is(s.raw.Err(), io.EOF) {
			return s.account("the input ended")
		}
		return s.remoteEnded(ctx)
	case <-ctx.Done():
		s.noticed = companion.Moment()
		return s.stopped(ctx)
	case <-s.workspace.watch.Done():
		s.noticed = companion.Moment()
		return s.agentEnded()
	}
}

// localLost is the ending when the local SSH client vanished. Stock ssh that leaves
// in order says so in SSH first, so this was nobody's choice.
func (s *stdio) localLost() disconnect.Attribution {
	s.lost = true
	return disconnect.Attribution{
		ConnectType: disconnect.AgentToClient,
		Reason:      disconnect.PeerCrashed,
		Initiator:   disconnect.Client,
		Detail:      "the local ssh client went away without closing its connection",
	}
}

// stopped ends the connection because ctx did. Stock ssh that leaves in order hangs
// up on its proxy command right after its last bytes: those go first, and if the
// agent then closes the connection, that was the end. One that was killed had no last
// bytes, and its terminal hangs up on everybody.
func (s *stdio) stopped(ctx context.Context) disconnect.Attribution {
	a := s.workspace.leaving(ctx)
	if s.overWithin(politeWait) {
		return s.account(a.Detail)
	}
	if a.Reason == disconnect.ClientClosed && s.parentGone() {
		a = s.localLost()
	}
	return s.tell(ctx, a)
}

// tell records a, says it to the agent, and cuts the connection.
func (s *stdio) tell(ctx context.Context, a disconnect.Attribution) disconnect.Attribution {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveWait)
	defer cancel()
	s.workspace.Goodbye(ctx, a.Goodbye())
	return a
}

// account is how the agent saw a connection end that the local client has ended in
// order, or without that the client's own choice.
func (s *stdio) account(how string) disconnect.Attribution {
	ctx, cancel := context.WithTimeout(context.Background(), exitAccountWait)
	defer cancel()
	if a, _, ok := s.workspace.watch.WaitEnded(ctx, s.port); ok {
		return a
	}
	return disconnect.Attribution{
		ConnectType: disconnect.AgentToClient,
		Reason:      disconnect.ClientClosed,
		Initiator:   disconnect.Client,
		Detail:      disconnect.Scrub(how),
	}
}

// remoteEnded says why the agent's side ended first.
func (s *stdio) remoteEnded(ctx context.Context) disconnect.Attribution {
	s.broke = brokenBy(s.raw)
	return s.workspace.lost(ctx, s.port, func() disconnect.Attribution { return judge(s.raw.Err()) }, new(disconnect.Latch))
}

// agentEnded gives what is on its way a moment to arrive.
func (s *stdio) agentEnded() disconnect.Attribution {
	s.outputWithin(outputGrace)
	if a, _, ok := s.workspace.watch.Ended(s.port); ok {
		return a
	}
	return s.workspace.watch.Ending()
}

// overWithin reports whether in time the agent closes the connection, or says that
// what ran on it has ended.
func (s *stdio) overWithin(d time.Duration) bool {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	if s.broken() == nil {
		s.tasks.Go(func() {
			select {
			case <-s.output:
				cancel()
			case <-ctx.Done():
			}
		})
	}
	if _, _, ok := s.workspace.watch.WaitEnded(ctx, s.port); ok {
		return true
	}
	return s.broken() == nil && s.outputWithin(0)
}

// outputWithin reports whether the agent's bytes end in time.
func (s *stdio) outputWithin(d time.Duration) bool {
	select {
	case <-s.output:
		return true
	default:
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-s.output:
		return true
	case <-timer.C:
		return false
	}
}

// transfer copies until the source ends or fails, or the destination fails, and
// tells the two apart. The end of the source is not an error.
func transfer(to io.Writer, from io.Reader) (readErr, writeErr error) {
	buf := make([]byte, copyBuffer)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if _, werr := to.Write(buf[:n]); werr != nil {
				return nil, werr
			}
		}
		if errors.Is(err, io.EOF) {
			return nil, nil
		}
		if err != nil {
			return err, nil
		}
	}
}
