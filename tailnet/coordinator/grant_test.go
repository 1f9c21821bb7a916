package coordinator

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/wire"
	"fairlead.dev/fairlead/tailnet/proto"
	"fairlead.dev/fairlead/testutil"
)

func TestGrantRoundTrip(t *testing.T) {
	t.Parallel()
	signer := [32]byte{7}
	issued := time.Unix(1_700_000_000, 0)
	g := grant{
		client: newKey().node(), agent: newKey().node(), user: "u1", principal: "alice", workspace: "w1", token: "t1",
		issued: issued, expires: issued.Add(proto.GrantLife),
	}
	sealed := g.seal(signer)
	got, err := openGrant(signer, sealed, issued.Add(proto.GrantLife-time.Second))
	require.NoError(t, err)
	require.Equal(t, g, got)

	_, err = openGrant(signer, sealed, issued.Add(proto.GrantLife))
	require.Error(t, err, "lapsed")
	_, err = openGrant([32]byte{8}, sealed, issued)
	require.ErrorIs(t, err, errBadGrant, "of another server")
	for i := range sealed {
		forged := append([]byte(nil), sealed...)
		forged[i] ^= 1
		_, err := openGrant(signer, forged, issued)
		require.ErrorIs(t, err, errBadGrant, "byte %d", i)
		_, err = openGrant(signer, sealed[:i], issued)
		require.ErrorIs(t, err, errBadGrant, "%d bytes", i)
	}
	_, err = openGrant(signer, append(sealed, 0), issued)
	require.ErrorIs(t, err, errBadGrant)
}

// restart gives a new server that knows nothing but the key that signs grants.
func restart(t *testing.T, rights map[[2]string]bool) *world {
	t.Helper()
	w := newWorld(t)
	w.rights = rights
	return w
}

func TestAnnouncedPeersAreKeptByAServerThatForgotThem(t *testing.T) {
	t.Parallel()
	rights := map[[2]string]bool{{"alice", "dev"}: true}
	w := restart(t, rights)
	agent := w.join(agentLink("dev", "a1"), newKey())
	client := w.join(clientLink("alice"), newKey())
	atClient, atAgent := w.tunnel(client, agent, "dev")

	t.Run("agent first", func(t *testing.T) {
		w := restart(t, rights)
		agent := w.join(agentLink("dev", "a1"), agent.key)
		agent.announce(client.key, atAgent)
		kept := agent.upsert(client.key)
		require.Empty(t, kept.GetNode().GetDiscoKey(), "the client is not back: keep what is there")
		require.Equal(t, "alice-name", kept.GetPrincipal())
		require.Equal(t, atAgent, kept.GetGrant(), "a client that is away earns no renewal")

		client := w.join(clientLink("alice"), client.key)
		full := agent.upsert(client.key)
		require.NotEmpty(t, full.GetNode().GetDiscoKey())
		client.announce(agent.key, atClient)
		require.NotEmpty(t, client.upsert(agent.key).GetNode().GetDiscoKey())
		require.True(t, client.presence().GetOnline())
		require.NotEmpty(t, agent.upsert(client.key).GetGrant())
	})
	t.Run("client first", func(t *testing.T) {
		w := restart(t, rights)
		client := w.join(clientLink("alice"), client.key)
		client.announce(agent.key, atClient)
		require.Empty(t, client.upsert(agent.key).GetNode().GetDiscoKey())
		agent := w.join(agentLink("dev", "a1"), agent.key)
		require.True(t, client.presence().GetOnline())
		require.NotEmpty(t, client.upsert(agent.key).GetNode().GetDiscoKey())
		u := agent.upsert(client.key) // without an announcement: the server knows again
		require.NotEmpty(t, u.GetNode().GetDiscoKey())
		agent.ack(u)
		client.ready(agent.key)
	})
}

func TestAnnouncedPeersWithoutRightAreDropped(t *testing.T) {
	t.Parallel()
	rights := map[[2]string]bool{{"alice", "dev"}: true}
	w := restart(t, rights)
	agent := w.join(agentLink("dev", "a1"), newKey())
	client := w.join(clientLink("alice"), newKey())
	atClient, atAgent := w.tunnel(client, agent, "dev")
	w.stop()

	t.Run("forged", func(t *testing.T) {
		w := restart(t, rights)
		w.cfg.GrantKey[0]++
		agent := w.join(agentLink("dev", "a1"), agent.key)
		agent.announce(client.key, atAgent)
		agent.drop(client.key)
		agent.announce(client.key, nil)
		agent.drop(client.key)
	})
	t.Run("of others", func(t *testing.T) {
		w := restart(t, rights)
		thief := w.join(clientLink("alice"), newKey())
		thief.announce(agent.key, atClient)
		thief.drop(agent.key)
		wrongUser := w.join(clientLink("bob"), client.key)
		wrongUser.announce(agent.key, atClient)
		wrongUser.drop(agent.key)
		wrongWorkspace := w.join(agentLink("prod", "a2"), agent.key)
		wrongWorkspace.announce(client.key, atAgent)
		wrongWorkspace.drop(client.key)
	})
	t.Run("withdrawn", func(t *testing.T) {
		w := restart(t, map[[2]string]bool{})
		client := w.join(clientLink("alice"), client.key)
		client.announce(agent.key, atClient)
		client.revoke(agent.key)
		agent := w.join(agentLink("dev", "a1"), agent.key)
		agent.announce(client.key, atAgent)
		agent.revoke(client.key)
	})
	t.Run("withdrawn on one side reaches the other", func(t *testing.T) {
		w := newWorld(t)
		w.allow("alice", "dev", true)
		agent := w.join(agentLink("dev", "a1"), agent.key)
		client := w.join(clientLink("alice"), client.key)
		client.announce(agent.key, atClient)
		client.upsert(agent.key)
		client.presence()
		agent.upsert(client.key)
		w.allow("alice", "dev", false)
		agent.announce(client.key, atAgent)
		agent.revoke(client.key)
		client.revoke(agent.key)
	})
	t.Run("with a token that was revoked since", func(t *testing.T) {
		w := restart(t, rights)
		w.voidToken("token of alice")
		agent := w.join(agentLink("dev", "a1"), agent.key)
		agent.announce(client.key, atAgent) // the grant tells the token
		agent.revoke(client.key)
	})
}

