package hostwatch

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/disconnect/verdict"
)

// asChild marks the process that a test starts of itself.
const asChild = "HOSTWATCH_CHILD"

// child starts the calling test once more, as a process of its own, in namespaces of its
// own if isolated. It returns nil in that process.
func child(t *testing.T, isolated bool) *exec.Cmd {
	t.Helper()
	if os.Getenv(asChild) != "" {
		return nil
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), asChild+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if isolated {
		cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWNET
		if os.Geteuid() != 0 {
			cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
			cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
			cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
		}
	}
	return cmd
}

func ip(t *testing.T, args string) {
	t.Helper()
	out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput()
	require.NoError(t, err, "ip %s: %s", args, out)
}

// eventually waits for facts of which ok holds.
func eventually(t *testing.T, w *Watcher, what string, ok func([]verdict.Fact) bool) []verdict.Fact {
	t.Helper()
	var facts []verdict.Fact
	require.Eventually(t, func() bool { facts = w.Facts(time.Time{}); return ok(facts) }, 20*time.Second, 10*time.Millisecond, what)
	return valid(t, facts)
}

// TestLinksOfAHost: a real network namespace whose interface goes down, loses its carrier,
// its route, and is replaced.
func TestLinksOfAHost(t *testing.T) {
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("needs ip(8): ", err)
	}
	if cmd := child(t, true); cmd != nil {
		out, err := cmd.CombinedOutput()
		if _, ran := err.(*exec.ExitError); err != nil && !ran {
			t.Skip("this machine gives us no network namespace: ", err)
		}
		require.NoError(t, err, "%s", out)
		return
	}
	up := func() {
		ip(t, "link set eth0 up")
		ip(t, "route replace default via 10.0.0.1 dev eth0 onlink")
	}
	ip(t, "link add eth0 type veth peer name switch0")
	ip(t, "link set switch0 up")
	ip(t, "address add 10.0.0.2/24 dev eth0")
	up()
	w := Start()
	defer w.Close()
	require.Equal(t, "eth0", w.links.out().iface)
	require.True(t, w.links.out().routed)

	downs := func(n int, text string, over bool) func([]verdict.Fact) bool {
		return func(facts []verdict.Fact) bool {
			return len(facts) == n && facts[n-1].Kind == verdict.LinkDown && facts[n-1].Text == text && facts[n-1].Until.IsZero() != over
		}
	}
	for i, fault := range []struct{ text, breaks, mends string }{
		{"eth0 is down", "link set eth0 down", "link set eth0 up"},
		{"eth0 has no carrier", "link set switch0 down", "link set switch0 up"},
		{"no route by eth0", "route del default", "link set eth0 up"},
	} {
		ip(t, fault.breaks)
		eventually(t, w, fault.breaks, downs(i+1, fault.text, false))
		ip(t, fault.mends)
		up()
		eventually(t, w, fault.mends, downs(i+1, fault.text, true))
	}

	ip(t, "link add docker0 type veth peer name container0")
	ip(t, "link set container0 up")
	ip(t, "address add 172.17.0.1/16 dev docker0")
	ip(t, "link set docker0 up")
	ip(t, "link set eth0 down")
	eventually(t, w, "eth0 down beside a bridge", downs(4, "eth0 is down", false))
	up()
	eventually(t, w, "eth0 up beside a bridge", downs(4, "eth0 is down", true))

	ip(t, "route add default via 172.17.0.2 dev docker0 onlink metric 5")
	ip(t, "route del default dev eth0")
	facts := eventually(t, w, "another way", func(facts []verdict.Fact) bool { return len(facts) == 5 })
	require.Equal(t, verdict.LinkChanged, facts[4].Kind)
	require.Equal(t, "from eth0 to docker0", facts[4].Text)
}

// TestStoppedProcess: a process that was stopped says so itself.
func TestStoppedProcess(t *testing.T) {
	t.Parallel()
	cmd := child(t, false)
	if cmd == nil {
		w := Start()
		defer w.Close()
		fmt.Println("watching")
		_, _ = io.Copy(io.Discard, os.Stdin)
		facts, err := json.Marshal(w.Facts(time.Time{}))
		require.NoError(t, err)
		fmt.Println("facts " + string(facts))
		return
	}
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	var facts []verdict.Fact
	began := time.Now()
	for lines := bufio.NewScanner(out); lines.Scan(); {
		switch line := lines.Text(); {
		case line == "watching":
			require.NoError(t, cmd.Process.Signal(syscall.SIGSTOP))
			<-time.After(7 * time.Second)
			require.NoError(t, cmd.Process.Signal(syscall.SIGCONT))
			require.NoError(t, in.Close())
		case strings.HasPrefix(line, "facts "):
			require.NoError(t, json.Unmarshal([]byte(line[len("facts "):]), &facts))
		}
	}
	require.NoError(t, cmd.Wait())
	require.Len(t, facts, 1)
	require.Equal(t, verdict.TimerLate, facts[0].Kind)
	require.GreaterOrEqual(t, lasted(facts[0]), lateAfter)
	require.Less(t, lasted(facts[0]), time.Since(began))
}
