package coordinator

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/control"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/tailnet/proto"
)

// TestRightWithdrawnWhileATunnelIsSetUp: the answer that let it in is older than the
// withdrawal, and the recheck that followed that did not find the tunnel yet.
func TestRightWithdrawnWhileATunnelIsSetUp(t *testing.T) {
	t.Parallel()
	old := newWorld(t) // where the client has its grant from
	old.allow("alice", "dev", true)
	agentKey, clientKey := newKey(), newKey()
	grant, _ := old.tunnel(old.join(clientLink("alice"), clientKey), old.join(agentLink("dev", "a1"), agentKey), "dev")

	for name, ask := range map[string]func(client *peer){
		"asked for": func(client *peer) { client.addTunnel("dev") },
		"announced": func(client *peer) { client.announce(agentKey, grant) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var w *world
			var once sync.Once
			w = newWorld(t, func(cfg *Config) {
				decide := cfg.Authorize
				cfg.Authorize = func(ctx context.Context, client control.Identity, workspace string) (Right, error) {
					right, err := decide(ctx, client, workspace)
					once.Do(func() {
						w.allow("alice", "dev", false)
						require.NoError(t, w.Recheck(ctx, "alice", "dev"))
					})
					return right, err
				}
			})
			w.allow("alice", "dev", true)
			agent := w.join(agentLink("dev", "a1"), agentKey)
			client := w.join(clientLink("alice"), clientKey)
			ask(client)
			for _, p := range []*peer{agent, client} {
				for u := p.next().GetPeerUpdate(); u.GetKind() != proto.PeerUpdate_DROP; {
					u = p.next().GetPeerUpdate()
				}
			}
			w.mu.Lock()
			defer w.mu.Unlock()
			w.Coordinator.mu.Lock()
			defer w.Coordinator.mu.Unlock()
			require.Empty(t, w.members[clientKey.node()].tunnels)
		})
	}
}

// TestRightThatEndsByItself: the tunnel ends then, even when its client has left the
// server long before.
func TestRightThatEndsByItself(t *testing.T) {
	t.Parallel()
	for name, left := range map[string]bool{"with the client there": false, "with the client away": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.allow("alice", "dev", true)
				w.until = time.Now().Add(10*time.Minute + 7*time.Second)
				agent := w.join(agentLink("dev", "a1"), newKey())
				client := w.join(clientLink("alice"), newKey())
				sealed, _ := w.tunnel(client, agent, "dev")
				g, err := openGrant(w.cfg.GrantKey, sealed, time.Now())
				require.NoError(t, err)
				require.WithinDuration(t, w.until, g.expires, time.Second, "nor is the grant good for longer")
				if left {
					client.cut(kill())
				}
				u := (<-agent.pipe.fromServer).GetPeerUpdate() // no patience of the harness' here
				require.Equal(t, proto.PeerUpdate_DROP, u.GetKind())
				require.WithinDuration(t, w.until, time.Now(), 2*time.Second)
				w.stop()
			})
		})
	}
}

// TestEndTunnels: whoever the agent is, it keeps no client.
func TestEndTunnels(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.allow("alice", "dev", true)
	w.allow("alice", "prod", true)
	dev, prod := w.join(agentLink("dev", "a1"), newKey()), w.join(agentLink("prod", "a2"), newKey())
	client := w.join(clientLink("alice"), newKey())
	w.tunnel(client, dev, "dev")
	w.tunnel(client, prod, "prod")
	w.EndTunnels("dev", disconnect.Goodbye{Reason: disconnect.AuthRevoked, Initiator: disconnect.Server, Detail: "test"})
	client.revoke(dev.key)
	dev.revoke(client.key)
	client.silent()
}

// TestDeadClientsKeepNobodyOut: an agent has room for a client as long as one of its
// clients is away.
func TestDeadClientsKeepNobodyOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Coordinator.tunnels = 2
	for _, user := range []string{"alice", "bob", "carol", "dave"} {
		w.allow(user, "dev", true)
	}
	agent := w.join(agentLink("dev", "a1"), newKey())
	alice, bob := w.join(clientLink("alice"), newKey()), w.join(clientLink("bob"), newKey())
	w.tunnel(alice, agent, "dev")
	w.tunnel(bob, agent, "dev")
	alice.cut(kill())
	require.Error(t, alice.ended())
	carol := w.join(clientLink("carol"), newKey())
	carol.addTunnel("dev")
	agent.drop(alice.key)
	agent.upsert(carol.key)
	require.NotNil(t, carol.upsert(agent.key))
	require.Nil(t, carol.reply().GetRefusal())

	dave := w.join(clientLink("dave"), newKey())
	dave.addTunnel("dev")
	require.NotNil(t, dave.reply().GetRefusal(), "all of them are there")
}

// TestAskingIsBounded: a user who asks for ever more tunnels waits, on all streams
// together, and nobody else does.
func TestAskingIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.allow("bob", "dev", true)
		one, two := w.join(clientLink("alice"), newKey()), w.join(clientLink("alice"), newKey())
		bob := w.join(clientLink("bob"), newKey())
		start := time.Now()
		for range askBurst / 2 {
			for _, p := range []*peer{one, two} {
				p.addTunnel("nothing")
				p.reply()
			}
		}
		require.Zero(t, time.Since(start))
		const more = 3 * askPerSecond
		for range more {
			two.addTunnel("nothing")
			two.reply()
		}
		require.InDelta(t, more/askPerSecond*time.Second, time.Since(start), float64(time.Second))
		before := time.Now()
		bob.addTunnel("dev")
		require.Equal(t, proto.Refusal_AGENT_OFFLINE, bob.reply().GetRefusal().GetCode())
		require.Zero(t, time.Since(before))
		w.stop()
		require.Empty(t, w.asking)
	})
}
