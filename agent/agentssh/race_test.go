//go:build unix

package agentssh_test

import (
	"math/rand/v2"
	"net/netip"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/testutil"
)

// Everything that can end a session happens at about the same time. Whatever came
// first, newHost's clean-up proves that each session ended once.
func TestEndingsRace(t *testing.T) {
	t.Parallel()
	loopback := netip.MustParseAddr("127.0.0.1")
	for group := range 8 {
		t.Run(strconv.Itoa(group), func(t *testing.T) {
			t.Parallel()
			for round := range 8 {
				raceEndings(t, round, loopback)
			}
		})
	}
}

func raceEndings(t *testing.T, round int, loopback netip.Addr) {
	h := newHost(t, nil)
	var wg sync.WaitGroup
	shake := func() { // up to 20 ms, the life of a short process
		t := time.NewTimer(rand.N(20 * time.Millisecond))
		<-t.C
	}
	for i := range 4 {
		s, client, raw := h.session()
		if i%2 == 1 {
			require.NoError(t, s.RequestPty("vt100", 24, 80, nil))
		}
		require.NoError(t, s.Start("sleep 0.0"+strconv.Itoa(rand.IntN(3))+"; exit "+strconv.Itoa(i)))
		wg.Go(func() { _ = s.Wait() })
		wg.Go(func() {
			shake()
			switch (round + i) % 4 {
			case 0:
				_ = s.Close()
			case 1:
				_ = client.Close()
			case 2:
				_ = raw.Close()
			}
		})
	}
	wg.Go(func() {
		shake()
		if round%2 == 0 {
			h.EndPeer(loopback, disconnect.Attribution{
				Reason: disconnect.NetworkTimeout, Initiator: disconnect.Network, Detail: "silent",
			})
		}
	})
	wg.Go(func() {
		shake()
		_ = h.Close(testutil.Context(t, patience), goodbye)
	})
	wg.Wait()
	require.NoError(t, h.Close(testutil.Context(t, patience), goodbye))
	h.checkOnce()
}
