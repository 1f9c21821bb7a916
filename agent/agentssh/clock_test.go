package agentssh

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/disconnect"
)

// clocked is a session as its clock sees it.
type clocked struct {
	srv     *Server
	traffic atomic.Uint64
	began   time.Time
	warned  []time.Duration // since the beginning
	ended   disconnect.Attribution
	after   time.Duration // when it ended
	over    chan struct{}
	done    chan struct{}
}

// startClock runs a clock in a bubble.
func startClock(p Policy) *clocked {
	c := &clocked{srv: &Server{}, began: time.Now(), over: make(chan struct{}), done: make(chan struct{})}
	c.srv.SetPolicy(p)
	go func() {
		defer close(c.done)
		k := clock{began: c.began, active: c.began}
		k.run(c.srv.currentPolicy, c.traffic.Load,
			func(string) { c.warned = append(c.warned, time.Since(c.began)) },
			func(a disconnect.Attribution) { c.ended, c.after = a, time.Since(c.began) }, c.over)
	}()
	return c
}

// TestClock: a session ends by its policy, never early, and is told before.
func TestClock(t *testing.T) {
	t.Run("session limit", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := startClock(Policy{SessionLimit: 8 * time.Hour, LimitRule: "a rule"})
			<-c.done
			require.Equal(t, 8*time.Hour, c.after)
			require.Equal(t, []time.Duration{8*time.Hour - time.Minute}, c.warned, "a minute before, once")
			require.Equal(t, disconnect.Attribution{ConnectType: disconnect.AgentToClient, Reason: disconnect.SessionLimit,
				Initiator: disconnect.Agent, Detail: "the session lasted 8h0m0s, and a rule allows no more"}, c.ended)
		})
	})
	t.Run("idle", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := startClock(Policy{IdleTimeout: 30 * time.Minute, IdleRule: "a rule"})
			<-time.After(29*time.Minute + 30*time.Second) // warned, and then somebody types
			c.traffic.Add(1)
			<-c.done
			require.GreaterOrEqual(t, c.after, 59*time.Minute+30*time.Second, "never early")
			require.LessOrEqual(t, c.after, 59*time.Minute+30*time.Second+longestLook)
			require.Len(t, c.warned, 2, "once each time")
			require.Equal(t, disconnect.IdleTimeout, c.ended.Reason)
			require.Contains(t, c.ended.Detail, "for 30m0s, and a rule allows no more")
		})
	})
	t.Run("busy", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := startClock(Policy{IdleTimeout: 2 * time.Minute})
			for range 100 {
				<-time.After(50 * time.Second)
				c.traffic.Add(1)
			}
			synctest.Wait()
			require.Zero(t, c.ended)
			require.Empty(t, c.warned)
			close(c.over)
			<-c.done
		})
	})
	t.Run("a policy that changes is followed", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := startClock(Policy{})
			<-time.After(10 * time.Hour)
			c.srv.SetPolicy(Policy{SessionLimit: 11 * time.Hour})
			<-time.After(59*time.Minute + 30*time.Second)
			synctest.Wait()
			require.Len(t, c.warned, 1)
			c.srv.SetPolicy(Policy{SessionLimit: 12 * time.Hour}) // more time, and another warning
			<-c.done
			require.Equal(t, 12*time.Hour, c.after)
			require.Len(t, c.warned, 2)
		})
	})
	t.Run("a session that is too old already", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := startClock(Policy{})
			<-time.After(time.Hour)
			c.srv.SetPolicy(Policy{SessionLimit: time.Minute})
			<-c.done
			require.Equal(t, time.Hour, c.after)
		})
	})
	t.Run("short bounds are told half-way", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := startClock(Policy{SessionLimit: 10 * time.Second})
			<-c.done
			require.Equal(t, []time.Duration{5 * time.Second}, c.warned)
		})
	})
}
