package connlog_test

import (
	"encoding/json"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/verdict"
	"fairlead.dev/fairlead/server/connlog"
	"fairlead.dev/fairlead/server/store"
)

const clientAddr = "fd7a::1"

// pair is a session with the control links of its two ends.
type pair struct {
	*rig
	id            string
	began         time.Time
	agent, client *connlog.LinkRow
}

func newPair(t *testing.T) *pair {
	p := &pair{rig: newRig(t, nil), id: uuid.NewString()}
	p.agent, p.client = p.agentBack("life"), p.clientBack()
	<-time.After(time.Minute)
	p.began = time.Now()
	begin := opened(p.id, p.began)
	begin.Client = clientAddr
	p.report(p.rig.agent(p.ws, "life"), begin)
	<-time.After(time.Minute)
	return p
}

func (p *pair) agentBack(instance string) *connlog.LinkRow {
	link := p.link()
	link.Instance = instance
	row := p.log.LinkOpened(link)
	p.log.LinkOf(row.ID(), instance)
	return row
}

func (p *pair) clientBack() *connlog.LinkRow {
	row := p.log.LinkOpened(p.clientLink())
	p.log.LinkOf(row.ID(), clientAddr)
	return row
}

// silent is the agent's word that the client fell silent then, said now.
func (p *pair) silent(since time.Time) {
	p.t.Helper()
	end := ended(p.id, p.began, time.Now(), attr(disconnect.NetworkTimeout, disconnect.Network, "silent"))
	end.Testimony = testimony("ended", verdict.Fact{Kind: verdict.HeartbeatSilence, About: disconnect.Client, At: verdict.Moment{Wall: since}})
	end.Testimony.Account, end.Testimony.Evidence = end.Ending, disconnect.EvidenceInferred
	end.Testimony.LastGood, end.Testimony.FirstNoticed = verdict.Moment{Wall: since}, verdict.Moment{Wall: since.Add(time.Second)}
	p.report(p.rig.agent(p.ws, "life"), end)
}

// facts are the server's about the session.
func (p *pair) facts() (kinds []string) {
	p.t.Helper()
	raw, err := p.db.Testimonies(p.t.Context(), p.row(p.id).Key)
	require.NoError(p.t, err)
	for _, r := range raw {
		var t verdict.Testimony
		require.NoError(p.t, json.Unmarshal(r.Body, &t))
		for _, f := range t.Facts {
			if t.Observer == disconnect.Server {
				kinds = append(kinds, fmt.Sprint(f.Kind, " ", f.About))
			}
		}
	}
	return kinds
}

func lostLink(reason disconnect.Reason, leg disconnect.ConnectType) disconnect.Attribution {
	return lostBy(reason).On(leg)
}

// TestServerIsWitnessOfClients: a client whose kernel closed its control link, and which
// the agent does not hear any more, died; one that is back did not.
func TestServerIsWitnessOfClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t)
		died := time.Now()
		p.client.Ended(died, lostLink(disconnect.NetworkError, disconnect.ClientToServer))
		<-time.After(30 * time.Second)
		require.Equal(t, []string{"socket_closed client"}, p.facts())
		p.silent(died)
		row := p.row(p.id)
		require.Equal(t, disconnect.PeerCrashed, row.Ending.Reason)
		require.Equal(t, disconnect.Client, row.Ending.Initiator)
		require.Equal(t, verdict.R3, row.Judgement.Rule)
		require.True(t, row.Judgement.Waits, "its next life may know better")
		require.Equal(t, []string{"socket_closed client", "leg_alive agent"}, p.facts())
		link := p.row(p.client.ID())
		require.Equal(t, disconnect.PeerCrashed, link.Ending.Reason, "the agent is a witness of it too")
		require.Equal(t, disconnect.Client, link.Ending.Initiator)
		require.Equal(t, 1, link.Revision)

		p.clientBack()
		synctest.Wait()
		require.Equal(t, disconnect.NetworkError, p.row(p.client.ID()).Ending.Reason, "it lives")
		row = p.row(p.id)
		require.NotEqual(t, disconnect.PeerCrashed, row.Ending.Reason, "it lives")
		require.Equal(t, 1, row.Revision)
		require.Equal(t, 1, p.timesEnded(p.id))
	})
}

// TestAgentThatNobodyHears: a session whose client has given it up and whose agent died for
// good is over, and so says the agent's control link; an agent that comes back opens it again.
func TestAgentThatNobodyHears(t *testing.T) {
	for name, clientFirst := range map[string]bool{"the client is quick": true, "the server is quick": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPair(t)
				died := time.Now()
				word := testimony("ended", verdict.Fact{Kind: verdict.HeartbeatSilence, About: disconnect.Agent, At: verdict.Moment{Wall: died}})
				word.Observer, word.Principal, word.Evidence = disconnect.Client, p.owner.ID, disconnect.EvidenceInferred
				word.Account = attr(disconnect.NetworkTimeout, disconnect.Network, "silent")
				word.LastGood, word.FirstNoticed = verdict.Moment{Wall: died}, verdict.Moment{Wall: died.Add(time.Second)}
				testify := func() { require.NoError(t, p.log.Testify(t.Context(), p.id, *word)) }
				if clientFirst {
					testify()
					require.Equal(t, store.StatusOpen, p.row(p.id).Status, "the agent may still tell")
				}
				lost := lostLink(disconnect.NetworkError, disconnect.ServerToAgent)
				p.agent.Ended(died, lost)
				p.log.AgentLost(p.ws.ID, died, lost)
				<-time.After(8 * time.Second)
				if !clientFirst {
					require.Equal(t, store.StatusUnheard, p.row(p.id).Status)
					testify()
				}
				for id, waits := range map[string]bool{p.id: true, p.agent.ID(): false} {
					row := p.row(id)
					require.Equal(t, store.StatusClosed, row.Status)
					require.Equal(t, disconnect.PeerCrashed, row.Ending.Reason, row.Ending.String())
					require.Equal(t, disconnect.Agent, row.Ending.Initiator)
					require.Equal(t, waits, row.Provisional)
				}
				require.Equal(t, 1, p.timesEnded(p.id))

				p.agentBack("life")
				_, err := p.log.Announce(t.Context(), p.rig.agent(p.ws, "life"), connlog.Former{}, connlog.Announcement{SentAt: time.Now(), Known: []string{p.id}})
				require.NoError(t, err)
				synctest.Wait()
				require.Equal(t, store.StatusOpen, p.row(p.id).Status, "it was only out of reach")
				require.NotEqual(t, disconnect.PeerCrashed, p.row(p.agent.ID()).Ending.Reason)
			})
		})
	}
}

