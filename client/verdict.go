package client

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"golang.org/x/crypto/ssh"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/sshend"
)

const (
	// accountWait is how long a client waits for the agent's account of an ending that
	// it cannot explain by itself, once the agent is known to live.
	accountWait = 500 * time.Millisecond
	// exitAccountWait is the same when the exit status is there already.
	exitAccountWait = 100 * time.Millisecond
	// idWait is how long it waits for the connection's id.
	idWait = 20 * time.Millisecond
	// verdictWait is how long it waits for any sign of the agent: time to dial again and
	// to meet a new agent process. Whoever waits for the sentence is told it within 2 s of
	// the loss, all other waits included; what comes later is for a later verdict.
	verdictWait = 1500 * time.Millisecond
)

// exitStatus is how the remote process ended, if it did.
type exitStatus struct {
	known  bool
	code   int
	signal string // "" or a name without SIG
}

// parseExit reads the requests exit-status and exit-signal (RFC 4254 section 6.10).
func parseExit(req *ssh.Request) (exitStatus, bool) {
	switch req.Type {
	case "exit-status":
		var payload struct{ Status uint32 }
		if ssh.Unmarshal(req.Payload, &payload) == nil {
			return exitStatus{known: true, code: int(payload.Status & 0xff)}, true
		}
	case "exit-signal":
		var payload struct {
			Signal     string
			CoreDumped bool
			Message    string
			Language   string
		}
		if ssh.Unmarshal(req.Payload, &payload) == nil {
			name := disconnect.Scrub(payload.Signal)
			return exitStatus{known: true, code: 128 + sshend.SignalNumber(name), signal: name}, true
		}
	}
	return exitStatus{}, false
}

// attribution judges the exit by itself; the agent knows more of signals.
func (e exitStatus) attribution() disconnect.Attribution {
	a := disconnect.Attribution{ConnectType: disconnect.AgentToClient, Initiator: disconnect.Agent}
	switch {
	case e.signal != "":
		a.Reason, a.Detail = disconnect.ProcessSignaled, "process killed by signal: SIG"+e.signal
	case e.code == 0:
		a.Reason, a.Detail = disconnect.Graceful, "normal exit"
	default:
		a.Reason, a.Detail = disconnect.ProcessExited, "process exited with error status: "+strconv.Itoa(e.code)
	}
	return a
}

// end says how the session ended. Who spoke first is believed: the exit, we, or the
// agent. Of an exit the agent's account tells more, and it decides where the order
// is not clear. The transport's own end is the last resort.
func (s *session) end(ctx context.Context) SessionEnd {
	s.mu.Lock()
	exit, early := s.exit, s.early
	s.mu.Unlock()
	end := SessionEnd{ExitCode: exitLost}
	cause, left := s.cause.Get()
	switch {
	case exit.known && early:
		end.ExitCode, end.Exited, end.Attribution = exit.code, true, exit.attribution()
		if exit.code != 0 {
			if a, _, ok := s.account(ctx); ok {
				end.Attribution = a
			}
		}
	case left:
		end.Attribution = cause
	case exit.known:
		// Somebody spoke of an ending before the exit came, over another stream.
		end.Attribution = exit.attribution()
		if a, ok := s.spoken(); ok {
			end.Attribution = a
		}
		if a, code, ok := s.account(ctx); ok {
			end.Attribution, end.Exited = a, code >= 0
		}
		if end.Exited {
			end.ExitCode = exit.code
		}
	default:
		end.Attribution = s.workspace.lost(ctx, s.conn.port, s.conn.broken, &s.conn.told)
	}
	end.Attribution = s.workspace.knowing(end.Attribution)
	end.ConnectionID = s.workspace.connectionID(ctx, s.conn.port)
	return end
}

