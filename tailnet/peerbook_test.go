package tailnet

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/tailnet/proto"
)

func update(key proto.NodeKey, grant string, full bool) *proto.PeerUpdate {
	n := &proto.Node{Key: key.Bytes()}
	if full {
		n.DiscoKey = make([]byte, 32)
	}
	return &proto.PeerUpdate{Kind: proto.PeerUpdate_UPSERT, Node: n, Principal: "alice", Grant: []byte(grant)}
}

func TestPeerLapsesADayAfterItsLastGrant(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		renewed, stale := proto.NodeKey{1}, proto.NodeKey{2}
		type removal struct {
			key proto.NodeKey
			why disconnect.Reason
			at  time.Time
		}
		var removed, told []removal
		b := NewPeerBook(PeerBookOptions{
			Remove:    func(k proto.NodeKey) { removed = append(removed, removal{key: k, at: time.Now()}) },
			OnRemoved: func(k proto.NodeKey, why disconnect.Goodbye) { told = append(told, removal{key: k, why: why.Reason}) },
		})
		ctx, cancel := context.WithCancel(t.Context())
		var run sync.WaitGroup
		run.Go(func() { b.Run(ctx) })
		install := func(*proto.Node) error { return nil }
		start := time.Now()
		for _, key := range []proto.NodeKey{renewed, stale} {
			ok, err := b.upsert(key, update(key, "first", true), install)
			require.NoError(t, err)
			require.True(t, ok)
		}
		<-time.After(12 * time.Hour)                                        // the bubble's clock
		ok, err := b.upsert(renewed, update(renewed, "second", false), nil) // kept: no node in it
		require.NoError(t, err)
		require.True(t, ok)
		ok, err = b.upsert(stale, update(stale, "first", true), install) // moved, not renewed
		require.NoError(t, err)
		require.True(t, ok)

		<-time.After(12*time.Hour - time.Second) // the bubble's clock
		_, ok = b.Principal(stale)
		require.True(t, ok)
		<-time.After(time.Second) // the bubble's clock
		_, ok = b.Principal(stale)
		require.False(t, ok, "lapsed, though not yet removed")
		<-time.After(lapseInterval) // the bubble's clock
		synctest.Wait()
		require.Len(t, removed, 1)
		require.Equal(t, stale, removed[0].key)
		require.InDelta(t, proto.GrantLife, removed[0].at.Sub(start), float64(lapseInterval))
		principal, ok := b.Principal(renewed)
		require.True(t, ok)
		require.Equal(t, "alice", principal)
		require.Len(t, b.Announce().GetPeers(), 1)

		<-time.After(12 * time.Hour) // the bubble's clock
		synctest.Wait()
		require.Zero(t, b.Len())
		require.Nil(t, b.Announce())
		require.Equal(t, []removal{{key: stale, why: disconnect.AuthExpired}, {key: renewed, why: disconnect.AuthExpired}}, told)
		cancel()
		run.Wait()
	})
}

func TestPeerLapsesThoughTheHostSlept(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_700_000_000, 0)
	b := NewPeerBook(PeerBookOptions{Now: func() time.Time { return now }})
	key := proto.NodeKey{1}
	_, err := b.upsert(key, update(key, "g", true), func(*proto.Node) error { return nil })
	require.NoError(t, err)
	now = now.Add(25 * time.Hour) // no timer of this process has fired
	_, ok := b.Principal(key)
	require.False(t, ok)
}

func TestPeerBookAgreesWithTheEngine(t *testing.T) {
	t.Parallel()
	b := NewPeerBook(PeerBookOptions{})
	key := proto.NodeKey{1}
	broken := errors.New("the engine is broken")

	ok, err := b.upsert(key, update(key, "g1", false), nil)
	require.NoError(t, err)
	require.False(t, ok, "nothing is known of it, so there is nothing to keep")

	_, err = b.upsert(key, update(key, "g1", true), func(*proto.Node) error { return broken })
	require.ErrorIs(t, err, broken)
	require.Zero(t, b.Len())

	_, err = b.upsert(key, update(key, "g1", true), func(*proto.Node) error {
		principal, ok := b.Principal(key)
		require.True(t, ok && principal == "alice", "the user must be known before the first packet")
		return nil
	})
	require.NoError(t, err)
	_, err = b.upsert(key, update(key, "g2", true), func(*proto.Node) error { return broken })
	require.ErrorIs(t, err, broken)
	require.Equal(t, "g1", string(b.Announce().GetPeers()[0].GetGrant()))

	b.drop(key, func(proto.NodeKey) {
		_, ok := b.Principal(key)
		require.False(t, ok, "a connection that still gets through belongs to nobody")
	}, disconnect.Goodbye{})
	require.Zero(t, b.Len())
}
