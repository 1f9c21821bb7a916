package connlog_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/verdict"
	"fairlead.dev/fairlead/server/connlog"
	"fairlead.dev/fairlead/server/store"
)

// testimony is what an agent says of an end.
func testimony(id string, facts ...verdict.Fact) *verdict.Testimony {
	return &verdict.Testimony{
		ID: id, Observer: disconnect.Agent, ConnectType: disconnect.AgentToClient, Kind: verdict.Ending, Facts: facts,
		FirstNoticed: verdict.Moment{Wall: time.Now()},
	}
}

// verdictOn is the verdict on a row, and how many testimonies it is of.
func (r *rig) verdictOn(id string) (v verdict.Verdict, testimonies int) {
	r.t.Helper()
	row := r.row(id)
	raw, err := r.db.Testimonies(r.t.Context(), row.Key)
	require.NoError(r.t, err)
	v, _, err = connlog.Judge(r.t.Context(), r.db.ConnReader(), row, time.Now())
	require.NoError(r.t, err)
	require.Equal(r.t, row.Ending, v.Attribution, "the row and the verdict say the same")
	return v, len(raw)
}

func TestObituaryDecides(t *testing.T) {
	r := newRig(t, nil)
	agent, id, began := r.agent(r.ws, "life"), uuid.NewString(), time.Now().Add(-time.Minute)
	r.report(agent, opened(id, began))
	end := ended(id, began, began.Add(time.Second), attr(disconnect.PeerCrashed, disconnect.Agent, "the agent died"))
	end.Testimony = testimony("obituary", verdict.Fact{Kind: verdict.Obituary, Outcome: verdict.Crashed, At: verdict.Moment{Wall: began}})
	r.report(agent, end)
	v, n := r.verdictOn(id)
	require.Equal(t, 1, n)
	require.Equal(t, verdict.R3, v.Rule)
	require.Equal(t, disconnect.PeerCrashed, v.Reason)
	require.Equal(t, disconnect.ConfidenceHigh, v.Confidence)

	r.report(agent, end) // told twice, it counts once and revises nothing
	_, n = r.verdictOn(id)
	require.Equal(t, 1, n)
	require.Zero(t, r.row(id).Revision)

	// Who saw more later makes the ending better.
	end.Testimony = testimony("supervisor", verdict.Fact{Kind: verdict.Supervisor, About: disconnect.Agent, Outcome: verdict.OOMKiller})
	r.report(agent, end)
	v, n = r.verdictOn(id)
	require.Equal(t, 2, n)
	require.Equal(t, disconnect.OOMKilled, v.Reason)
	require.Equal(t, disconnect.ConfidenceCertain, v.Confidence)
	require.Equal(t, 1, r.row(id).Revision)
	require.Equal(t, 1, r.timesEnded(id))
}

func TestServersRemarkIsEvidence(t *testing.T) {
	r := newRig(t, nil)
	agent, id, began := r.agent(r.ws, "life"), uuid.NewString(), time.Now().Add(-time.Minute)
	r.report(agent, opened(id, began))
	stranger, link := r.log.LinkOpened(r.link()), r.log.LinkOpened(r.link())
	r.log.LinkOf(link.ID(), "life")
	eof := attr(disconnect.NetworkError, disconnect.Network, "EOF")
	stranger.Ended(time.Now(), eof) // who has not registered says nothing of the agent
	link.Ended(time.Now(), eof)
	r.log.AgentLost(r.ws.ID, time.Now(), eof)
	var raw []store.RawTestimony
	require.Eventually(t, func() bool {
		var err error
		raw, err = r.db.Testimonies(t.Context(), r.row(id).Key)
		require.NoError(t, err)
		return len(raw) > 0 && r.row(id).Status == store.StatusUnheard
	}, time.Minute, time.Millisecond)
	require.Len(t, raw, 1)
	require.Contains(t, string(raw[0].Body), `"socket_closed"`)
	require.Equal(t, disconnect.Server, raw[0].Observer)
}

