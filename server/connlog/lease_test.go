package connlog_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/server/connlog"
	"fairlead.dev/fairlead/server/store"
)

const lease = 11 * time.Minute

var (
	exited  = attr(disconnect.ProcessExited, disconnect.Agent, "exit 7")
	cut     = disconnect.Attribution{ConnectType: disconnect.ServerToAgent, Reason: disconnect.NetworkError, Initiator: disconnect.Network}
	silence = attr(disconnect.NetworkTimeout, disconnect.Network, "nothing was heard of the agent for 11m0s")
)

// link is the control link of the rig's agent.
func (r *rig) link() connlog.Link {
	return connlog.Link{ConnectType: disconnect.ServerToAgent, Workspace: r.agent(r.ws, "").Workspace, IP: "192.0.2.7", ConnectedAt: time.Now()}
}

// TestFormerLife: what a server left open when it died ends at its last sign of life;
// what it left when it stopped had an ending already.
func TestFormerLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		stopped := disconnect.Attribution{ConnectType: disconnect.ClientToServer, Reason: disconnect.ServerShutdown, Initiator: disconnect.Server}
		client := connlog.Link{ConnectType: disconnect.ClientToServer, User: store.LoggedUser{ID: r.owner.ID, Name: "ada"}, ConnectedAt: time.Now()}
		clean := r.log.LinkOpened(client)
		clean.Ended(time.Now(), stopped) // Close writes it
		crashed := []string{r.log.LinkOpened(r.link()).ID(), r.log.LinkOpened(client).ID()}
		id, began := uuid.NewString(), time.Now()
		r.report(r.agent(r.ws, "life"), opened(id, began))
		<-time.After(time.Minute)
		alive := time.Now()
		require.NoError(t, r.db.Alive(t.Context(), alive))
		<-time.After(8 * time.Second)
		lateAt := time.Now()
		client.ConnectedAt = lateAt
		late := r.log.LinkOpened(client).ID() // after the last sign of life
		<-time.After(time.Hour)
		r.restart()

		require.Equal(t, stopped, r.row(clean.ID()).Ending)
		died := disconnect.Attribution{Reason: disconnect.PeerCrashed, Initiator: disconnect.Server, Detail: "the server died without a goodbye"}
		for _, id := range append(crashed, late) {
			row := r.row(id)
			require.Equal(t, died.On(row.ConnectType), row.Ending)
			require.False(t, row.Provisional)
			require.Equal(t, 1, r.timesEnded(id))
		}
		require.True(t, alive.Equal(r.row(crashed[0]).DisconnectedAt))
		require.True(t, lateAt.Equal(r.row(late).DisconnectedAt), "nothing ends before it begins")
		require.Equal(t, store.StatusUnheard, r.row(id).Status)

		r.restart() // a second life says nothing new
		require.Equal(t, store.StatusUnheard, r.row(id).Status)
		require.Equal(t, 1, r.timesEnded(late))
	})
}

