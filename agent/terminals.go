package agent

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"

	"fairlead.dev/fairlead/agent/agentssh"
	"fairlead.dev/fairlead/agent/proto"
	"fairlead.dev/fairlead/agent/reconnectingpty"
	"fairlead.dev/fairlead/disconnect"
)

// terminals gives sessions the terminals of their own user.
type terminals struct{ a *agent }

// Attach implements [agentssh.Terminals].
func (t terminals) Attach(r agentssh.AttachRequest) (agentssh.Viewer, error) {
	v, err := t.a.terminals.Attach(reconnectingpty.Request{
		User: t.user(addrPort(r.RemoteAddr).Addr()), Name: r.Name, TakeOver: r.TakeOver,
		Terminal: r.Terminal, Command: r.Cmd, Title: disconnect.Scrub(r.Command),
	})
	if err != nil {
		return nil, err // not a Viewer that is nil
	}
	return v, nil
}

// Query implements [agentssh.Terminals].
func (t terminals) Query(remote net.Addr, query proto.Attach) ([]byte, error) {
	user := t.user(addrPort(remote).Addr())
	switch query.Action {
	case proto.ListTerminals:
		all := []proto.Terminal{}
		for _, info := range t.a.terminals.List(user) {
			all = append(all, proto.Terminal(info))
		}
		return json.Marshal(all)
	case proto.KillTerminal:
		if err := t.a.terminals.Kill(user, query.Name); err != nil {
			return nil, fmt.Errorf("kill terminal %s: %w", disconnect.Scrub(query.Name), err)
		}
		return []byte("{}"), nil
	}
	return nil, fmt.Errorf("%q is nothing that can be done with terminals", disconnect.Scrub(query.Action))
}

// names tells a client of its user's terminals.
func (t terminals) names(peer netip.Addr) (names []string) {
	for _, info := range t.a.terminals.List(t.user(peer)) {
		names = append(names, info.Name)
	}
	return names
}

// user names whose terminals a client may use; a client without a user has its own.
func (t terminals) user(peer netip.Addr) string {
	return cmp.Or(t.a.principalOf(peer), peer.String())
}
