package agent

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/agent/agentssh"
	"fairlead.dev/fairlead/agent/proto"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/verdict"
	"fairlead.dev/fairlead/journal"
)

func ended(r disconnect.Reason, i disconnect.Initiator) agentssh.Ended {
	return agentssh.Ended{Attribution: attributed(r, i), ExitCode: -1}
}

func attributed(r disconnect.Reason, i disconnect.Initiator) disconnect.Attribution {
	return disconnect.Attribution{ConnectType: disconnect.AgentToClient, Reason: r, Initiator: i}
}

// TestTestimonyOfAnEnd: a testimony has the agent's own host in it, and what follows from
// the testimony alone is what the agent could know.
func TestTestimonyOfAnEnd(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	heard := now.Add(-30 * time.Second)
	seen := sight{now: now, heard: heard, missing: heard.Add(3 * time.Second), clock: verdict.Clock{Wall: now, Bound: 1}}
	fact := func(kind verdict.FactKind, from, to time.Time, text string) verdict.Fact {
		return verdict.Fact{Kind: kind, At: verdict.Moment{Wall: from}, Until: verdict.Moment{Wall: to}, Text: text}
	}
	killed := ended(disconnect.ProcessSignaled, disconnect.Agent)
	killed.Exited, killed.Signal, killed.ExitCode = true, "KILL", 137
	starved := killed
	starved.Reason, starved.OutOfMemory = disconnect.OOMKilled, true
	said := attributed(disconnect.ClientClosed, disconnect.Client)
	for name, test := range map[string]struct {
		ended  agentssh.Ended
		facts  []verdict.Fact
		said   disconnect.Attribution
		silent bool // or else the client was heard just now
		want   disconnect.Reason
		kinds  []verdict.FactKind
	}{
		"silence": {
			ended: ended(disconnect.NetworkTimeout, disconnect.Network), silent: true,
			want: disconnect.NetworkTimeout, kinds: []verdict.FactKind{verdict.HeartbeatSilence},
		},
		"own link": {
			ended: ended(disconnect.NetworkTimeout, disconnect.Network), silent: true,
			facts: []verdict.Fact{fact(verdict.LinkDown, heard.Add(time.Second), now, "eth0 is down")},
			want:  disconnect.NetworkUnreachable, kinds: []verdict.FactKind{verdict.HeartbeatSilence, verdict.LinkDown},
		},
		"own link later": {
			ended: ended(disconnect.NetworkTimeout, disconnect.Network), silent: true,
			facts: []verdict.Fact{fact(verdict.LinkDown, heard.Add(15*time.Second), now, "eth0 is down")},
			want:  disconnect.NetworkTimeout, kinds: []verdict.FactKind{verdict.HeartbeatSilence, verdict.LinkDown},
		},
		"stopped": {
			ended: ended(disconnect.NetworkTimeout, disconnect.Network), silent: true,
			facts: []verdict.Fact{fact(verdict.TimerLate, heard.Add(time.Second), now, "")},
			want:  disconnect.HostPaused, kinds: []verdict.FactKind{verdict.HeartbeatSilence, verdict.TimerLate},
		},
		"goodbye": {
			ended: agentssh.Ended{Attribution: said, ExitCode: -1}, said: said,
			want: disconnect.ClientClosed, kinds: []verdict.FactKind{verdict.GoodbyeReceived},
		},
		"goodbye of something else": {
			ended: ended(disconnect.ProtocolError, disconnect.Client), said: said,
			want: disconnect.ProtocolError, kinds: nil,
		},
		"killed": {
			ended:  killed,
			silent: true, want: disconnect.ProcessSignaled, kinds: []verdict.FactKind{verdict.ProcessExit},
		},
		"out of memory": {
			ended: starved, want: disconnect.OOMKilled, kinds: []verdict.FactKind{verdict.ProcessExit, verdict.OOMKill},
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := seen
			s.facts, s.said = test.facts, test.said
			if !test.silent {
				s.heard, s.missing = now, time.Time{}
			}
			out := testimonyOf(test.ended, s)
			require.NoError(t, out.Validate())
			var kinds []verdict.FactKind
			for _, f := range out.Facts {
				kinds = append(kinds, f.Kind)
			}
			require.Equal(t, test.kinds, kinds)
			v := verdict.Judge([]verdict.Testimony{*out}, verdict.Context{ConnectType: disconnect.AgentToClient, Now: now})
			require.Equal(t, test.want, v.Reason, "%+v", v)
			require.Equal(t, s.heard, out.LastGood.Wall)
		})
	}
}

// TestLinkOfAFormerLife: the next life knows which control link was open, and says once how
// that ended; one that ended while its life went on is not told of.
func TestLinkOfAFormerLife(t *testing.T) {
	a := newLife(t, t.TempDir())
	over, open := uuid.New(), uuid.New()
	a.linkOpened(over)
	a.linkForgotten()
	a.linkOpened(open)
	require.True(t, a.anyOpen(), "it gives signs of life")

	b := newLife(t, killed(t, a))
	reports := b.nextReports(maxReports)
	require.Len(t, reports, 1)
	c := reports[0].GetConnection()
	require.Equal(t, proto.Connection_OF_LINK, c.GetAction())
	require.Equal(t, open[:], c.GetId())
	var out verdict.Testimony
	require.NoError(t, json.Unmarshal(c.GetTestimony(), &out))
	require.NoError(t, out.Validate())
	require.Equal(t, disconnect.ServerToAgent, out.ConnectType)
	require.Equal(t, verdict.Crashed, out.Facts[0].Outcome)

	next := newLife(t, killed(t, b))
	require.Equal(t, 1, next.reportsPending(), "one obituary")
	require.NoError(t, next.reportsDelivered(1, 0))
	require.Zero(t, next.reportsPending())
	last := newLife(t, killed(t, next))
	require.Zero(t, last.reportsPending())
	require.NoError(t, last.journal.Close())
}

// TestStarved: a former life that ends without a word while the kernel's count rose was
// killed for want of memory; one that closed its record was not.
func TestStarved(t *testing.T) {
	died := func(left journal.Recovered, rose bool) *verdict.Testimony {
		left.LastSign = time.Now().Add(-10 * time.Second)
		a := obituary(left, func(ago time.Duration) bool {
			require.InDelta(t, 10*time.Second, ago, float64(5*time.Second))
			return rose
		})
		return obituaryOf(disconnect.AgentToClient, left, a, time.Now())
	}
	crashed := journal.Recovered{SameBoot: true}
	require.Equal(t, verdict.OOMKilled, died(crashed, true).Facts[0].Outcome)
	require.Equal(t, verdict.Crashed, died(crashed, false).Facts[0].Outcome)
	require.Equal(t, verdict.Clean, died(journal.Recovered{SameBoot: true, Clean: true}, true).Facts[0].Outcome)
	require.Equal(t, verdict.Rebooted, died(journal.Recovered{}, true).Facts[0].Outcome)
}
