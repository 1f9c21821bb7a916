package netlab_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"fairlead.dev/fairlead/tests/faults/netlab"
)

func TestMain(m *testing.M) {
	if err := netlab.Unshare(); err != nil {
		fmt.Println("skipped:", err)
		return
	}
	if os.Getenv("NETLAB_TEST_DIES") != "" {
		buildAndWait()
	}
	goleak.VerifyTestMain(m)
}

func build(t *testing.T, name string) *netlab.Lab {
	t.Helper()
	lab, err := netlab.Build(t.Context(), name)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, lab.Close()) })
	return lab
}

// reach returns what a server on to says to a TCP connection from another host.
func reach(t *testing.T, from, to *netlab.Host, address string) (string, error) {
	t.Helper()
	var l net.Listener
	require.NoError(t, to.Do(func() (err error) {
		l, err = net.Listen("tcp4", netip.AddrPortFrom(to.Addr, 0).String())
		return err
	}))
	done := make(chan struct{})
	go func() {
		defer close(done)
		if c, err := l.Accept(); err == nil {
			fmt.Fprint(c, c.RemoteAddr().(*net.TCPAddr).IP)
			c.Close()
		}
	}()
	defer func() { l.Close(); <-done }()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	var c net.Conn
	err := from.Do(func() (err error) {
		c, err = net.DialTimeout("tcp4", net.JoinHostPort(address, port), 20*time.Second)
		return err
	})
	if err != nil {
		return "", err
	}
	defer c.Close()
	said, err := io.ReadAll(c)
	return string(said), err
}

func TestWhoReachesWhom(t *testing.T) {
	t.Parallel()
	lab := build(t, "reach")
	for _, pair := range []struct {
		from, to *netlab.Host
		seen     string
	}{
		{lab.Client, lab.Agent, "10.77.9.2"}, // as the NAT
		{lab.Client, lab.Server, "10.77.9.2"},
		{lab.Agent, lab.Server, "10.77.2.2"},
		{lab.Agent, lab.Relay, "10.77.2.2"},
		{lab.Server, lab.Agent, "10.77.2.3"},
	} {
		seen, err := reach(t, pair.from, pair.to, pair.to.Addr.String())
		require.NoError(t, err, "%s to %s", pair.from.Name, pair.to.Name)
		require.Equal(t, pair.seen, seen, "%s to %s", pair.from.Name, pair.to.Name)
	}

	// What two site hosts say to each other passes the router.
	require.NoError(t, lab.Router.NFT(t.Context(), `table ip test { chain forward { type filter hook forward priority 0; policy drop; reject with icmp type host-unreachable; }; }`))
	_, err := reach(t, lab.Agent, lab.Server, lab.Server.Addr.String())
	require.ErrorIs(t, err, syscall.EHOSTUNREACH)
}

// TestSideBySide: labs have the same addresses and know nothing of each other.
func TestSideBySide(t *testing.T) {
	t.Parallel()
	for i := range 3 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			lab := build(t, fmt.Sprintf("side-%d", i))
			require.NoError(t, lab.Router.IP(t.Context(), "route add blackhole 10.77.2.4"))
			_, err := reach(t, lab.Agent, lab.Server, "10.77.2.3")
			require.NoError(t, err)
		})
	}
	_, err := netlab.Build(t.Context(), "no/name")
	require.ErrorContains(t, err, "no name")
}

