package agent

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"time"

	"fairlead.dev/fairlead/control"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/wsconn"
)

// Delays between attempts to reach the server: doubling with full jitter, so that
// the agents of a restarted server do not come back in one wave.
const (
	firstRetry = 250 * time.Millisecond
	lastRetry  = 5 * time.Second
)

// retry counts attempts and tells how long to wait for the next.
type retry struct {
	attempts    int
	first, last time.Duration
}

func (r *retry) reset() { r.attempts = 0 }

func (r *retry) next() time.Duration {
	ceiling := min(r.first<<min(r.attempts, 10), r.last)
	r.attempts++
	return ceiling/2 + rand.N(ceiling/2)
}

// connect dials the control link.
func (a *agent) connect(ctx context.Context) (*control.Link, error) {
	return control.Dial(ctx, control.DialOptions{
		AccessURL:   a.opts.AccessURL,
		Token:       a.opts.Token,
		Instance:    a.instance,
		Version:     a.opts.Version,
		ConnectType: disconnect.ServerToAgent,
		Self:        disconnect.Agent,
		Peer:        disconnect.Server,
		Logger:      a.logger,
		HTTPClient:  a.opts.HTTPClient,
	})
}

// connectUntilUp dials until a link is up, the agent stops, or the server says that
// it will never accept this agent.
func (a *agent) connectUntilUp(r *retry) (*control.Link, error) {
	for {
		link, err := a.connect(a.gracefulCtx)
		if err == nil {
			return link, nil
		}
		if a.gracefulCtx.Err() != nil {
			return nil, context.Cause(a.gracefulCtx)
		}
		attr := control.JudgeDial(err, disconnect.ServerToAgent, disconnect.Agent, disconnect.Server)
		if hopeless(err, attr.Reason) {
			return nil, &refusedError{attr: attr, err: err}
		}
		delay := max(r.next(), control.RetryAfter(err))
		attr.Detail = err.Error()
		attr.LogAttempt(a.gracefulCtx, a.logger, slog.LevelWarn, "could not reach the server", slog.Int("attempt", r.attempts), slog.String("retry_in", delay.String()))
		if !a.pause(delay) {
			return nil, context.Cause(a.gracefulCtx)
		}
	}
}

// pause waits, and reports false when a shutdown began meanwhile.
func (a *agent) pause(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-a.gracefulCtx.Done():
		return false
	}
}

// hopeless reports whether dialling again with the same token and binary can only
// fail the same way. A box in between that says no to everybody for a while is no
// reason to end all sessions: only the server's own word counts.
func hopeless(err error, r disconnect.Reason) bool {
	if r != disconnect.AuthFailed && r != disconnect.VersionMismatch {
		return false
	}
	var failed *wsconn.DialError
	if !errors.As(err, &failed) {
		return false
	}
	_, told := failed.Reason()
	return told || errors.Is(err, wsconn.ErrSubprotocol)
}

// refusedError says that the server does not accept this agent.
type refusedError struct {
	attr disconnect.Attribution
	err  error
}

func (e *refusedError) Error() string {
	switch e.attr.Reason {
	case disconnect.DuplicateAgent:
		return "another agent took over this workspace with the same token; start only one, and create a workspace for each machine"
	case disconnect.WorkspaceStopped:
		return "this agent's workspace is gone: " + e.attr.Detail
	case disconnect.AuthFailed, disconnect.AuthRevoked:
		return "the server does not accept this agent's token; create a new one for the workspace and start the agent with it"
	}
	return "the server refuses this agent: " + disconnect.Scrub(e.err.Error())
}

func (e *refusedError) Unwrap() error { return e.err }

// dismissed returns the error to give up with when the server said goodbye for good.
func dismissed(link *control.Link) error {
	if ending := link.Ending(); ending.Goodbye && forGood(ending.Reason) {
		return &refusedError{attr: ending.Attribution, err: link.Err()}
	}
	return nil
}

// forGood reports whether the server that ends a link for this reason wants no other.
func forGood(r disconnect.Reason) bool {
	return r == disconnect.AuthRevoked || r == disconnect.DuplicateAgent || r == disconnect.WorkspaceStopped
}

// IsRefused reports whether err says that the server does not accept the agent.
func IsRefused(err error) bool {
	var refused *refusedError
	return errors.As(err, &refused)
}
