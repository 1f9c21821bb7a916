package agent

import (
	"context"
	"errors"
	"time"

	"fairlead.dev/fairlead/control"
	"fairlead.dev/fairlead/disconnect"
)

// reportFlush bounds how long a shutdown waits for the server to take the last reports.
const reportFlush = time.Second

// Close implements [Agent]. The order is: sessions end and say why, clients hear
// goodbye, the server gets the last reports, coordination and control link end in
// order, and only then the packet engine stops.
func (a *agent) Close() error {
	a.closeOnce.Do(func() {
		ctx, cancel := context.WithTimeout(a.patience, a.opts.ShutdownTimeout)
		defer cancel()
		a.closeErr = a.shutdown(ctx)
	})
	return a.closeErr
}

// Kill implements [Agent].
func (a *agent) Kill() { a.runOut() }

func (a *agent) shutdown(ctx context.Context) error {
	attr := disconnect.Attribution{
		ConnectType: disconnect.AgentToClient,
		Reason:      disconnect.ServerShutdown,
		Initiator:   disconnect.Agent,
		Detail:      "the agent is stopping",
	}
	if told, ok := a.toldBefore(); ok {
		attr = told.On(disconnect.AgentToClient)
	}
	err := a.endSessions(ctx, attr.Goodbye())
	a.companion.Close(ctx, attr.Goodbye())
	a.flushReports(ctx)
	a.leaveServer(ctx, attr.On(disconnect.ServerToAgent))
	a.hardCancel(&disconnect.EndedError{Attribution: attr})
	a.host.Close()
	a.memory.Close()
	err = errors.Join(err, a.node.Close())
	a.routines.Wait()
	a.runOut()
	return errors.Join(err, a.closeReports(), a.tombstones.close(), a.state.close())
}

// endSessions ends every SSH session and every terminal. A process that ignores the hang-up is killed in
// time for what comes after: the clients' goodbye, the last reports, the server.
func (a *agent) endSessions(ctx context.Context, g disconnect.Goodbye) error {
	ctx, cancel := context.WithTimeout(ctx, a.opts.ShutdownTimeout/2)
	defer cancel()
	err := a.ssh.Close(ctx, g)
	// Viewers have ended by now, for the same cause.
	a.terminals.Close(ctx, g.On(disconnect.AgentToClient))
	return err
}

// leaveServer ends coordination and control link in order, or cuts them when the
// server does not answer in time.
func (a *agent) leaveServer(ctx context.Context, attr disconnect.Attribution) {
	a.linkMu.Lock()
	coord := a.coord
	a.linkMu.Unlock()

	a.gracefulCancel(&disconnect.EndedError{Attribution: attr})
	if coord != nil {
		select {
		case err := <-coord:
			message := "coordination RPC disconnected"
			if err != nil {
				message, attr.Detail = "coordination RPC did not disconnect in order", err.Error()
			}
			attr.Log(a.hardCtx, a.logger, message)
		case <-ctx.Done():
			attr.Detail = "timed out waiting for the coordination RPC to disconnect"
			attr.Log(a.hardCtx, a.logger, "timed out waiting for coordination RPC")
		}
	}
	select {
	case <-a.loopDone:
	case <-ctx.Done():
	}
}

// flushReports waits until the server has acknowledged every report, while it is in
// reach and for a bounded time.
func (a *agent) flushReports(ctx context.Context) {
	link := a.currentLink()
	if link == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, reportFlush)
	defer cancel()
	for a.reportsPending() > 0 {
		select {
		case <-a.reportIdle:
		case <-link.Done():
			return
		case <-ctx.Done():
			a.logger.Warn("connection reports were not delivered before the shutdown", "count", a.reportsPending())
			return
		}
	}
}

func (a *agent) currentLink() *control.Link {
	a.linkMu.Lock()
	defer a.linkMu.Unlock()
	return a.link
}
