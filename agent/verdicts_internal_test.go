package agent

import (
	"net/netip"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/agent/proto"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/wire"
	"fairlead.dev/fairlead/testutil"
)

// TestHeedVerdicts: what the server found otherwise is written down once, with its name,
// and clients that come back are told that; what the agent said itself is not repeated.
func TestHeedVerdicts(t *testing.T) {
	logger, rec := testutil.NewLogRecorder(t)
	dir, client := t.TempDir(), netip.MustParseAddrPort("[fd7a:115c:a1e0::1]:999")
	a := &agent{logger: logger, hardCtx: t.Context(), tombstones: openTombstones(dir, logger)}
	session, link := uuid.New(), uuid.New()
	ours := disconnect.Attribution{ConnectType: disconnect.AgentToClient, Reason: disconnect.NetworkTimeout, Initiator: disconnect.Network, Detail: "nothing heard"}
	a.tombstones.add(client, session.String(), ours, -1)
	lost := disconnect.Attribution{ConnectType: disconnect.ServerToAgent, Reason: disconnect.NetworkTimeout, Initiator: disconnect.Network}
	a.ownEndings.add(link.String(), lost)

	theirs := disconnect.Attribution{ConnectType: disconnect.AgentToClient, Reason: disconnect.Suspended, Initiator: disconnect.Client, Detail: "slept for 20m0s"}
	found := disconnect.Attribution{ConnectType: disconnect.ServerToAgent, Reason: disconnect.NetworkUnreachable, Initiator: disconnect.Network, Detail: "its own link was down"}
	say := func(id []byte, what disconnect.Attribution) *proto.Orders_Verdict {
		return &proto.Orders_Verdict{Id: id, Attribution: wire.FromAttribution(what)}
	}
	other := uuid.New()
	for range 2 {
		a.heedVerdicts([]*proto.Orders_Verdict{
			say(session[:], ours), say([]byte("no id"), theirs), say(other[:], theirs), say(session[:], disconnect.Attribution{}),
		})
	}
	require.Empty(t, rec.Endings())
	for range 2 {
		a.heedVerdicts([]*proto.Orders_Verdict{say(session[:], theirs), say(link[:], found)})
	}
	lines := rec.Endings()
	require.Len(t, lines, 2)
	require.Equal(t, theirs, lines[0].Attribution)
	require.Equal(t, found, lines[1].Attribution)

	require.Equal(t, theirs, wire.ToAttribution(a.tombstones.of(client.Addr())[0].GetAttribution()))
	require.NoError(t, a.tombstones.close())
	again := openTombstones(dir, logger)
	defer func() { require.NoError(t, again.close()) }()
	stones := again.of(client.Addr())
	require.Len(t, stones, 1)
	require.Equal(t, theirs, wire.ToAttribution(stones[0].GetAttribution()), "also in the agent's next life")
}