func TestServersOwnDeath(t *testing.T) {
	r := newRig(t, nil)
	link := r.log.LinkOpened(connlog.Link{ConnectType: disconnect.ServerToAgent, ConnectedAt: time.Now(),
		Workspace: r.agent(r.ws, "").Workspace})
	require.Eventually(t, func() bool { return len(r.rows(store.ConnFilter{IDPrefix: link.ID()})) == 1 }, time.Minute, time.Millisecond)
	require.NoError(t, r.db.Alive(t.Context(), time.Now()))
	r.restart()
	v, _ := r.verdictOn(link.ID())
	require.Equal(t, verdict.R3, v.Rule)
	require.Equal(t, disconnect.Server, v.Initiator)
	require.Equal(t, "the server died without a goodbye", v.Detail)
}

func TestTestimoniesAreBounded(t *testing.T) {
	r := newRig(t, nil)
	agent, id, began := r.agent(r.ws, "life"), uuid.NewString(), time.Now().Add(-time.Minute)
	for i := range 40 {
		end := ended(id, began, began, attr(disconnect.ProcessExited, disconnect.Agent, ""))
		end.Testimony = testimony(fmt.Sprint(i))
		r.report(agent, end)
	}
	_, n := r.verdictOn(id)
	require.Equal(t, 16, n)
	// They go with their row.
	_, err := r.db.DeleteConnections(t.Context(), time.Now().Add(time.Hour), 100)
	require.NoError(t, err)
	var left []string
	require.NoError(t, r.query(&left, `SELECT body FROM testimonies`))
	require.Empty(t, left)
}

func TestHostileTestimony(t *testing.T) {
	good := `{"id":"x","observer":"agent","connect_type":"agent_to_client","kind":"ending",
		"principal":"somebody else","via":"server","received":"2020-01-01T00:00:00Z","facts":[{"kind":"slept","text":"a\u001b[2Jb"}]}`
	got, err := connlog.ParseTestimony([]byte(good), disconnect.Agent, "mine")
	require.NoError(t, err)
	require.Equal(t, "mine", got.Principal)
	require.Zero(t, got.Via)
	require.True(t, got.Received.IsZero())
	require.NotContains(t, got.Facts[0].Text, "\x1b")

	for name, raw := range map[string]string{
		"no JSON":           `{`,
		"another observer":  strings.Replace(good, `"observer":"agent"`, `"observer":"server"`, 1),
		"not its to know":   strings.Replace(good, "slept", "certificate_bad", 1),
		"a kind of no kind": strings.Replace(good, "slept", "dreamt", 1),
		"too long":          strings.Replace(good, "a\\u001b", strings.Repeat("a", 20_000), 1),
		"too many":          strings.Replace(good, `[{"kind":"slept"`, `[`+strings.Repeat(`{"kind":"slept"},`, 64)+`{"kind":"slept"`, 1),
	} {
		_, err := connlog.ParseTestimony([]byte(raw), disconnect.Agent, "mine")
		require.ErrorAs(t, err, new(connlog.ErrTestimony), name)
	}
	// Of another's connection it is not believed, whatever is stored.
	foreign := got
	foreign.Principal, foreign.Kind = "foreign", verdict.Ending
	foreign.Facts = []verdict.Fact{{Kind: verdict.OwnCause, Cause: attr(disconnect.ServerShutdown, disconnect.Agent, "")}}
	body, err := json.Marshal(foreign)
	require.NoError(t, err)
	row := store.Connection{ConnectType: disconnect.AgentToClient, Status: store.StatusClosed, Word: attr(disconnect.NetworkTimeout, disconnect.Network, "")}
	row.Workspace.ID = "mine"
	v := connlog.Verdict(row, []store.RawTestimony{{Body: body}}, time.Now())
	require.Equal(t, disconnect.NetworkTimeout, v.Reason)
	require.Equal(t, verdict.NotBelieved, v.Kept[0].Role)
}