// connectionID returns the agent's name for our connection from port. It was sent
// when the session began, over another stream: a very short session may be over first.
func (w *Workspace) connectionID(ctx context.Context, port uint16) string {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), idWait)
	defer cancel()
	id, _ := w.watch.WaitConnection(ctx, port)
	return id
}

// account is the agent's account of how the connection ended, if it comes soon.
func (s *session) account(ctx context.Context) (disconnect.Attribution, int, bool) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), exitAccountWait)
	defer cancel()
	return s.workspace.watch.WaitEnded(ctx, s.conn.port)
}

// spoken is what the agent said of itself: in the companion stream, or over SSH.
func (s *session) spoken() (disconnect.Attribution, bool) {
	if a := s.workspace.watch.Ending(); !a.IsZero() {
		return a, true
	}
	return s.conn.told.Get()
}

// lost says why our connection from port ended when it gave no reason itself: by
// the agent's account of it, by how the agent ended, or by what it said over SSH in
// told. Whoever watches the agent may know better in a moment than the transport's
// own error, which broken judges as the last resort.
func (w *Workspace) lost(ctx context.Context, port uint16, broken func() disconnect.Attribution, told *disconnect.Latch) disconnect.Attribution {
	broke := time.Now()
	ctx, cancel := context.WithTimeout(ctx, verdictWait)
	defer cancel()
	if a, _, ok := w.watch.Ended(port); ok {
		return a
	}
	_, explained := told.Get()
	alive := !explained && w.watch.Heard(ctx, broke)
	if alive {
		// The agent lives, so it has seen the connection end too.
		short, cancel := context.WithTimeout(ctx, accountWait)
		defer cancel()
		w.watch.WaitEnded(short, port)
	}
	if a, _, ok := w.watch.Ended(port); ok {
		return a
	}
	if a := w.watch.Ending(); !a.IsZero() {
		return a
	}
	if a, ok := told.Get(); ok {
		return a
	}
	if a, ok := w.watch.Suspected(); ok && !alive {
		return a
	}
	return broken()
}

// knowing is a, unless that only says that touch was lost and this machine knows why.
func (w *Workspace) knowing(a disconnect.Attribution) disconnect.Attribution {
	if !ofNetwork(a.Reason) {
		return a
	}
	own, known := w.watch.Own()
	if !known || own.Reason == a.Reason {
		return a
	}
	own.Detail = disconnect.Scrub(own.Detail + "; " + a.Detail)
	return own
}

// leaving says why the end of ctx ends the session: its own cause, or else the
// user's choice.
func (w *Workspace) leaving(ctx context.Context) disconnect.Attribution {
	a, ok := disconnect.FromContext(ctx)
	switch {
	case ok && a.Reason != disconnect.ClientClosed:
		return a.On(disconnect.AgentToClient)
	case ok:
		return w.left(a.Detail)
	case errors.Is(context.Cause(ctx), context.Canceled):
		return w.left("the client was told to stop")
	default:
		return w.left(context.Cause(ctx).Error())
	}
}

// left is the ending by the user's choice. While the agent is silent that is not
// what ends the session: the user gave up on a connection that was gone.
func (w *Workspace) left(how string) disconnect.Attribution {
	a := disconnect.Attribution{
		ConnectType: disconnect.AgentToClient,
		Reason:      disconnect.ClientClosed,
		Initiator:   disconnect.Client,
		Detail:      disconnect.Scrub(how),
	}
	if since, interrupted := w.watch.Interrupted(); interrupted {
		a.Reason, a.Initiator = disconnect.NetworkTimeout, disconnect.Network
		a.Detail = disconnect.Scrub(fmt.Sprintf("nothing heard from the agent for %v when the user gave up: %s",
			time.Since(since).Round(time.Second), how))
		if own, known := w.watch.Own(); known {
			a.Reason, a.Initiator = own.Reason, own.Initiator
			a.Detail = disconnect.Scrub(fmt.Sprintf("%s when the user gave up: %s", own.Detail, how))
		}
	}
	return a
}
