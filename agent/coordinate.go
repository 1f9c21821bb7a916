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
	finished := a.coordinationBegins()
	defer finished()
	err = a.awaitCoordination(link, coordination)
	if coordination.Admitted() {
		a.rpcEnding(link, err).Log(a.hardCtx, a.logger, "disconnected from coordination RPC")
	}
	switch {
	case a.gracefulCtx.Err() != nil:
		return errStopping
	case err == nil:
		return errEndedByServer
	}
	return err
}

// awaitCoordination returns how the coordination ended: by itself, or because the
// agent leaves.
func (a *agent) awaitCoordination(link *control.Link, coordination *tailnet.BasicCoordination) error {
	select {
	case err := <-coordination.Wait():
		err = streamEnd(err)
		if err != nil {
			_ = coordination.Close(control.EndingOf(link, err)) // repeats the error
		} else {
			err = coordination.Close(nil)
		}
		return err
	case <-a.gracefulCtx.Done():
		return coordination.Close(nil)
	}
}

// coordinationBegins notes that a coordination is up; the returned func that it ended.
func (a *agent) coordinationBegins() (finished func()) {
	done := make(chan struct{})
	a.linkMu.Lock()
	a.coordDone = done
	a.linkMu.Unlock()
	return func() {
		a.linkMu.Lock()
		a.coordDone = nil
		a.linkMu.Unlock()
		close(done)
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
			return attr.On(disconnect.ServerToAgent)
		}
	}
	reason, initiator := classifyCoordinatorRPCExit(a.gracefulCtx, err)
	attr := disconnect.Attribution{ConnectType: disconnect.ServerToAgent, Reason: reason, Initiator: initiator}
	if own, stopping := a.stopping(); stopping {
		attr.Detail = own.Detail
	} else if err != nil {
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
