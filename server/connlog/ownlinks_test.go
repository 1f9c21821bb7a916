package connlog_test

import (
	"math/rand/v2"
	"slices"
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

// clientLink is the control link of a client of the rig's owner.
func (r *rig) clientLink() connlog.Link {
	return connlog.Link{ConnectType: disconnect.ClientToServer, User: store.LoggedUser{ID: r.owner.ID, Name: r.owner.Name}, ConnectedAt: time.Now()}
}

// linkWord is what an agent testifies of one of its control links.
func linkWord(link, id string, at time.Time, facts ...verdict.Fact) connlog.Report {
	return connlog.Report{ID: link, OfLink: true, At: at, Testimony: &verdict.Testimony{
		ID: id, Observer: disconnect.Agent, ConnectType: disconnect.ServerToAgent, Kind: verdict.Ending,
		LastGood: verdict.Moment{Wall: at.Add(-time.Second)}, FirstNoticed: verdict.Moment{Wall: at}, Facts: facts,
	}}
}

func lostBy(reason disconnect.Reason) disconnect.Attribution {
	return disconnect.Attribution{Reason: reason, Initiator: disconnect.Network, Detail: "lost"}
}

// TestBothEndsOfALink: the row of a control link is judged by what both of its ends
// testify, in whatever order that comes.
func TestBothEndsOfALink(t *testing.T) {
	moment := func(d time.Duration) verdict.Moment { return verdict.Moment{Wall: time.Now().Add(d)} }
	for name, c := range map[string]struct {
		ended     disconnect.Attribution
		fact      func() verdict.Fact
		reason    disconnect.Reason
		initiator disconnect.Initiator
		rule      verdict.Rule
	}{
		"killed": {lostBy(disconnect.NetworkError), func() verdict.Fact {
			return verdict.Fact{Kind: verdict.Obituary, Outcome: verdict.Crashed, At: moment(-time.Second), Until: moment(0)}
		}, disconnect.PeerCrashed, disconnect.Agent, verdict.R3},
		"its link was down": {lostBy(disconnect.NetworkTimeout), func() verdict.Fact {
			return verdict.Fact{Kind: verdict.LinkDown, At: moment(-2 * time.Second), Until: moment(5 * time.Second)}
		}, disconnect.NetworkUnreachable, disconnect.Network, verdict.R5},
		"stood still": {lostBy(disconnect.NetworkTimeout), func() verdict.Fact {
			return verdict.Fact{Kind: verdict.TimerLate, At: moment(-14 * time.Second), Until: moment(0)}
		}, disconnect.HostPaused, disconnect.Agent, verdict.R4},
		"did not close it": {lostBy(disconnect.ConnectionReset), func() verdict.Fact {
			return verdict.Fact{Kind: verdict.CloseDenied, Leg: disconnect.ServerToAgent, At: moment(0)}
		}, disconnect.ConnectionReset, disconnect.Network, verdict.R8},
	} {
		t.Run(name, func(t *testing.T) {
			var rows []store.Connection
			for _, early := range []bool{false, true} {
				synctest.Test(t, func(t *testing.T) {
					r := newRig(t, nil)
					link := r.link()
					link.Instance = "life"
					row := r.log.LinkOpened(link)
					<-time.After(time.Minute)
					word := linkWord(row.ID(), "ended", time.Now(), c.fact())
					if early {
						r.report(r.agent(r.ws, "life"), word)
					}
					row.Ended(time.Now(), c.ended.On(disconnect.ServerToAgent))
					synctest.Wait()
					if !early {
						require.Equal(t, c.ended.Reason, r.row(row.ID()).Ending.Reason)
						require.True(t, r.row(row.ID()).Judgement.Waits)
						r.report(r.agent(r.ws, "life"), word, word)
					}
					got := r.row(row.ID())
					require.Equal(t, c.reason, got.Ending.Reason)
					require.Equal(t, c.initiator, got.Ending.Initiator)
					require.Equal(t, c.rule, got.Judgement.Rule)
					require.Equal(t, c.ended.Reason, got.Word.Reason, "the word stays")
					require.False(t, got.Judgement.Waits)
					require.Equal(t, 1, r.timesEnded(row.ID()))
					wantRevision := 0
					if !early && got.Ending != got.Word {
						wantRevision = 1
					}
					require.Equal(t, wantRevision, got.Revision)
					v, n := r.verdictOn(row.ID())
					require.Equal(t, 2, n)
					require.Equal(t, c.reason, v.Reason)
					got.Key, got.ID, got.Revision, got.Instance, got.Workspace = 0, "", 0, "", store.LoggedWorkspace{}
					rows = append(rows, got)
				})
			}
			require.Equal(t, rows[0].Ending, rows[1].Ending)
			require.Equal(t, rows[0].Judgement, rows[1].Judgement)
		})
	}
}

// TestObituaryBuriesTheLinkOfThatLife: what a next life of the agent says of the sessions of
// its former life is true of the last control link of that life, and of no other.
func TestObituaryBuriesTheLinkOfThatLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		open := func(instance string) *connlog.LinkRow {
			link := r.link()
			link.Instance = instance
			return r.log.LinkOpened(link)
		}
		first := open("old")
		<-time.After(10 * time.Minute)
		first.Ended(time.Now(), lostBy(disconnect.NetworkTimeout))
		last := open("old")
		id := uuid.NewString()
		r.report(r.agent(r.ws, "old"), opened(id, time.Now()))
		<-time.After(10 * time.Minute)
		died := time.Now()
		last.Ended(died, lostBy(disconnect.NetworkError))
		<-time.After(6 * time.Second)
		next := open("new")
		end := ended(id, died.Add(-time.Minute), died, attr(disconnect.PeerCrashed, disconnect.Agent, "the agent died"))
		end.Testimony = testimony("obituary", verdict.Fact{
			Kind: verdict.Obituary, Outcome: verdict.Crashed, At: verdict.Moment{Wall: died.Add(-3 * time.Second)}, Until: verdict.Moment{Wall: time.Now()},
		})
		end.Testimony.LastGood, end.Testimony.FirstNoticed = verdict.Moment{Wall: died.Add(-3 * time.Second)}, verdict.Moment{Wall: died.Add(4 * time.Second)}
		r.report(r.agent(r.ws, "new"), end)
		synctest.Wait()
		row := r.row(last.ID())
		require.Equal(t, disconnect.PeerCrashed, row.Ending.Reason)
		require.Equal(t, disconnect.Agent, row.Ending.Initiator)
		require.Equal(t, "agent", row.Judgement.Locus)
		require.Equal(t, 1, row.Revision)
		require.Equal(t, disconnect.NetworkTimeout, r.row(first.ID()).Ending.Reason)
		require.Equal(t, store.StatusOpen, r.row(next.ID()).Status)
		r.report(r.agent(r.ws, "new"), end) // told again
		require.Equal(t, 1, r.row(last.ID()).Revision)
	})
}