// TestLease: what a silent agent had open is closed when its lease is over, for the
// reason that it or the server had said; what comes later is believed.
func TestLease(t *testing.T) {
	for name, c := range map[string]struct {
		link, want disconnect.Attribution
	}{
		"a cut link":       {cut, silence},
		"a stopped server": {disconnect.Attribution{Reason: disconnect.ServerShutdown, Initiator: disconnect.Server}, silence},
		"a goodbye": {
			disconnect.Attribution{Reason: disconnect.ServerShutdown, Initiator: disconnect.Agent, Detail: "the agent is stopping"},
			attr(disconnect.ServerShutdown, disconnect.Agent, "the agent is stopping"),
		},
		"a withdrawn token": {
			disconnect.Attribution{Reason: disconnect.AuthRevoked, Initiator: disconnect.Server, Detail: "the workspace was deleted"},
			attr(disconnect.AuthRevoked, disconnect.Server, "the workspace was deleted"),
		},
		"a protocol error is no goodbye": {disconnect.Attribution{Reason: disconnect.ProtocolError, Initiator: disconnect.Agent}, silence},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, nil)
				agent := r.agent(r.ws, "life")
				other := r.agent(r.addWorkspace("other"), "other")
				id, elsewhere := uuid.NewString(), uuid.NewString()
				r.report(agent, opened(id, time.Now()))
				r.report(other, opened(elsewhere, time.Now()))
				<-time.After(time.Minute)
				lost := time.Now()
				r.log.AgentLost(r.ws.ID, lost, c.link.On(disconnect.ServerToAgent))
				synctest.Wait()
				require.Equal(t, store.StatusUnheard, r.row(id).Status)
				<-time.After(lease - time.Second)
				require.Equal(t, store.StatusUnheard, r.row(id).Status)
				<-time.After(2 * time.Second)
				row := r.row(id)
				require.Equal(t, store.StatusClosed, row.Status)
				require.Equal(t, c.want, row.Ending)
				require.True(t, row.Provisional)
				require.True(t, lost.Equal(row.DisconnectedAt), "when it was last heard")
				require.Equal(t, 1, r.timesEnded(id))
				require.Equal(t, store.StatusOpen, r.row(elsewhere).Status)

				// It lives after all, and then its end is reported.
				require.Empty(t, r.announce(agent, connlog.Former{}, id))
				row = r.row(id)
				require.Equal(t, store.StatusOpen, row.Status)
				require.Equal(t, 1, row.Revision)
				require.True(t, row.DisconnectedAt.IsZero())
				<-time.After(2 * lease) // nothing closes it again
				require.Equal(t, store.StatusOpen, r.row(id).Status)
				r.report(agent, ended(id, row.ObservedAt, time.Now(), exited))
				row = r.row(id)
				require.Equal(t, exited, row.Ending)
				require.False(t, row.Provisional)
				require.Equal(t, 1, r.timesEnded(id), "an ending is told once")
			})
		})
	}
}

// TestLeaseAfterRestart: agents have their lease from the server's start on, and what the
// database knows of their last links counts.
func TestLeaseAfterRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		agent := r.agent(r.ws, "life")
		said, quiet, back := uuid.NewString(), uuid.NewString(), uuid.NewString()
		silentWS, backWS := r.addWorkspace("silent"), r.addWorkspace("back")
		r.report(agent, opened(said, time.Now()))
		r.report(r.agent(silentWS, "s"), opened(quiet, time.Now()))
		r.report(r.agent(backWS, "b"), opened(back, time.Now()))
		goodbye := disconnect.Attribution{ConnectType: disconnect.ServerToAgent, Reason: disconnect.ServerShutdown, Initiator: disconnect.Agent, Detail: "stopping"}
		require.NoError(t, r.db.AgentConnected(t.Context(), r.ws.ID, "life", time.Now()))
		<-time.After(time.Minute)
		left := time.Now()
		require.NoError(t, r.db.AgentEnded(t.Context(), r.ws.ID, left, goodbye))
		<-time.After(3 * time.Hour)
		r.restart()
		<-time.After(lease - time.Second)
		for _, id := range []string{said, quiet, back} {
			require.Equal(t, store.StatusUnheard, r.row(id).Status)
		}
		require.Empty(t, r.announce(r.agent(backWS, "b"), connlog.Former{}, back))
		<-time.After(2 * time.Second)
		require.Equal(t, goodbye.On(disconnect.AgentToClient), r.row(said).Ending)
		require.True(t, left.Equal(r.row(said).DisconnectedAt))
		require.Equal(t, silence, r.row(quiet).Ending)
		require.Equal(t, store.StatusOpen, r.row(back).Status)

		// A report replaces what was only supposed, by a new revision, and is final.
		r.report(r.agent(silentWS, "s"), ended(quiet, time.Now(), time.Now(), exited))
		r.report(r.agent(silentWS, "s"), ended(quiet, time.Now(), time.Now(), attr(disconnect.ServerShutdown, disconnect.Agent, "later")))
		row := r.row(quiet)
		require.Equal(t, exited, row.Ending)
		require.Equal(t, 1, row.Revision)
		require.False(t, row.Provisional)
	})
}

