package inject

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestLinks: down is an error at once, no carrier is seen but says nothing to who sends,
// and behind the switch nothing is to be seen at all.
func TestLinks(t *testing.T) {
	t.Parallel()
	lab := build(t, "links")
	e := serveEcho(t, lab.Server)
	for _, host := range []struct {
		name string
		p    *pinger
	}{{"agent", newPinger(t, lab.Agent, e)}, {"client", newPinger(t, lab.Client, e)}} {
		t.Run(host.name, func(t *testing.T) {
			h, p := lab.Host(host.name), host.p
			carrier := func() bool {
				out, err := h.Run(t.Context(), "ip", "-br", "link", "show", "dev", "eth0")
				require.NoError(t, err)
				return !strings.Contains(out, "NO-CARRIER")
			}
			p.reaches()
			down := done[*Injection](t)(LinkDown(t.Context(), h))
			_, _, err := p.ping(10, time.Second)
			require.ErrorIs(t, err, syscall.ENETUNREACH)
			undo(t, down)
			p.reaches()

			cable := done[*Injection](t)(CableOut(t.Context(), h))
			require.False(t, carrier())
			p.silent()
			undo(t, cable)
			require.True(t, carrier())
			p.reaches()

			unplugged := done[*Injection](t)(Unplug(t.Context(), h))
			require.True(t, carrier())
			p.silent()
			undo(t, unplugged)
			p.reaches()
		})
	}
}