// TestClientsWordOfItsLink: a client's next life says how its control link ended.
func TestClientsWordOfItsLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		row := r.log.LinkOpened(r.clientLink())
		r.log.LinkOf(row.ID(), "fd7a::1")
		<-time.After(time.Minute)
		require.Equal(t, "fd7a::1", r.row(row.ID()).Peer)
		died := time.Now()
		row.Ended(died, lostBy(disconnect.NetworkError))
		<-time.After(time.Minute)
		word := verdict.Testimony{
			ID: "obituary", Observer: disconnect.Client, Principal: r.owner.ID, ConnectType: disconnect.ClientToServer, Kind: verdict.Ending,
			LastGood: verdict.Moment{Wall: died.Add(-time.Second)}, FirstNoticed: verdict.Moment{Wall: died.Add(time.Second)},
			Facts: []verdict.Fact{{Kind: verdict.Obituary, Outcome: verdict.Crashed, At: verdict.Moment{Wall: died.Add(-time.Second)}, Until: verdict.Moment{Wall: time.Now()}}},
		}
		stranger := word
		stranger.ID, stranger.Principal = "stranger", "somebody"
		require.NoError(t, r.log.Testify(t.Context(), row.ID(), stranger))
		require.Equal(t, disconnect.NetworkError, r.row(row.ID()).Ending.Reason, "it is not a stranger's to tell")
		require.NoError(t, r.log.Testify(t.Context(), row.ID(), word))
		got := r.row(row.ID())
		require.Equal(t, disconnect.PeerCrashed, got.Ending.Reason)
		require.Equal(t, disconnect.Client, got.Ending.Initiator)
		require.False(t, got.MayChange(time.Now()))
	})
}

// TestLinkWordsThatAreRefused: an agent testifies of control links of its own, and a
// session's end is not told that way.
func TestLinkWordsThatAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		mine, theirs, session := r.log.LinkOpened(r.link()), r.log.LinkOpened(r.clientLink()), uuid.NewString()
		agent := r.agent(r.ws, "life")
		r.report(agent, opened(session, time.Now()))
		synctest.Wait()
		now := time.Now()
		fact := verdict.Fact{Kind: verdict.LinkDown, At: verdict.Moment{Wall: now}}
		refused, err := r.log.Report(t.Context(), agent, now, []connlog.Report{
			linkWord(mine.ID(), "a", now, fact), linkWord(theirs.ID(), "b", now, fact), linkWord(session, "c", now, fact),
			linkWord(uuid.NewString(), "d", now, fact), ended(mine.ID(), now, now, exited),
		})
		require.NoError(t, err)
		require.Len(t, refused, 4)
		for i, want := range map[int]error{1: connlog.ErrNotYours, 2: connlog.ErrNotYours, 3: connlog.ErrNoConnection, 4: connlog.ErrNotYours} {
			require.ErrorIs(t, refused[i], want)
		}
		require.Equal(t, store.StatusOpen, r.row(mine.ID()).Status)
	})
}