// TestLostAndBack: an agent that comes back within its lease has its rows open again, and
// the end of the older of two links says nothing of the newer.
func TestLostAndBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		agent, id := r.agent(r.ws, "life"), uuid.NewString()
		r.report(agent, opened(id, time.Now()))
		for range 3 {
			r.log.AgentLost(r.ws.ID, time.Now(), cut)
			r.announce(agent, connlog.Former{}, id)
			<-time.After(lease / 2)
			require.Equal(t, store.StatusOpen, r.row(id).Status)
		}
		<-time.After(2 * lease)
		require.Equal(t, store.StatusOpen, r.row(id).Status)
		require.Zero(t, r.row(id).Revision)
	})
}

// TestAnnounceOfANewLife: what an earlier life of the agent had open ended when that was
// last heard, for the reason that it gave, if it gave one.
func TestAnnounceOfANewLife(t *testing.T) {
	goodbye := disconnect.Attribution{ConnectType: disconnect.ServerToAgent, Reason: disconnect.DuplicateAgent, Initiator: disconnect.Server, Detail: "another one came"}
	crash := attr(disconnect.PeerCrashed, disconnect.Agent, "the agent died without a goodbye, and its record with it")
	for name, c := range map[string]struct {
		former connlog.Former
		want   disconnect.Attribution
	}{
		"cut":              {connlog.Former{Instance: "old", Ending: cut}, crash},
		"told":             {connlog.Former{Instance: "old", Ending: goodbye}, goodbye.On(disconnect.AgentToClient)},
		"told another one": {connlog.Former{Instance: "another", Ending: goodbye}, crash},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, nil)
				id, mine, unknown := uuid.NewString(), uuid.NewString(), uuid.NewString()
				r.report(r.agent(r.ws, "old"), opened(id, time.Now()))
				<-time.After(time.Minute)
				c.former.At = time.Now()
				<-time.After(time.Minute)
				r.report(r.agent(r.ws, "new"), opened(mine, time.Now()))
				require.Equal(t, []string{unknown}, r.announce(r.agent(r.ws, "new"), c.former, unknown, unknown))
				row := r.row(id)
				require.Equal(t, c.want, row.Ending)
				require.True(t, c.former.At.Equal(row.DisconnectedAt))
				require.False(t, row.Provisional)
				require.Equal(t, attr(disconnect.InternalError, disconnect.Agent, "the agent has no record of this connection"), r.row(mine).Ending)
			})
		})
	}
}

// TestLeaseEndsAsTheAgentSpeaks: a lease that is over in the moment in which the agent
// announces what it has open closes nothing of it, whichever of the two is written first.
func TestLeaseEndsAsTheAgentSpeaks(t *testing.T) {
	for _, leaseFirst := range []bool{true, false} {
		t.Run(fmt.Sprint("lease first ", leaseFirst), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var busy, held atomic.Bool
				hold := make(chan struct{})
				r := newRig(t, func(c *connlog.Config) {
					c.Changed = func(store.Connection) {
						if busy.Load() && held.CompareAndSwap(false, true) {
							<-hold // the log writes nothing meanwhile
						}
					}
				})
				agent, id := r.agent(r.ws, "life"), uuid.NewString()
				r.report(agent, opened(id, time.Now()))
				r.log.AgentLost(r.ws.ID, time.Now(), cut)
				synctest.Wait()
				require.Equal(t, store.StatusUnheard, r.row(id).Status)
				<-time.After(lease - time.Second)

				busy.Store(true)
				other := r.agent(r.addWorkspace("other"), "other")
				done := make(chan struct{}, 2)
				go func() {
					r.report(other, opened(uuid.NewString(), time.Now()))
					done <- struct{}{}
				}()
				synctest.Wait()
				announce := func() {
					r.announce(agent, connlog.Former{}, id)
					done <- struct{}{}
				}
				if !leaseFirst {
					go announce()
					synctest.Wait()
				}
				<-time.After(2 * time.Second) // the lease is over
				if leaseFirst {
					go announce()
					synctest.Wait()
				}
				close(hold)
				<-done
				<-done
				synctest.Wait()
				require.Equal(t, store.StatusOpen, r.row(id).Status)
			})
		})
	}
}