func TestCommand(t *testing.T) {
	t.Parallel()
	lab := build(t, "command")
	dir := t.TempDir()
	cmd := lab.Agent.Command(t.Context(), "sh", "-c", `echo "$$ $PWD $X $(hostname 2>/dev/null || cat /proc/sys/kernel/hostname) $1"; cat /etc/resolv.conf; ip -br -4 addr show eth0; kill -9 0`, "sh", "a b")
	cmd.Dir, cmd.Env = dir, []string{"PATH=" + os.Getenv("PATH"), "X=y"}
	out, err := cmd.Output()
	require.Equal(t, syscall.SIGKILL, cmd.ProcessState.Sys().(syscall.WaitStatus).Signal(), "%v: it is the program itself that we wait for", err)
	first, rest, _ := strings.Cut(string(out), "\n")
	require.Equal(t, fmt.Sprintf("%d %s y agent a b", cmd.Process.Pid, dir), first)
	require.Contains(t, rest, "nameserver 10.77.9.1")
	require.Contains(t, rest, "10.77.2.2/32")

	_, err = lab.Agent.Run(t.Context(), "sh", "-c", "echo so >&2; exit 3")
	require.ErrorContains(t, err, "exit status 3: so")

	// The end of the context kills all of the command's session.
	ctx, cancel := context.WithCancel(t.Context())
	group := lab.Agent.Command(ctx, "sh", "-c", "sleep 1000 & sleep 1000 & echo begun; wait")
	stdout, err := group.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, group.Start())
	_, err = io.ReadFull(stdout, make([]byte, 6))
	require.NoError(t, err)
	pids, err := lab.Agent.Processes()
	require.NoError(t, err)
	require.Len(t, pids, 3)
	cancel()
	_ = group.Wait()
	require.Eventually(t, func() bool { pids, err = lab.Agent.Processes(); return err == nil && len(pids) == 0 }, 30*time.Second, 10*time.Millisecond)
}

func TestNames(t *testing.T) {
	t.Parallel()
	lab := build(t, "names")
	lookup := func() (string, error) { return lab.Client.Run(t.Context(), "getent", "ahostsv4", "x.server.lab.test") }
	out, err := lookup()
	require.NoError(t, err)
	require.Contains(t, out, "10.77.2.3")
	for _, answer := range []netlab.DNSAnswer{netlab.DNSNoSuch, netlab.DNSServFail, netlab.DNSSilent} {
		lab.SetDNS(answer)
		_, err = lookup()
		require.Error(t, err)
	}
	lab.SetDNS(netlab.DNSWorks)
	_, err = lookup()
	require.NoError(t, err)
}

// TestCloseRemovesAll: names, processes that ignore what can be ignored, and directories.
func TestCloseRemovesAll(t *testing.T) {
	t.Parallel()
	lab, err := netlab.Build(t.Context(), "close")
	require.NoError(t, err)
	_, err = lab.Relay.Run(t.Context(), "sh", "-c", "trap '' TERM HUP INT; setsid sleep 1000 >/dev/null 2>&1 </dev/null &")
	require.NoError(t, err)
	pids, err := lab.Relay.Processes()
	require.NoError(t, err)
	require.Len(t, pids, 1)
	require.NoError(t, lab.Close())
	require.NoError(t, lab.Close())
	pids, err = lab.Relay.Processes()
	require.NoError(t, err)
	require.Empty(t, pids)
	require.Empty(t, namespaces(t, os.Getpid(), "close"))
}

func namespaces(t *testing.T, pid int, lab string) []string {
	t.Helper()
	found, err := filepath.Glob(fmt.Sprintf("/run/netns/fl-%d-%s-*", pid, lab))
	require.NoError(t, err)
	return found
}

// buildAndWait is the process that TestSweep kills.
func buildAndWait() {
	lab, err := netlab.Build(context.Background(), "orphan")
	if err == nil {
		// Not a child of ours, as the kernel sees it, so it outlives us.
		_, err = lab.Agent.Run(context.Background(), "sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 </dev/null & echo $!")
	}
	fmt.Println("built:", err)
	select {}
}

// TestSweep: a lab whose builder was killed is gone after the next one is built.
func TestSweep(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "NETLAB_TEST_DIES=1")
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	said := make([]byte, len("built: <nil>"))
	_, err = io.ReadFull(stdout, said)
	require.NoError(t, err)
	require.Equal(t, "built: <nil>", string(said))
	names := namespaces(t, cmd.Process.Pid, "orphan")
	require.Len(t, names, 7)
	var inode syscall.Stat_t
	require.NoError(t, syscall.Stat(names[0], &inode))
	require.NotEmpty(t, holding(t, inode.Ino))

	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
	build(t, "after")
	require.Empty(t, namespaces(t, cmd.Process.Pid, "orphan"))
	require.Empty(t, holding(t, inode.Ino))
}

// holding returns the processes in a network namespace.
func holding(t *testing.T, inode uint64) []string {
	t.Helper()
	links, err := filepath.Glob("/proc/[0-9]*/ns/net")
	require.NoError(t, err)
	var found []string
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil && target == fmt.Sprintf("net:[%d]", inode) {
			found = append(found, link)
		}
	}
	return found
}