// TestSharedElement: an agent that neither its client nor the server hears, while the
// server hears the client, is the place of the fault; when both links live, the path is.
func TestSharedElement(t *testing.T) {
	t.Run("the agent's host", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := newPair(t)
			gone := time.Now()
			<-time.After(12 * time.Second)
			p.agent.Ended(time.Now(), lostLink(disconnect.NetworkTimeout, disconnect.ServerToAgent))
			<-time.After(20 * time.Second)
			p.agentBack("life")
			p.silent(gone.Add(11 * time.Second))
			row := p.row(p.id)
			require.Equal(t, verdict.R6, row.Judgement.Rule)
			require.Equal(t, "agent", row.Judgement.Locus)
			require.Equal(t, disconnect.NetworkTimeout, row.Ending.Reason)
		})
	})
	t.Run("the path", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := newPair(t)
			gone := time.Now()
			<-time.After(time.Minute)
			p.silent(gone)
			require.Equal(t, "path", p.row(p.id).Judgement.Locus)
			require.Equal(t, []string{"leg_alive agent", "leg_alive client"}, p.facts())
		})
	})
}

// TestWhoDiedFirst: when both ends have died, the first one ended the session, whoever is
// the first to tell.
func TestWhoDiedFirst(t *testing.T) {
	for _, first := range []disconnect.Initiator{disconnect.Agent, disconnect.Client} {
		for _, told := range []disconnect.Initiator{disconnect.Agent, disconnect.Client} {
			t.Run(fmt.Sprintf("%v died, %v told first", first, told), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					p := newPair(t)
					died := time.Now()
					die := func(who disconnect.Initiator) {
						if who == disconnect.Agent {
							p.agent.Ended(time.Now(), lostLink(disconnect.NetworkError, disconnect.ServerToAgent))
							return
						}
						p.client.Ended(time.Now(), lostLink(disconnect.ConnectionReset, disconnect.ClientToServer))
					}
					die(first)
					<-time.After(300 * time.Millisecond)
					die(disconnect.Agent + disconnect.Client - first)
					<-time.After(4 * time.Second)
					fact := verdict.Fact{Kind: verdict.Obituary, Outcome: verdict.Crashed, At: verdict.Moment{Wall: died.Add(-3 * time.Second)}, Until: verdict.Moment{Wall: time.Now()}}
					tell := func(who disconnect.Initiator) {
						word := testimony("obituary", fact)
						word.LastGood, word.FirstNoticed = fact.At, verdict.Moment{Wall: died.Add(3 * time.Second)}
						if who == disconnect.Agent {
							end := ended(p.id, p.began, died, attr(disconnect.PeerCrashed, disconnect.Agent, "the agent died"))
							end.Testimony = word
							p.report(p.rig.agent(p.ws, "next"), end)
							return
						}
						word.Observer, word.Principal = disconnect.Client, p.owner.ID
						require.NoError(t, p.log.Testify(t.Context(), p.id, *word))
					}
					tell(told)
					tell(disconnect.Agent + disconnect.Client - told)
					row := p.row(p.id)
					require.Equal(t, disconnect.PeerCrashed, row.Ending.Reason)
					require.Equal(t, first, row.Ending.Initiator)
					require.Equal(t, first.String(), row.Judgement.Locus)
					require.False(t, row.Judgement.Waits)
				})
			})
		}
	}
}

// TestNextLifeOfAnAgent: a new life that takes the place of one that was lost is known.
func TestNextLifeOfAnAgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t)
		p.agent.Ended(time.Now(), lostLink(disconnect.NetworkError, disconnect.ServerToAgent))
		<-time.After(time.Second)
		p.agentBack("next")
		synctest.Wait()
		require.Equal(t, []string{"socket_closed agent", "new_instance agent"}, p.facts())
		v, n := p.verdictOn(p.agent.ID())
		require.Equal(t, 2, n)
		require.Equal(t, disconnect.NetworkError, v.Reason, "a new life is no proof of a crash")
		require.Equal(t, 0, p.row(p.agent.ID()).Revision)

		// A newer link that is there before the older one is missed is no news.
		again := p.agentBack("next")
		synctest.Wait()
		again.Ended(time.Now(), lostLink(disconnect.NetworkTimeout, disconnect.ServerToAgent))
		synctest.Wait()
		require.Len(t, p.facts(), 2)
	})
}

// TestServersRestartIsRemarked: what was open when the server died is told of it.
func TestServersRestartIsRemarked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t)
		require.NoError(t, p.db.Alive(t.Context(), time.Now()))
		p.restart()
		require.Equal(t, []string{"obituary unknown"}, p.facts())
		require.Equal(t, store.StatusUnheard, p.row(p.id).Status)
		p.report(p.rig.agent(p.ws, "life"), ended(p.id, p.began, time.Now(), exited))
		require.Equal(t, exited, p.row(p.id).Ending)
	})
}
