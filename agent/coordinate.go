package agent

import (
	"context"
	"errors"
	"io"

	"fairlead.dev/fairlead/control"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/tailnet"
	"fairlead.dev/fairlead/tailnet/proto"
)

// runCoordinator exchanges peers with the server for the life of one link.
func (a *agent) runCoordinator(ctx context.Context, link *control.Link) error {
	coordination, err := tailnet.StartCoordination(ctx, proto.NewTailnetServiceClient(link.RPC()), tailnet.CoordinationConfig{
		Logger:      a.logger,
		Node:        a.node,
		Key:         a.state.nodeKey,
		Book:        a.peers,
		ConnectType: disconnect.ServerToAgent,
		Initiator:   disconnect.Agent,
		OnAdmitted:  a.relay.SetToken,
	})
	if err != nil {
		return err // nothing was connected yet, so nothing disconnected
	}
	ended := a.coordinationBegins()
	attr, err := a.awaitCoordination(link, coordination)
	if coordination.Admitted() {
		attr.Log(a.hardCtx, a.logger, "disconnected from coordination RPC")
	}
	ended(err)
	switch {
	case a.gracefulCtx.Err() != nil:
		return errStopping
	case err == nil:
		return errEndedByServer
	}
	return err
}

// awaitCoordination returns how the coordination ended: by itself, or because the
// agent leaves; then err is nil when the server agreed. An end of its own is judged
// before anything waits, so that a shutdown that begins meanwhile is not its cause.
func (a *agent) awaitCoordination(link *control.Link, coordination *tailnet.BasicCoordination) (disconnect.Attribution, error) {
	select {
	case err := <-coordination.Wait():
		err = streamEnd(err)
		attr := a.rpcEnding(link, err)
		if err == nil {
			return attr, coordination.Close(nil)
		}
		_ = coordination.Close(&disconnect.EndedError{Attribution: attr, Err: err}) // repeats the error
		return attr, err
	case <-a.gracefulCtx.Done():
		err := coordination.Close(nil)
		return a.rpcEnding(link, err), err
	}
}

// coordinationBegins notes that a coordination is up; the returned func how it ended.
func (a *agent) coordinationBegins() (ended func(error)) {
	coord := make(chan error, 1)
	a.linkMu.Lock()
	a.coord = coord
	a.linkMu.Unlock()
	return func(err error) {
		a.linkMu.Lock()
		a.coord = nil
		a.linkMu.Unlock()
		coord <- err
		close(coord)
	}
}

// streamEnd gives the error of an RPC stream without the io.EOF that grpc-go
// returns for an end in order (status OK), and for nothing else.
func streamEnd(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// rpcEnding attributes the end of one RPC stream: what the server declared, or how
// the link under it ended, before the rules for an ending with neither.
func (a *agent) rpcEnding(link *control.Link, err error) disconnect.Attribution {
	if a.gracefulCtx.Err() == nil && err != nil {
		if attr, ok := disconnect.FromError(control.EndingOf(link, err)); ok {
			return a.explained(link, attr.On(disconnect.ServerToAgent))
		}
	}
	if own, stopping := a.stopping(); stopping {
		return own.On(disconnect.ServerToAgent)
	}
	reason, initiator := classifyCoordinatorRPCExit(a.gracefulCtx, err)
	attr := disconnect.Attribution{ConnectType: disconnect.ServerToAgent, Reason: reason, Initiator: initiator}
	if err != nil {
		attr.Detail = err.Error()
	}
	return attr
}

// classifyCoordinatorRPCExit judges the end of an RPC stream for which there is
// neither a goodbye nor a recorded cause. ctx must be one that only a real local
// shutdown cancels: with one that a failing sibling also cancels, a network loss
// would read as an expected shutdown.
func classifyCoordinatorRPCExit(ctx context.Context, err error) (disconnect.Reason, disconnect.Initiator) {
	switch {
	case ctx.Err() != nil:
		return disconnect.ServerShutdown, disconnect.Agent
	case err == nil:
		return disconnect.Graceful, disconnect.Server
	default:
		return disconnect.NetworkError, disconnect.Network
	}
}
