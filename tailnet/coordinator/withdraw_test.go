package coordinator

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/control"
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
