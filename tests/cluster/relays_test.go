package cluster

import (
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/tests/site"
)

// relayProcess is a relay that can come back at its address.
type relayProcess struct {
	*site.Process
	s             *site.Site
	name, address string
}

// newRelay makes a relay's identity and starts it.
func newRelay(s *site.Site, name string) *relayProcess {
	s.T.Helper()
	r := &relayProcess{s: s, name: name, address: site.FreeAddress(s.T)}
	s.Must("relay", "create", name, "--token-file", r.token())
	r.start()
	return r
}

func (r *relayProcess) token() string { return r.s.Path("token-of-relay-" + r.name) }

func (r *relayProcess) args(more ...string) []string {
	return append([]string{"relay", "--server", r.s.URL, "--token-file", r.token(), "--access-url", "http://" + r.address,
		"--listen", r.address, "--stun-listen", "127.0.0.1:0", "--log-format", "json", "--log-level", "debug"}, more...)
}

// start starts the relay and waits until the server has found it.
func (r *relayProcess) start() {
	r.s.T.Helper()
	r.Process = r.s.Start(r.args()...)
	r.Stderr.AwaitText(r.s.T, "the server reaches this relay")
}

// ended counts the nodes' connections that ended for a reason of their or the relay's own.
func (r *relayProcess) ended(t *testing.T) map[string]int {
	t.Helper()
	n := map[string]int{}
	for _, e := range r.Stderr.Endings(t, "relay connection ended") {
		n[e["disconnect_reason"].(string)]++
	}
	return n
}

// statuses is what `fairlead relay list` says.
func statuses(s *site.Site) map[string]string {
	var list []struct {
		Name, Status string
	}
	require.NoError(s.T, json.Unmarshal([]byte(s.Must("relay", "list", "--output", "json")), &list))
	all := map[string]string{}
	for _, r := range list {
		all[r.Name] = r.Status
	}
	return all
}

// relaySite is a server without a relay of its own, two relays, and an agent that has
// no other way than over them.
func relaySite(t *testing.T) (s *site.Site, a, b *relayProcess) {
	t.Helper()
	s = site.Empty(t)
	s.StartServer("--no-relay")
	s.Settle()
	a, b = newRelay(s, "a"), newRelay(s, "b")
	s.StartAgent("--force-relay")
	return s, a, b
}

// TestRelayKilled: a session lives on over the other relay, whichever dies, and over
// the one that comes back.
func TestRelayKilled(t *testing.T) {
	t.Parallel()
	s, a, b := relaySite(t)
	sh := s.OpenShell("dev", "--force-relay")
	for i, r := range []*relayProcess{a, b, a} {
		r.Kill()
		began := time.Now()
		sh.Echo(fmt.Sprintf("without-%s-%d", r.name, i)) // a word that is not on the screen yet
		t.Logf("relay %s killed: echo after %s", r.name, time.Since(began))
		require.Less(t, time.Since(began), 20*time.Second)
		require.Equal(t, "lost", statuses(s)[r.name], "a lost link does not prove a dead relay")
		require.Equal(t, 4, s.Run("ssh", "dev", "--force-relay", "--", "exit 4").Code, "new sessions find their way too")
		r.start()
		sh.Echo(fmt.Sprintf("with-%s-%d", r.name, i))
	}
	sh.Type("exit 3\r")
	require.Equal(t, 3, sh.Wait())
}

// TestRelayStops: a relay that leaves says so to the server, which tells the nodes, and
// to the nodes themselves.
func TestRelayStops(t *testing.T) {
	t.Parallel()
	s, a, b := relaySite(t)
	sh := s.OpenShell("dev", "--force-relay")
	for _, r := range []*relayProcess{a, b} {
		r.Stop()
		r.Ending("relay control link ended", "relay_to_server", "server_shutdown", "relay", true)
		sh.Echo("without-" + r.name)
		require.Equal(t, "offline", statuses(s)[r.name])
		for reason := range r.ended(t) {
			require.Contains(t, []string{"server_shutdown", "graceful", "client_closed"}, reason, "nobody was just cut")
		}
		r.start()
		sh.Echo("with-" + r.name)
	}
}

// TestServerRestartLeavesRelaysAlone: what is connected stays connected while the server
// is away, however it went, and after its return.
func TestServerRestartLeavesRelaysAlone(t *testing.T) {
	t.Parallel()
	s, a, b := relaySite(t)
	sh := s.OpenShell("dev", "--force-relay")
	for i, end := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		before := []map[string]int{a.ended(t), b.ended(t)}
		s.Server.Signal(end)
		s.Server.Wait()
		sh.Echo(fmt.Sprintf("server-is-away-%d", i))
		s.StartServer("--no-relay")
		s.AwaitAgent("online")
		for _, r := range []*relayProcess{a, b} {
			site.Eventually(t, "the return of relay "+r.name, func() bool {
				return statuses(s)[r.name] == "online" && strings.Count(r.Stderr.String(), `"relay registered"`) == i+2
			})
		}
		sh.Echo(fmt.Sprintf("server-is-back-%d", i))
		require.Equal(t, before, []map[string]int{a.ended(t), b.ended(t)}, "no node has left its relay")
		require.Equal(t, 4, s.Run("ssh", "dev", "--force-relay", "--", "exit 4").Code)
	}
}

