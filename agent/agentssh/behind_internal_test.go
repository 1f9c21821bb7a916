//go:build linux

package agentssh

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestListeningInode finds listeners of this process, however their address is written,
// and no others.
func TestListeningInode(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "inode")
	require.NoError(t, err)
	defer os.RemoveAll(dir)
	for _, at := range [][2]string{
		{"tcp4", "127.0.0.1:0"}, {"tcp6", "[::1]:0"}, {"tcp", ":0"}, {"tcp4", "0.0.0.0:0"}, {"unix", filepath.Join(dir, "a b")},
	} {
		l, err := net.Listen(at[0], at[1])
		if err != nil && at[0] == "tcp6" {
			continue // a host without IPv6
		}
		require.NoError(t, err)
		defer l.Close()
		c, err := net.Dial(l.Addr().Network(), l.Addr().String())
		require.NoError(t, err)
		defer c.Close()
		inode, ok := listeningInode(c)
		require.True(t, ok, at)
		found := holders(inode)
		require.NotEmpty(t, found, at)
		require.Equal(t, os.Args, found[0])
		require.NoError(t, l.Close())
		again, ok := listeningInode(c) // of somebody else, perhaps, who has the port now
		require.False(t, ok && again == inode, "%s: it listens no more", at)
	}
}

func TestTCPListenerLines(t *testing.T) {
	t.Parallel()
	me := strconv.Itoa(os.Getuid())
	to := netip.MustParseAddrPort("127.0.0.1:5990")
	line := func(local, state, uid string) string {
		return "   0: " + local + " 00000000:0000 " + state + " 00000000:00000000 00:00000000 00000000 " + uid + " 0 4711 1 0 100 0 0 10 0"
	}
	for text, want := range map[string]bool{
		line("0100007F:1766", "0A", me):                                true,
		line("00000000:1766", "0A", me):                                true,
		line("00000000000000000000000000000000:1766", "0A", me):        true,
		line("0000000000000000FFFF00000100007F:1766", "0A", me):        true,
		line("0200007F:1766", "0A", me):                                false, // another address
		line("0100007F:1767", "0A", me):                                false, // another port
		line("0100007F:1766", "01", me):                                false, // a connection
		line("0100007F:1766", "0A", strconv.Itoa(os.Getuid()+1)):       false, // another's
		line("0100007:1766", "0A", me):                                 false,
		line("x:1766", "0A", me):                                       false,
		"  sl  local_address rem_address   st tx_queue rx_queue tr tm": false,
		"": false,
	} {
		inode, ok := tcpListener(strings.Fields(text), to)
		require.Equal(t, want, ok, text)
		if ok {
			require.Equal(t, "4711", inode)
		}
	}
}

func FuzzSocketAddr(f *testing.F) {
	f.Add("0100007F:1766")
	f.Fuzz(func(_ *testing.T, s string) { parseSocketAddr(s) })
}
