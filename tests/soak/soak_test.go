package soak

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/tests/site"
)

// outageLimit is how long both ends wait for each other.
const outageLimit = "8s"

// trouble is what the harness did to the agent and the server, and when.
type trouble struct {
	s      *site.Site
	r      *rand.Rand
	agents []*site.Process // every life
	killed struct{ agents, servers []time.Time }
	frozen [][2]time.Time // from when to when one of both was
}

// TestSoak kills the agent and the server at random moments. What the log says afterwards
// is what the clients saw.
func TestSoak(t *testing.T) {
	t.Parallel()
	number := *seed
	for number == 0 {
		number = rand.Uint64()
	}
	t.Logf("-soak.seed %d", number)
	s := site.New(t, "--outage-limit", outageLimit)
	home := *s.Home
	home.T = quiet{t}
	c := &clients{s: &home, stop: make(chan struct{})}
	c.start(*workers, number)
	x := &trouble{s: s, r: rand.New(rand.NewPCG(number, 1<<32)), agents: []*site.Process{s.Agent}}
	began := time.Now()
	x.make(*agentKills, *serverKills)
	close(c.stop)
	c.work.Wait()
	rows := settle(t, s)
	t.Logf("%d agents and %d servers killed, %d frozen, in %v", len(x.killed.agents), len(x.killed.servers), len(x.frozen), time.Since(began).Round(time.Second))
	check(t, x, c.all, rows)
	s.Agent.Stop()
	site.Eventually(t, "the end of the agent's last link", func() bool { return len(open(connections(t, s))) == 0 })
}

// make kills so many of each, in an order and after times that are random.
func (x *trouble) make(agents, servers int) {
	for agents+servers > 0 {
		x.wait(2500 * time.Millisecond)
		switch {
		case x.r.IntN(8) == 0:
			x.freeze()
		case x.r.IntN(agents+servers) < agents:
			agents--
			x.killAgent()
		default:
			servers--
			x.killServer()
		}
	}
	x.wait(time.Second)
}

// wait lets a random time pass, up to limit.
func (x *trouble) wait(limit time.Duration) {
	<-time.After(time.Duration(x.r.Int64N(int64(limit))))
}

func (x *trouble) killAgent() {
	x.killed.agents = append(x.killed.agents, time.Now())
	x.s.Agent.Kill()
	x.wait(500 * time.Millisecond)
	x.s.LaunchAgent("--outage-limit", outageLimit)
	x.agents = append(x.agents, x.s.Agent)
	if x.r.IntN(4) > 0 { // otherwise it may be killed before it is online
		x.s.Agent.Stderr.AwaitText(x.s.T, `"connected to server"`)
	}
}

func (x *trouble) killServer() {
	x.killed.servers = append(x.killed.servers, time.Now())
	x.s.Server.Kill()
	x.wait(500 * time.Millisecond)
	x.s.StartServer()
}

// freeze stops one of both for a time that nobody's session ends by.
func (x *trouble) freeze() {
	p := x.s.Agent
	if x.r.IntN(2) == 0 {
		p = x.s.Server
	}
	began := time.Now()
	p.Freeze()
	x.wait(2 * time.Second)
	p.Signal(sigcont)
	x.frozen = append(x.frozen, [2]time.Time{began, time.Now()})
}

// settle waits until nothing but the agent's link is open, and returns all rows.
func settle(t *testing.T, s *site.Site) (rows []row) {
	began := time.Now()
	site.Eventually(t, "a log in which nothing is open for ever", func() bool {
		rows = connections(t, s)
		left := open(rows)
		return len(left) == 1 && left[0].ConnectType == "server_to_agent"
	})
	t.Logf("settled after %v", time.Since(began).Round(time.Millisecond))
	require.NotEmpty(t, rows)
	return rows
}

func open(rows []row) (left []row) {
	for _, r := range rows {
		if r.Status != "closed" {
			left = append(left, r)
		}
	}
	return left
}

func describe(r row) string {
	text := fmt.Sprintf("%s %s app=%s %s %s", r.ID, r.ConnectType, r.App, r.Status, r.ConnectedAt.Format(clock))
	if r.DisconnectedAt != nil {
		text += fmt.Sprintf("..%s reason=%s initiator=%s detail=%q", r.DisconnectedAt.Format(clock), *r.Reason, *r.Initiator, *r.Detail)
	}
	if r.ExitCode != nil {
		text += fmt.Sprintf(" exit=%d", *r.ExitCode)
	}
	return text
}

const clock = "15:04:05.000"
