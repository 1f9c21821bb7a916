package verdict

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	d "fairlead.dev/fairlead/disconnect"
)

// lossOf is a connection of user's laptop to a workspace, by the one server, lost at a second.
func lossOf(id, user, workspace string, s float64, r d.Reason, i d.Initiator, locus string) Loss {
	return Loss{Verdict: Verdict{
		ConnectionID: id, Kind: Ending, Attribution: attr(r, i, "").On(ac), Locus: locus,
		Began: at(s).Wall, Noticed: at(s + 8).Wall,
	}, Elements: []Element{{AgentElement, workspace}, {ClientElement, user + "-laptop"}, {ServerElement, "main"}, {RelayElement, "embedded"}}}
}

func TestIncidents(t *testing.T) {
	crash := func(id, user string, s float64) Loss {
		return lossOf(id, user, "dev", s, d.PeerCrashed, agent, "agent")
	}
	other := lossOf("x", "eve", "prod", 0, d.NetworkTimeout, d.Network, "")

	got := Incidents([]Loss{crash("a", "ada", 0), crash("b", "bob", 4), other, crash("late", "ada", 600)}, []Element{{ServerElement, "main"}, {RelayElement, "embedded"}})
	require.Len(t, got, 1)
	require.Equal(t, Element{AgentElement, "dev"}, got[0].Element)
	require.Equal(t, []string{"a", "b"}, got[0].Connections)
	require.Equal(t, d.PeerCrashed, got[0].Reason)
	require.Equal(t, agent, got[0].Initiator)
	require.Equal(t, at(4).Wall, got[0].Began, "what they have in common")
	require.Equal(t, at(8).Wall, got[0].Noticed)

	mine := got[0].For(func(id string) bool { return id == "a" })
	require.Equal(t, []string{"a"}, mine.Connections, "others are only counted")
	require.Equal(t, 1, mine.Others)
	require.Equal(t, 2, got[0].For(func(string) bool { return false }).Others)
	require.Len(t, got[0].Connections, 2, "the incident itself is as it was")
}

func TestIncidentNamesTheElement(t *testing.T) {
	relayed := func(id, user, workspace string) Loss {
		return lossOf(id, user, workspace, 0, d.RelayLost, server, "relay")
	}
	for name, tc := range map[string]struct {
		losses []Loss
		alive  []Element
		want   []Element
	}{
		"a laptop that slept": {[]Loss{lossOf("a", "ada", "dev", 0, d.Suspended, client, "client"), lossOf("b", "ada", "prod", 1, d.Suspended, client, "client")}, nil, []Element{{ClientElement, "ada-laptop"}}},
		"a relay":             {[]Loss{relayed("a", "ada", "dev"), relayed("b", "bob", "prod"), relayed("c", "bob", "dev")}, nil, []Element{{RelayElement, "embedded"}}},
		"a server":            {[]Loss{lossOf("a", "ada", "dev", 0, d.ServerShutdown, server, ""), lossOf("b", "bob", "prod", 0, d.ServerShutdown, server, "")}, nil, []Element{{ServerElement, "main"}}},
		"a workspace that was stopped": {[]Loss{lossOf("a", "ada", "dev", 0, d.WorkspaceStopped, server, ""), lossOf("b", "bob", "dev", 0, d.WorkspaceStopped, server, "")},
			[]Element{{ServerElement, "main"}}, []Element{{AgentElement, "dev"}}},
		"two at once": {[]Loss{
			lossOf("a", "ada", "dev", 0, d.PeerCrashed, agent, "agent"), lossOf("b", "bob", "dev", 0, d.PeerCrashed, agent, "agent"),
			lossOf("c", "eve", "prod", 0, d.PeerCrashed, agent, "agent"), lossOf("e", "bob", "prod", 0, d.PeerCrashed, agent, "agent"),
		}, nil, []Element{{AgentElement, "dev"}, {AgentElement, "prod"}}},
		"what lives did not fail": {[]Loss{lossOf("a", "ada", "dev", 0, d.NetworkTimeout, d.Network, ""), lossOf("b", "bob", "prod", 0, d.NetworkTimeout, d.Network, "")},
			[]Element{{ServerElement, "main"}, {RelayElement, "embedded"}}, nil},
		"users who left at the same time": {[]Loss{lossOf("a", "ada", "dev", 0, d.ClientClosed, client, ""), lossOf("b", "ada", "dev", 0, d.Graceful, agent, "")}, nil, nil},
		"one is none":                     {[]Loss{relayed("a", "ada", "dev")}, nil, nil},
		"none":                            {nil, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			var elements []Element
			for _, in := range Incidents(tc.losses, tc.alive) {
				elements = append(elements, in.Element)
				require.GreaterOrEqual(t, len(in.Connections), 2)
			}
			require.Equal(t, tc.want, elements)
		})
	}
}

// TestEachLossIsInOneIncident, whatever the order, and those in one all overlap.
func TestEachLossIsInOneIncident(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 3))
		var losses []Loss
		began := map[string]float64{}
		for i := range 20 {
			id, s := fmt.Sprint("c", i), float64(r.IntN(60))
			began[id] = s
			losses = append(losses, lossOf(id, pick(r, []string{"ada", "bob", "eve"}), pick(r, []string{"dev", "prod", "lab"}), s,
				pick(r, []d.Reason{d.PeerCrashed, d.NetworkTimeout, d.Suspended, d.ClientClosed}), pick(r, ends), pick(r, []string{"", "agent", "client", "server"})))
		}
		want := Incidents(losses, nil)
		r.Shuffle(len(losses), func(i, j int) { losses[i], losses[j] = losses[j], losses[i] })
		require.Equal(t, want, Incidents(losses, nil), "seed %d", seed)
		seen := map[string]bool{}
		for _, in := range want {
			first, last := began[in.Connections[0]], began[in.Connections[0]]
			for _, id := range in.Connections {
				require.False(t, seen[id], "seed %d: %s twice", seed, id)
				seen[id] = true
				first, last = min(first, began[id]), max(last, began[id])
			}
			require.LessOrEqual(t, last-first, 8+float64(sameMoment)/1e6, "seed %d", seed)
		}
	}
}

func BenchmarkIncidents(b *testing.B) {
	var losses []Loss
	for i := range 1000 {
		losses = append(losses, lossOf(fmt.Sprint("c", i), fmt.Sprint("u", i%50), fmt.Sprint("w", i%100), float64(i%3), d.ServerShutdown, server, ""))
	}
	for b.Loop() {
		if len(Incidents(losses, nil)) != 1 {
			b.Fatal("one server, one incident")
		}
	}
}
