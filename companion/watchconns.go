package companion

import (
	"context"
	"maps"
	"slices"

	"fairlead.dev/fairlead/agent/proto"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/wire"
)

type connectionEnding struct {
	attribution disconnect.Attribution
	exitCode    int
}

// Connection returns the id that the agent gave to our connection from localPort.
func (w *Watch) Connection(localPort uint16) (id string, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	id, ok = w.connections[localPort]
	return id, ok
}

// WaitConnection is [Watch.Connection], but waits for the id until ctx ends or the
// watch does.
func (w *Watch) WaitConnection(ctx context.Context, localPort uint16) (id string, ok bool) {
	for {
		w.mu.Lock()
		id, ok = w.connections[localPort]
		changed := w.changed
		w.mu.Unlock()
		if ok {
			return id, true
		}
		select {
		case <-changed:
		case <-w.done:
			return w.Connection(localPort)
		case <-ctx.Done():
			return w.Connection(localPort)
		}
	}
}

// Ended returns the agent's account of how our connection from localPort ended. The
// exit code is -1 when there was none.
func (w *Watch) Ended(localPort uint16) (a disconnect.Attribution, exitCode int, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.endedLocked(localPort)
}

func (w *Watch) endedLocked(localPort uint16) (disconnect.Attribution, int, bool) {
	id, ok := w.connections[localPort]
	if !ok {
		return disconnect.Attribution{}, -1, false
	}
	e, ok := w.endings[id]
	if !ok {
		return disconnect.Attribution{}, -1, false
	}
	return e.attribution, e.exitCode, true
}

// WaitEnded is [Watch.Ended], but waits for the agent's account until ctx ends or
// the watch does.
func (w *Watch) WaitEnded(ctx context.Context, localPort uint16) (disconnect.Attribution, int, bool) {
	for {
		w.mu.Lock()
		a, code, ok := w.endedLocked(localPort)
		changed := w.changed
		w.mu.Unlock()
		if ok {
			return a, code, true
		}
		select {
		case <-changed:
		case <-w.done:
			return w.Ended(localPort)
		case <-ctx.Done():
			return w.Ended(localPort)
		}
	}
}

// openLocked returns the ids of the connections that the agent has not called ended.
func (w *Watch) openLocked() (ids []string) {
	for _, id := range w.connections {
		if _, ended := w.endings[id]; !ended {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// buryLocked takes the agent's first account of how a connection ended.
func (w *Watch) buryLocked(id string, a *wire.Attribution, exitCode *int32) {
	if !validID(id) {
		return
	}
	if _, known := w.endings[id]; known {
		return
	}
	if len(w.endings) >= maxConnections {
		w.makeRoomLocked()
	}
	ended := connectionEnding{attribution: wire.ToAttribution(a).On(disconnect.AgentToClient), exitCode: -1}
	if exitCode != nil {
		ended.exitCode = int(*exitCode)
	}
	w.endings[id] = ended
	w.accounts = append(w.accounts, id)
}

// mournLocked takes the agent's tombstones of connections that we know. The newest of one
// that we thought open is how a former life of the agent ended us, if it is one.
func (w *Watch) mournLocked(stones []*proto.CompanionTombstone) {
	for _, stone := range stones[:min(len(stones), maxTombstones)] {
		id := stone.GetConnectionId()
		known := slices.Contains(slices.Collect(maps.Values(w.connections)), id)
		if _, ended := w.endings[id]; !known || ended {
			continue
		}
		if w.mourned.IsZero() {
			g := wire.ToGoodbye(&wire.Goodbye{
				Reason: stone.GetAttribution().GetReason(), Initiator: stone.GetAttribution().GetInitiator(), Detail: stone.GetAttribution().GetDetail(),
			})
			w.mourned = g.From(disconnect.Agent).On(disconnect.AgentToClient)
		}
		w.buryLocked(id, stone.GetAttribution(), stone.ExitCode)
	}
}

// makeRoomLocked forgets the older half of the endings that the agent gave account of,
// with their connections. It reports whether there is room for another connection now.
func (w *Watch) makeRoomLocked() bool {
	old := w.accounts[:(len(w.accounts)+1)/2]
	forgotten := make(map[string]bool, len(old))
	for _, id := range old {
		delete(w.endings, id)
		forgotten[id] = true
	}
	maps.DeleteFunc(w.connections, func(_ uint16, id string) bool { return forgotten[id] })
	w.accounts = slices.Clone(w.accounts[len(old):])
	return len(w.connections) < maxConnections
}
