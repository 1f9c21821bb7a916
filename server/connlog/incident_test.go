package connlog_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/verdict"
	"fairlead.dev/fairlead/server/connlog"
)

// incident is that of a row, as it is judged now.
func (r *rig) incident(id string) *connlog.Incident {
	r.t.Helper()
	row := r.row(id)
	v, _, err := connlog.Judge(r.t.Context(), r.db.ConnReader(), row, time.Now())
	require.NoError(r.t, err)
	in, err := connlog.IncidentOf(r.t.Context(), r.db.ConnReader(), row, v, time.Now())
	require.NoError(r.t, err)
	return in
}

// another opens a further session beside that of the pair, of the client with that address.
func (p *pair) another(client string) *pair {
	other := *p
	other.id, other.began = uuid.NewString(), time.Now()
	begin := opened(other.id, other.began)
	begin.Client = client
	p.report(p.rig.agent(p.ws, "life"), begin)
	return &other
}

// TestIncidentOfAClient: what a client that died had open was lost by one event, of which
// neither the agent nor the other sessions there were part.
func TestIncidentOfAClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t)
		second, neighbour, left := p.another(clientAddr), p.another("fd7a::2"), p.another(clientAddr)
		<-time.After(time.Minute)
		p.report(p.rig.agent(p.ws, "life"), ended(left.id, left.began, time.Now(), attr(disconnect.ClientClosed, disconnect.Client, "left")))
		died := time.Now()
		p.client.Ended(died, lostLink(disconnect.NetworkError, disconnect.ClientToServer))
		<-time.After(30 * time.Second)
		p.silent(died)
		second.silent(died.Add(time.Second))
		<-time.After(10 * time.Minute)
		p.report(p.rig.agent(p.ws, "life"), ended(neighbour.id, neighbour.began, time.Now(), attr(disconnect.NetworkTimeout, disconnect.Network, "much later")))

		in := p.incident(p.id)
		require.NotNil(t, in)
		require.Equal(t, verdict.ClientElement, in.Element.Kind)
		require.Equal(t, disconnect.PeerCrashed, in.Reason)
		require.ElementsMatch(t, []string{p.id, second.id, p.client.ID()}, in.Incident.Connections)
		require.Len(t, in.Connections, 3)
		require.Equal(t, in.Incident.Connections, p.incident(second.id).Incident.Connections, "whichever is asked about")
		require.Nil(t, p.incident(neighbour.id))
		require.Nil(t, p.incident(left.id), "its user ended it")
	})
}

// TestIncidentOfAnAgent: one that several clients lost at once.
func TestIncidentOfAnAgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t)
		other := p.another("fd7a::2")
		<-time.After(time.Minute)
		gone := time.Now()
		p.agent.Ended(gone, lostLink(disconnect.NetworkError, disconnect.ServerToAgent))
		<-time.After(5 * time.Second)
		p.agentBack("next life")
		crashed := attr(disconnect.PeerCrashed, disconnect.Agent, "the agent died without a goodbye")
		for _, s := range []*pair{p, other} {
			end := ended(s.id, s.began, gone, crashed)
			end.Testimony = testimony("obituary", verdict.Fact{Kind: verdict.Obituary, Outcome: verdict.Crashed,
				At: verdict.Moment{Wall: gone.Add(-time.Second)}, Until: verdict.Moment{Wall: gone}})
			end.Testimony.LastGood, end.Testimony.FirstNoticed = verdict.Moment{Wall: gone.Add(-time.Second)}, verdict.Moment{Wall: gone}
			p.report(p.rig.agent(p.ws, "next life"), end)
		}
		in := p.incident(p.id)
		require.NotNil(t, in)
		require.Equal(t, verdict.AgentElement, in.Element.Kind)
		require.Equal(t, disconnect.PeerCrashed, in.Reason)
		require.Equal(t, disconnect.Agent, in.Initiator)
		require.ElementsMatch(t, []string{p.id, other.id, p.agent.ID()}, in.Incident.Connections)
	})
}