// TestOrderOfTestimonies: the stored row of a link, with all that its verdict says, does not
// depend on the order in which its witnesses spoke.
func TestOrderOfTestimonies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for seed := range uint64(30) {
			rng := rand.New(rand.NewPCG(seed, 7))
			r := newRig(t, nil)
			type telling struct {
				row  *connlog.LinkRow
				ends disconnect.Attribution
			}
			a, b := telling{row: r.log.LinkOpened(r.link())}, telling{row: r.log.LinkOpened(r.link())}
			<-time.After(time.Minute)
			now := time.Now()
			ending := lostBy([]disconnect.Reason{disconnect.NetworkError, disconnect.ConnectionReset, disconnect.NetworkTimeout}[rng.IntN(3)])
			a.ends, b.ends = ending, ending
			at := func(d time.Duration) verdict.Moment { return verdict.Moment{Wall: now.Add(d)} }
			all := []verdict.Fact{
				{Kind: verdict.Obituary, Outcome: verdict.Crashed, At: at(-time.Second), Until: at(time.Second)},
				{Kind: verdict.LinkDown, At: at(-5 * time.Second), Until: at(0)},
				{Kind: verdict.TimerLate, At: at(-9 * time.Second), Until: at(0)},
				{Kind: verdict.CloseDenied, At: at(0)},
				{Kind: verdict.OwnCause, Cause: disconnect.Attribution{Reason: disconnect.ServerShutdown, Initiator: disconnect.Agent}, At: at(-time.Second)},
				{Kind: verdict.HeartbeatSilence, About: disconnect.Server, Leg: disconnect.ServerToAgent, At: at(-4 * time.Second)},
			}
			rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
			all = all[:1+rng.IntN(4)]
			tell := func(l telling, order []int, endsAfter int) store.Connection {
				for i, n := range order {
					if i == endsAfter {
						l.row.Ended(now, l.ends)
						synctest.Wait()
					}
					r.report(r.agent(r.ws, "life"), linkWord(l.row.ID(), string(rune('a'+n)), now, all[n]))
				}
				if endsAfter >= len(order) {
					l.row.Ended(now, l.ends)
				}
				synctest.Wait()
				return r.row(l.row.ID())
			}
			order := make([]int, len(all))
			for i := range order {
				order[i] = i
			}
			one := tell(a, order, 0)
			other := slices.Clone(order)
			rng.Shuffle(len(other), func(i, j int) { other[i], other[j] = other[j], other[i] })
			two := tell(b, other, rng.IntN(len(other)+1))
			require.Equal(t, one.Ending, two.Ending, "seed %d", seed)
			require.Equal(t, one.Judgement, two.Judgement, "seed %d", seed)
			require.Equal(t, one.Word, two.Word)
			r.close()
		}
	})
}

// TestServersOwnHost: a control link that ended because the server's own host stood still,
// or had no network, blames no peer, and is no evidence against its sessions.
func TestServersOwnHost(t *testing.T) {
	for name, c := range map[string]struct {
		kind  verdict.FactKind
		word  disconnect.Attribution
		locus string
		rule  verdict.Rule
	}{
		"stood still": {verdict.TimerLate, disconnect.Attribution{Reason: disconnect.HostPaused, Initiator: disconnect.Server, Detail: "stopped"}, "server", verdict.R4},
		"no network":  {verdict.LinkDown, disconnect.Attribution{Reason: disconnect.NetworkUnreachable, Initiator: disconnect.Network, Detail: "down"}, "server", verdict.R5},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPair(t)
				heard := time.Now()
				link := p.link()
				link.Instance, link.Heard = "life", func() time.Time { return heard }
				row := p.log.LinkOpened(link)
				p.log.LinkOf(row.ID(), "life")
				p.agent.Ended(time.Now(), disconnect.Attribution{ConnectType: disconnect.ServerToAgent, Reason: disconnect.DuplicateAgent, Initiator: disconnect.Server})
				<-time.After(15 * time.Second)
				fact := verdict.Fact{Kind: c.kind, At: verdict.Moment{Wall: heard.Add(time.Second)}, Until: verdict.Moment{Wall: time.Now()}, Text: "seen"}
				row.Ended(time.Now(), c.word.On(disconnect.ServerToAgent), fact)
				synctest.Wait()
				got := p.row(row.ID())
				require.Equal(t, c.word.Reason, got.Ending.Reason)
				require.Equal(t, c.word.Initiator, got.Ending.Initiator)
				require.Equal(t, c.rule, got.Judgement.Rule)
				require.Equal(t, c.locus, got.Judgement.Locus)
				require.Empty(t, p.facts(), "nothing of the agent")
			})
		})
	}
}
