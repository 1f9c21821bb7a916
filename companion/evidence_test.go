package companion

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/disconnect"
)

func ending(r disconnect.Reason, i disconnect.Initiator) disconnect.Attribution {
	return disconnect.Attribution{ConnectType: disconnect.ServerToAgent, Reason: r, Initiator: i, Detail: "told"}
}

// TestJudge walks what a watch may know, and names the verdict.
func TestJudge(t *testing.T) {
	const (
		limit = time.Minute
		stale = 6 * time.Second
		none  = disconnect.Unknown // no verdict yet
	)
	stopped := presence{goodbye: true, ending: ending(disconnect.ServerShutdown, disconnect.Agent)}
	crashed := presence{ending: ending(disconnect.NetworkError, disconnect.Network)}
	reset := presence{ending: ending(disconnect.ConnectionReset, disconnect.Network)}
	lost := presence{ending: ending(disconnect.NetworkTimeout, disconnect.Network)}
	online := presence{online: true}
	serverStopped := presence{goodbye: true, ending: ending(disconnect.ServerShutdown, disconnect.Server)}

	for name, test := range map[string]struct {
		silence   time.Duration
		replaced  time.Duration // ago; 0: not
		successor bool
		server    presence
		refused   time.Duration
		want      disconnect.Reason
		who       disconnect.Initiator
		next      time.Duration // from the last frame heard
	}{
		"alive":                                  {silence: time.Second, next: limit},
		"silent":                                 {silence: limit - 1, next: limit},
		"silent for the limit":                   {silence: limit, want: disconnect.NetworkTimeout, who: disconnect.Network},
		"limit, server sees the agent":           {silence: limit, server: online, want: disconnect.NetworkTimeout, who: disconnect.Network},
		"limit, server lost it too":              {silence: limit, server: lost, want: disconnect.NetworkTimeout, who: disconnect.Network},
		"limit, server itself stopped":           {silence: limit, server: serverStopped, want: disconnect.NetworkTimeout, who: disconnect.Network},
		"limit, control socket closed":           {silence: limit, server: crashed, want: disconnect.PeerCrashed, who: disconnect.Agent},
		"limit, control socket reset":            {silence: limit, server: reset, want: disconnect.PeerCrashed, who: disconnect.Agent},
		"limit, agent told the server":           {silence: limit, server: stopped, want: disconnect.ServerShutdown, who: disconnect.Agent},
		"control socket closed, agent answers":   {silence: time.Second, server: crashed, next: limit},
		"control socket closed, agent silent":    {silence: 30 * time.Second, server: crashed, next: limit},
		"its machine says that it is gone":       {silence: 30 * time.Second, server: crashed, refused: goneAfter, want: disconnect.PeerCrashed, who: disconnect.Agent},
		"its machine said so only once":          {silence: 30 * time.Second, server: crashed, refused: 10 * time.Second, next: limit},
		"its machine says so, the server not":    {silence: 30 * time.Second, server: lost, refused: goneAfter, next: limit},
		"its machine says so after a reset":      {silence: 30 * time.Second, server: reset, refused: goneAfter, next: limit},
		"its machine says so, the server had it": {silence: 30 * time.Second, server: online, refused: goneAfter, next: limit},
		"successor online, agent answers":        {silence: time.Second, successor: true, server: crashed, next: stale},
		"successor online, agent silent":         {silence: stale, successor: true, server: crashed, want: disconnect.PeerCrashed, who: disconnect.Agent},
		"successor online, old one unknown":      {silence: stale, successor: true, next: limit},
		"successor online, old one lost":         {silence: stale, successor: true, server: lost, next: limit},
		"agent told the server, but answers":     {silence: time.Second, server: stopped, next: stale},
		"agent told the server, silent":          {silence: stale, server: stopped, want: disconnect.ServerShutdown, who: disconnect.Agent},
		"replaced, server silent":                {silence: time.Second, replaced: 1, next: time.Second - 1 + serverGrace},
		"replaced, server silent, grace over":    {silence: serverGrace, replaced: serverGrace, want: disconnect.NetworkError, who: disconnect.Network},
		"replaced, server knows the new only":    {silence: serverGrace, replaced: serverGrace, successor: true, want: disconnect.NetworkError, who: disconnect.Network},
		"replaced, control socket closed":        {silence: time.Second, replaced: 1, server: crashed, want: disconnect.PeerCrashed, who: disconnect.Agent},
		"replaced, agent told the server":        {silence: time.Second, replaced: 1, server: stopped, want: disconnect.ServerShutdown, who: disconnect.Agent},
		"replaced, server had lost it":           {silence: serverGrace, replaced: serverGrace, server: lost, want: disconnect.NetworkTimeout, who: disconnect.Network},
		"replaced, server calls the old online":  {silence: serverGrace, replaced: serverGrace, server: online, want: disconnect.NetworkError, who: disconnect.Network},
		"replaced beyond the limit without word": {silence: limit, replaced: 1, next: limit - 1 + serverGrace},
	} {
		t.Run(name, func(t *testing.T) {
			now := time.Now()
			e := evidence{limit: limit, stale: stale, heardAt: now.Add(-test.silence), known: true, successor: test.successor, server: test.server, refused: test.refused}
			if test.replaced > 0 {
				e.replaced = now.Add(-test.replaced)
			}
			a, over, next := e.judge(now)
			require.Equal(t, test.want != none, over)
			if !over {
				require.Zero(t, a)
				require.Equal(t, test.next, next.Sub(e.heardAt))
				require.True(t, next.After(now), "a clock must not spin")
				return
			}
			require.Equal(t, test.want, a.Reason)
			require.Equal(t, test.who, a.Initiator)
			require.Equal(t, disconnect.AgentToClient, a.ConnectType)
			require.NotEmpty(t, a.Detail)
		})
	}
}

