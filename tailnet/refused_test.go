package tailnet_test

import (
	"bytes"
	"context"
	"net"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/tailnet"
)

// TestRefused: a machine refuses for a socket that was closed, and for nothing else.
func TestRefused(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux tells who answered")
	}
	socket, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	address := socket.LocalAddr().String()
	require.False(t, tailnet.Refused(t.Context(), address), "somebody is there and says nothing")
	require.NoError(t, socket.Close())
	require.True(t, tailnet.Refused(t.Context(), address))
	require.False(t, tailnet.Refused(t.Context(), "no address"))
	if six, err := net.ListenPacket("udp", "[::1]:0"); err == nil {
		require.NoError(t, six.Close())
		require.True(t, tailnet.Refused(t.Context(), six.LocalAddr().String()))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.False(t, tailnet.Refused(ctx, address))
}

// wall is a network of its own behind a router that refuses for other machines.
const wall = `
unshare -n sleep 60 >/dev/null 2>&1 & router=$!
trap 'kill $router' EXIT
until [ "$(readlink /proc/$router/ns/net)" != "$(readlink /proc/$$/ns/net)" ]; do sleep 0.05; done
ip link set lo up && ip link add v0 type veth peer name v1 netns $router && ip addr add 192.0.2.2/24 dev v0 && ip link set v0 up || exit 77
nsenter -t $router -n sh -c '
	ip addr add 192.0.2.1/24 dev v1 && ip link set v1 up &&
	nft "add table inet t; add chain inet t p { type filter hook prerouting priority 0; }; add rule inet t p ip daddr 198.51.100.9 reject with icmp port-unreachable"
' && ip route add 198.51.100.0/24 via 192.0.2.1 || exit 77
"$0" -test.run '^TestRefusedByAnother$' -test.v
`

// TestRefusedByAnother: what lies on the way and refuses in its own name is not the machine.
func TestRefusedByAnother(t *testing.T) {
	const inside = "FAIRLEAD_TEST_WALL"
	if os.Getenv(inside) != "" {
		c, err := net.Dial("udp", "198.51.100.9:41641")
		require.NoError(t, err)
		defer c.Close()
		require.NoError(t, c.SetDeadline(time.Now().Add(10*time.Second)))
		_, err = c.Write([]byte{0})
		require.NoError(t, err)
		_, err = c.Read(make([]byte, 1))
		require.ErrorContains(t, err, "refused", "so somebody answers")
		require.False(t, tailnet.Refused(t.Context(), "198.51.100.9:41641"))
		require.True(t, tailnet.Refused(t.Context(), "192.0.2.1:41641"))
		return
	}
	cmd := exec.CommandContext(t.Context(), "unshare", "-Urn", "sh", "-c", wall, os.Args[0])
	cmd.Env = append(os.Environ(), inside+"=1")
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() == 77 || cmd.ProcessState.ExitCode() == 1 && !bytes.Contains(out, []byte("--- FAIL")) {
		t.Skipf("no network of its own can be made here: %v %s", err, out)
	}
	require.NoError(t, err, string(out))
}