func TestUndecidedRightTakesNothingAway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.allow("alice", "dev", true)
		agent := w.join(agentLink("dev", "a1"), newKey())
		client := w.join(clientLink("alice"), newKey())
		atClient, atAgent := w.tunnel(client, agent, "dev")
		w.stop()

		w = newWorld(t)
		w.fail(errDatabase)
		agent = w.join(agentLink("dev", "a1"), agent.key)
		agent.announce(client.key, atAgent)
		require.Equal(t, atAgent, agent.upsert(client.key).GetGrant())
		client = w.join(clientLink("alice"), client.key)
		agent.upsert(client.key)
		client.announce(agent.key, atClient)
		require.Equal(t, atClient, client.upsert(agent.key).GetGrant(), "kept, not renewed")
		client.presence()
		agent.upsert(client.key)

		w.fail(nil) // the database is back, and knows that the right is gone
		start := time.Now()
		for _, p := range []*peer{client, agent} { // no patience of the harness' here
			require.Equal(t, proto.PeerUpdate_DROP, (<-p.pipe.fromServer).GetPeerUpdate().GetKind())
		}
		require.Less(t, time.Since(start), 3*time.Minute)
		w.stop()
	})
}

func TestRecheckDropsWithdrawnRights(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.allow("alice", "dev", true)
	w.allow("bob", "dev", true)
	agent := w.join(agentLink("dev", "a1"), newKey())
	alice := w.join(clientLink("alice"), newKey())
	bob := w.join(clientLink("bob"), newKey())
	w.tunnel(alice, agent, "dev")
	w.tunnel(bob, agent, "dev")
	w.allow("alice", "dev", false)
	require.NoError(t, w.Recheck(t.Context(), "alice", ""))
	alice.revoke(agent.key)
	agent.revoke(alice.key)
	bob.silent()
	w.fail(errDatabase)
	require.ErrorIs(t, w.Recheck(testutil.Context(t, time.Second), "", "dev"), errDatabase)
	bob.upsert(agent.key) // not dropped
	w.fail(nil)
}

func TestRenewalEveryTwelveHours(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.allow("alice", "dev", true)
		agent := w.join(agentLink("dev", "a1"), newKey())
		client := w.join(clientLink("alice"), newKey())
		atClient, _ := w.tunnel(client, agent, "dev")
		start := time.Now()

		renewed := map[*peer][]byte{}
		for _, p := range []*peer{agent, client} {
			for range 2 {
				switch m := <-p.pipe.fromServer; {
				case m.GetAdmitted() != nil:
					require.True(t, m.GetAdmitted().GetExpiresAt().AsTime().After(time.Now().Add(renewInterval)))
				default:
					renewed[p] = m.GetPeerUpdate().GetGrant()
				}
			}
			require.InDelta(t, renewInterval, time.Since(start), float64(2*tickInterval))
		}
		require.Equal(t, renewed[agent], renewed[client])
		g, err := openGrant(w.cfg.GrantKey, renewed[client], time.Now())
		require.NoError(t, err)
		require.InDelta(t, proto.GrantLife, time.Until(g.expires), float64(2*tickInterval))
		require.NotEqual(t, atClient, renewed[client])

		// The client dies. Its peer lapses at the agent, a day after the last renewal.
		client.cut(kill())
		for {
			m := <-agent.pipe.fromServer
			if m.GetAdmitted() != nil {
				continue
			}
			if u := m.GetPeerUpdate(); u.GetGrant() != nil {
				require.Equal(t, renewed[client], u.GetGrant(), "a client that is away earns no renewal")
				continue
			}
			require.Equal(t, proto.PeerUpdate_DROP, m.GetPeerUpdate().GetKind())
			require.Equal(t, disconnect.AuthExpired, wire.ToGoodbye(m.GetPeerUpdate().GetGoodbye()).Reason)
			break
		}
		require.InDelta(t, renewInterval+proto.GrantLife, time.Since(start), float64(4*tickInterval))
		w.stop()
		require.Empty(t, w.members, "nothing is left of either")
	})
}