func TestJudgeBeforeTheFirstHello(t *testing.T) {
	now := time.Now()
	a, over, _ := evidence{limit: time.Second, heardAt: now.Add(-time.Second)}.judge(now)
	require.True(t, over)
	require.Equal(t, disconnect.NetworkTimeout, a.Reason)
	require.Contains(t, a.Detail, "did not answer")
}

// TestSuspicion: who cannot wait is told what is known, and no party is accused on one
// sign alone.
func TestSuspicion(t *testing.T) {
	now := time.Now()
	for name, test := range map[string]struct {
		evidence
		want   disconnect.Reason // Unknown: nothing is suspected
		who    disconnect.Initiator
		detail string
	}{
		"nothing":       {},
		"online":        {evidence: evidence{server: presence{online: true}}},
		"lost by both":  {evidence: evidence{server: presence{ending: ending(disconnect.NetworkTimeout, disconnect.Network)}}},
		"server stops":  {evidence: evidence{server: presence{goodbye: true, ending: ending(disconnect.ServerShutdown, disconnect.Server)}}},
		"agent stopped": {evidence{server: presence{goodbye: true, ending: ending(disconnect.ServerShutdown, disconnect.Agent)}}, disconnect.ServerShutdown, disconnect.Agent, ""},
		"control socket closed": {evidence{server: presence{ending: ending(disconnect.NetworkError, disconnect.Network)}},
			disconnect.PeerCrashed, disconnect.Agent, "closed without a goodbye and the connection to it broke"},
		"control socket closed, replaced": {evidence{replaced: now, server: presence{ending: ending(disconnect.NetworkError, disconnect.Network)}},
			disconnect.PeerCrashed, disconnect.Agent, "closed without a goodbye and a new agent process took its place"},
		"replaced": {evidence{replaced: now}, disconnect.NetworkError, disconnect.Network, "has not said"},
		"replaced and mourned": {evidence{replaced: now, mourned: ending(disconnect.OOMKilled, disconnect.Agent)},
			disconnect.OOMKilled, disconnect.Agent, ""},
	} {
		t.Run(name, func(t *testing.T) {
			a, ok := test.suspicion()
			require.Equal(t, test.want != disconnect.Unknown, ok)
			require.Equal(t, test.want, a.Reason)
			require.Equal(t, test.who, a.Initiator)
			require.Contains(t, a.Detail, test.detail)
		})
	}
}

// TestServersWord: of the agent's life that the watch began with, and of no other.
func TestServersWord(t *testing.T) {
	for want, p := range map[string]presence{
		"server hears it": {online: true},
		"agent stopped":   {goodbye: true, ending: ending(disconnect.ServerShutdown, disconnect.Agent)},
		"agent is gone":   {ending: ending(disconnect.NetworkError, disconnect.Network)},
		"server lost it":  {ending: ending(disconnect.NetworkTimeout, disconnect.Network)},
	} {
		w := &Watch{instance: "agent-1", presences: map[string]presence{"agent-1": p, "agent-2": {online: true}}}
		require.Equal(t, want, w.ServersWord())
		w.instance = "agent-3"
		require.Empty(t, w.ServersWord())
	}
}