// TestWithdrawnRightAtRelays: whose right is gone loses the session, and the place at the
// relay as well.
func TestWithdrawnRightAtRelays(t *testing.T) {
	t.Parallel()
	s, a, b := relaySite(t)
	bob := s.NewUser("bob")
	s.Must("workspace", "share", "dev", "bob")
	sh := s.OpenShell("dev", "--force-relay")
	p := bob.Start("ssh", "admin/dev", "--force-relay", "--", "echo up''; sleep 1000")
	p.Stdout.AwaitText(t, "up\n")
	p.Freeze() // a client that does not listen
	since := time.Now()
	s.Must("user", "disable", "bob")
	site.Eventually(t, "the end of bob's place at a relay", func() bool {
		return a.ended(t)["auth_revoked"]+b.ended(t)["auth_revoked"] > 0
	})
	require.Less(t, time.Since(since), revokeWithin)
	p.Signal(syscall.SIGCONT)
	require.Equal(t, 255, p.Wait(), p.Stderr)
	sh.Echo("still-here")
}

// TestRelayRefusals: one clear sentence each.
func TestRelayRefusals(t *testing.T) {
	t.Parallel()
	s := site.Empty(t)
	s.StartServer()
	s.Settle()
	a := newRelay(s, "a")
	refused := func(code int, part string, r site.Result) {
		t.Helper()
		require.Equal(t, code, r.Code, r.Stderr)
		lines := strings.Split(strings.TrimSpace(r.Stderr), "\n")
		require.Contains(t, lines[len(lines)-1], part)
	}
	quiet := func(change ...string) []string {
		return append([]string{"relay", "--server", s.URL, "--token-file", a.token(), "--access-url", "http://127.0.0.1:1",
			"--listen", "127.0.0.1:0", "--stun-listen", "", "--log-level", "off"}, change...)
	}
	refused(1, "there is a relay a already", s.Run("relay", "create", "a"))
	refused(2, "a name has 1 to 32 characters", s.Run("relay", "create", "A b"))
	refused(1, "there is no relay of that name", s.Run("relay", "delete", "none"))
	refused(3, "does not accept this relay's token", s.Run(quiet("--token-file", s.Write("wrong", "fl_r_wrong"))...))
	refused(3, "only a relay may call this", s.Run(quiet("--token-file", s.AgentToken)...))
	refused(2, "the relay's token is missing", s.Run(quiet("--token-file", "")...))
	refused(2, "the access URL is missing", s.Run(quiet("--access-url", "")...))
	refused(2, "refusing to be reached at http://192.0.2.1", s.Run(quiet("--access-url", "http://192.0.2.1")...))
	refused(2, "refusing to use http://192.0.2.1", s.Run(quiet("--server", "http://192.0.2.1")...))
	refused(1, "the port is in use by another program", s.Run(quiet("--listen", a.address)...))
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	defer udp.Close()
	refused(1, "cannot open the port of STUN", s.Run(quiet("--stun-listen", udp.LocalAddr().String())...))
	refused(2, "refusing to serve 0.0.0.0:0 without TLS", s.Run(quiet("--listen", "0.0.0.0:0")...))

	// Two with one token: the older one, which still answers, is told and stops.
	older := a.Process
	a.address = site.FreeAddress(t)
	a.start()
	require.Equal(t, 3, older.Wait())
	require.Contains(t, older.Stderr.String(), "another relay runs with the same token")
	older.Ending("relay control link ended", "relay_to_server", "duplicate_agent", "server", false)

	s.Must("relay", "create", "hidden", "--token-file", s.Path("token-of-relay-hidden"))
	hidden := &relayProcess{s: s, name: "hidden", address: site.FreeAddress(t)}
	hidden.Process = s.Start(hidden.args("--access-url", "http://"+site.FreeAddress(t))...)
	hidden.Stderr.AwaitText(t, "nodes may not reach this relay")
	hidden.Stderr.AwaitText(t, "connection_refused")

	s.Must("relay", "delete", "a")
	require.Equal(t, 3, a.Wait())
	require.Contains(t, a.Stderr.String(), "the relay was deleted")
	require.NotContains(t, statuses(s), "a")
	refused(3, "does not accept this relay's token", s.Run(quiet()...))
}
