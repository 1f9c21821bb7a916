package verdict

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	d "fairlead.dev/fairlead/disconnect"
)

var update = flag.Bool("update", false, "write testdata")

// row is one cell of the fault matrix: what its parties would plausibly say, in the order
// in which it arrives, and what must follow from it.
type row struct {
	name  string
	leg   d.ConnectType
	says  []Testimony
	first string // reason/initiator of the first testimony alone; empty: as in the end
	want  string // reason/initiator, and /locus if there is one
	rule  Rule
	ctx   func(*Context)
	kind  Kind // empty: an ending
}

func TestMatrix(t *testing.T) {
	names := map[string]bool{}
	for _, row := range matrix() {
		name := strings.ReplaceAll(row.name, " ", "-") + "-" + row.leg.String()
		require.False(t, names[name], "twice: %s", name)
		names[name] = true
		t.Run(name, func(t *testing.T) {
			ctx := ctxOf(row.leg)
			if row.ctx != nil {
				row.ctx(&ctx)
			}
			for _, said := range row.says {
				require.NoError(t, said.Validate())
			}
			v := Judge(row.says, ctx)
			require.Equal(t, row.want, cell(v), "%s %s", v.Rule, v.Detail)
			require.Equal(t, row.rule, v.Rule)
			kind := row.kind
			if kind == "" {
				kind = Ending
			}
			require.Equal(t, kind, v.Kind)
			require.True(t, v.Final, "waiting for %v", v.Waiting)
			require.NotEmpty(t, v.Used)
			require.NotZero(t, v.Observer)
			if row.first != "" {
				p := Judge(row.says[:1], ctx)
				require.Equal(t, row.first, cell(p), "provisional: %s %s", p.Rule, p.Detail)
				require.False(t, p.Final)
			}
			keepCase(t, name, Case{ctx, row.says})
		})
	}
	if *update {
		files, err := filepath.Glob("testdata/matrix/*.json")
		require.NoError(t, err)
		for _, file := range files {
			if !names[strings.TrimSuffix(filepath.Base(file), ".json")] {
				require.NoError(t, os.Remove(file))
			}
		}
	}
}

func cell(v Verdict) string {
	text := v.Reason.String() + "/" + v.Initiator.String()
	if v.Locus != "" {
		text += "/" + v.Locus
	}
	return text
}

// keepCase compares a case with its file: the JSON form is stable, for it is stored.
func keepCase(t *testing.T, name string, c Case) {
	t.Helper()
	b, err := json.MarshalIndent(c, "", " ")
	require.NoError(t, err)
	file := filepath.Join("testdata", "matrix", name+".json")
	if *update {
		require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
		require.NoError(t, os.WriteFile(file, append(b, '\n'), 0o644))
	}
	kept, err := os.ReadFile(file)
	require.NoError(t, err, "run go test -update ./disconnect/verdict")
	require.Equal(t, string(b)+"\n", string(kept))
	cases, err := Read(strings.NewReader(string(kept)))
	require.NoError(t, err)
	require.Len(t, cases, 1)
	require.Equal(t, Judge(c.Testimonies, c.Context), Judge(cases[0].Testimonies, cases[0].Context))
}

func matrix() (all []row) {
	for _, part := range [][]row{rowsOfWork(), rowsOfClients(), rowsOfAgents(), rowsOfServers(), rowsOfPaths(), rowsOfPolicy(), rowsOfProtocols()} {
		all = append(all, part...)
	}
	return all
}

// rowsOfWork are 1-4: the session's own process.
func rowsOfWork() []row {
	exit := func(name string, code int32, want string) row {
		return row{name: name, leg: ac, rule: R1, want: want, says: []Testimony{
			says(agent, ac, 0, 0, exited(0, code)),
			says(client, ac, 0, 0.01, exited(0.01, code)),
		}}
	}
	oom := says(agent, ac, 0, 0, signalled(0, "KILL", ""), fact(OOMKill, 0.02))
	return []row{
		exit("01 exit 0", 0, "graceful/agent"),
		exit("02 exit 3", 3, "process_exited/agent"),
		{name: "03 own sigkill", leg: ac, rule: R1, want: "process_signaled/agent", says: []Testimony{
			says(agent, ac, 0, 0, signalled(0, "KILL", "")),
			says(client, ac, 0, 0.01, goodbyeFrom(agent, 0.01, d.ProcessSignaled, agent, "process killed by signal: SIGKILL")),
		}},
		{name: "04 oom kill of the process", leg: ac, rule: R1, want: "oom_killed/agent", says: []Testimony{
			oom, says(client, ac, 0, 0.01, goodbyeFrom(agent, 0.01, d.OOMKilled, agent, "")),
		}},
	}
}

// rowsOfClients are 6-13: the client goes, dies, sleeps or moves.
func rowsOfClients() []row {
	leaves := func(name, detail string) []row {
		return []row{
			{name: name, leg: ac, rule: R2, want: "client_closed/client", says: []Testimony{
				says(agent, ac, 0, 0.03, goodbyeFrom(client, 0.03, d.ClientClosed, client, detail), signalled(0.05, "HUP", SentByTeardown)),
				says(client, ac, 0, 0, ownCause(0, d.ClientClosed, client, detail), saidGoodbye(0, d.ClientClosed, client, detail)),
			}},
			{name: name, leg: cs, rule: R2, want: "client_closed/client", says: []Testimony{
				says(server, cs, 0, 0.02, goodbyeFrom(client, 0.02, d.ClientClosed, client, detail)),
				says(client, cs, 0, 0, ownCause(0, d.ClientClosed, client, detail)),
			}},
		}
	}
	rows := append(leaves("06 ctrl-c", "the user closed the terminal"), leaves("07 detach", "the user detached")...)
	rows = append(rows, leaves("08 sigterm client", "the client was told to stop")...)
	rows = append(rows,
		row{name: "09 sigkill client", leg: ac, rule: R3, first: "network_timeout/network", want: "peer_crashed/client/client", says: []Testimony{
			heard(says(agent, ac, -1, 8, silence(client, -1, 0)), d.NetworkTimeout, d.Network),
			remarks(says(server, ac, -1, 0, on(cs, about(SocketClosed, client, 0)), about(RelayClientGone, client, 0.1))),
			says(client, ac, -1, 60, journal(Crashed, -2, 60)),
		}},
		row{name: "09 sigkill client", leg: cs, rule: R3, first: "peer_crashed/client/client", want: "peer_crashed/client/client", says: []Testimony{
			heard(says(server, cs, -10, 0, about(SocketClosed, client, 0), about(RelayClientGone, client, 0.1)), d.NetworkError, d.Network),
			says(client, cs, -1, 60, journal(Crashed, -2, 60)),
		}},
		row{name: "10 sigstop client", leg: ac, rule: R4, first: "network_timeout/network", want: "suspended/client/client", says: []Testimony{
			heard(says(agent, ac, -1, 8, silence(client, -1, 300)), d.NetworkTimeout, d.Network),
			says(client, ac, -0.5, 300, during(TimerLate, 0, 300), silence(agent, -0.5, 300)),
		}},
		row{name: "10 sigstop client", leg: cs, rule: R4, first: "peer_unresponsive/client/client", want: "suspended/client/client", says: []Testimony{
			says(server, cs, -5, 25, silence(client, -5, 0), about(ProbeAnswered, client, 26)),
			says(client, cs, -0.5, 300, during(TimerLate, 0, 300)),
		}},
		row{name: "11 laptop sleep", leg: ac, kind: Interruption, rule: R4, first: "network_timeout/network", want: "suspended/client/client", says: []Testimony{
			interrupted(heard(says(agent, ac, -1, 8, silence(client, -1, 1742), fact(Resumed, 1742)), d.NetworkTimeout, d.Network)),
			interrupted(says(client, ac, -0.5, 1740, during(Slept, 0, 1740), fact(Resumed, 1741))),
		}},
		row{name: "11 laptop sleep past the limit", leg: ac, rule: R4, first: "network_timeout/network", want: "suspended/client/client", says: []Testimony{
			heard(says(agent, ac, -1, 8, silence(client, -1, 0), saidGoodbye(1800, d.NetworkTimeout, d.Network, "nothing heard")), d.NetworkTimeout, d.Network),
			says(client, ac, -0.5, 3000, during(Slept, 0, 3000), goodbyeFrom(agent, 3001, d.NetworkTimeout, d.Network, "nothing heard")),
		}},
		row{name: "12 client wifi off", leg: ac, kind: Interruption, rule: R5, first: "network_timeout/network", want: "network_unreachable/network/client_net", says: []Testimony{
			interrupted(heard(says(agent, ac, -1, 8, silence(client, -1, 61), fact(Resumed, 61)), d.NetworkTimeout, d.Network)),
			interrupted(says(client, ac, -1, 7, during(LinkDown, 0.2, 60), silence(agent, -1, 61), fact(Resumed, 61))),
		}},
		row{name: "12 client wifi off", leg: cs, rule: R5, first: "network_timeout/network", want: "network_unreachable/network/client_net", says: []Testimony{
			heard(says(server, cs, -10, 30, silence(client, -10, 0)), d.NetworkTimeout, d.Network),
			says(client, cs, -1, 7, during(LinkDown, 0.2, 60)),
		}},
		row{name: "13 nat rebinding", leg: ac, kind: Interruption, rule: R5, want: "path_migrated/network/path", says: []Testimony{
			interrupted(says(agent, ac, -1, 2, fact(PathChanged, 2), fact(Resumed, 2))),
			interrupted(says(client, ac, -1, 2, fact(PathChanged, 2), fact(Resumed, 2))),
		}},
	)
	return rows
}

// rowsOfAgents are 5 and 14-19: the agent stops, dies, hangs or loses its network.
func rowsOfAgents() []row {
	stops := func(name, detail string) []row {
		return []row{
			{name: name, leg: ac, rule: R2, want: "server_shutdown/agent", says: []Testimony{
				says(client, ac, 0, 0.02, goodbyeFrom(agent, 0.02, d.ServerShutdown, agent, detail)),
				says(agent, ac, 0, 0, ownCause(0, d.ServerShutdown, agent, detail)),
				remarks(says(server, ac, 0, 0.1)),
			}},
			{name: name, leg: sa, rule: R2, want: "server_shutdown/agent", says: []Testimony{
				says(server, sa, 0, 0.02, goodbyeFrom(agent, 0.02, d.ServerShutdown, agent, detail)),
				says(agent, sa, 0, 0, ownCause(0, d.ServerShutdown, agent, detail)),
			}},
		}
	}
	dies := func(name string, agentSays Fact, want string) []row {
		return []row{
			{name: name, leg: ac, rule: R3, first: "network_timeout/network", want: want, says: []Testimony{
				heard(says(client, ac, -1, 8, silence(agent, -1, 0), about(NewInstance, agent, 21)), d.NetworkTimeout, d.Network),
				remarks(says(server, ac, -1, 0, on(sa, about(SocketClosed, agent, 0)), about(NewInstance, agent, 20))),
				says(agent, ac, 0, 20, agentSays),
			}},
			{name: name, leg: sa, rule: R3, first: "peer_crashed/agent/agent", want: want, says: []Testimony{
				heard(says(server, sa, -10, 0, about(SocketClosed, agent, 0), about(RelayClientGone, agent, 0.1)), d.NetworkError, d.Network),
				says(agent, sa, 0, 20, agentSays),
			}},
		}
	}
	rows := append(dies("05 agent oom-killed", journal(OOMKilled, -3, 20), "oom_killed/agent/agent"), stops("14 sigterm agent", "the agent is stopping")...)
	rows = append(rows, stops("15 agent shutdown timed out", "timeout")...)
	rows = append(rows, dies("16 sigkill agent", journal(Crashed, -3, 20), "peer_crashed/agent/agent")...)
	rows = append(rows, dies("16 host power loss", journal(Rebooted, -3, 90), "peer_crashed/agent/agent")...)
	return append(rows,
		row{name: "17 agent panics", leg: ac, rule: R2, want: "internal_error/agent", says: []Testimony{
			says(client, ac, 0, 0.02, goodbyeFrom(agent, 0.02, d.InternalError, agent, "panic: nil map")),
			says(agent, ac, 0, 20, Fact{Kind: Obituary, Outcome: Panicked, At: at(0), Until: at(20), Text: "panic: nil map"}),
		}},
		row{name: "18 sigstop agent", leg: ac, kind: Interruption, rule: R4, first: "network_timeout/network", want: "host_paused/agent/agent", says: []Testimony{
			interrupted(heard(says(client, ac, -1, 8, silence(agent, -1, 60), fact(Resumed, 60)), d.NetworkTimeout, d.Network)),
			remarks(says(server, ac, -5, 25, on(sa, silence(agent, -5, 60)), on(sa, about(ProbeAnswered, agent, 26)))),
			interrupted(says(agent, ac, 0, 60, during(TimerLate, 0, 60), fact(Resumed, 60))),
		}},
		row{name: "18 agent deadlock", leg: ac, rule: R7, first: "network_timeout/network", want: "peer_unresponsive/agent/agent", says: []Testimony{
			heard(says(client, ac, -1, 8, silence(agent, -1, 0)), d.NetworkTimeout, d.Network),
			remarks(says(server, ac, -5, 25, on(sa, silence(agent, -5, 0)), on(sa, about(ProbeAnswered, agent, 26)))),
		}, ctx: func(c *Context) { c.Expect = []d.Initiator{client, server} }},
		row{name: "18 sigstop agent", leg: sa, rule: R4, first: "peer_unresponsive/agent/agent", want: "host_paused/agent/agent", says: []Testimony{
			says(server, sa, -5, 25, silence(agent, -5, 0), about(ProbeAnswered, agent, 26)),
			says(agent, sa, 0, 60, during(TimerLate, 0, 60)),
		}},
		row{name: "19 agent link down", leg: ac, kind: Interruption, rule: R5, first: "network_timeout/network", want: "network_unreachable/network/agent_net", says: []Testimony{
			interrupted(heard(says(client, ac, -1, 8, silence(agent, -1, 45), fact(Resumed, 45)), d.NetworkTimeout, d.Network)),
			interrupted(says(agent, ac, -1, 7, during(LinkDown, 0, 44), silence(client, -1, 45), fact(Resumed, 45))),
		}},
		row{name: "19 agent link down", leg: sa, rule: R5, first: "network_timeout/network", want: "network_unreachable/network/agent_net", says: []Testimony{
			heard(says(server, sa, -10, 30, silence(agent, -10, 0)), d.NetworkTimeout, d.Network),
			says(agent, sa, -1, 7, during(LinkDown, 0, 44)),
		}},
	)
}

// rowsOfServers are 20-23 and 45-48: the server stops, dies, hangs or refuses.
func rowsOfServers() []row {
	both := func(name, first, want string, rule Rule, of func(d.ConnectType, d.Initiator) []Testimony) []row {
		return []row{
			{name: name, leg: cs, rule: rule, first: first, want: want, says: of(cs, client)},
			{name: name, leg: sa, rule: rule, first: first, want: want, says: of(sa, agent)},
		}
	}
	rows := both("20 server restart", "", "server_shutdown/server", R2, func(leg d.ConnectType, peer d.Initiator) []Testimony {
		return []Testimony{
			says(peer, leg, 0, 0.02, goodbyeFrom(server, 0.02, d.ServerShutdown, server, "restart")),
			says(server, leg, 0, 0, ownCause(0, d.ServerShutdown, server, "restart")),
		}
	})
	rows = append(rows, row{name: "20 server restart", leg: ac, kind: Interruption, rule: R9, want: "server_shutdown/server/relay", says: []Testimony{
		interrupted(says(client, ac, 0, 8, Fact{Kind: RelayLost, At: at(0), Ref: "embedded", Cause: attr(d.ServerShutdown, server, "restart")}, silence(agent, 0, 10), fact(Resumed, 10))),
		interrupted(says(agent, ac, 0, 8, Fact{Kind: RelayLost, At: at(0), Ref: "embedded"}, silence(client, 0, 10), fact(Resumed, 10))),
	}})
	killed := both("21 sigkill server", "network_error/network", "peer_crashed/server/server", R3, func(leg d.ConnectType, peer d.Initiator) []Testimony {
		return []Testimony{
			heard(says(peer, leg, -5, 0, about(SocketClosed, server, 0)), d.NetworkError, d.Network),
			says(server, leg, -10, 15, journal(Crashed, -7, 15)),
		}
	})
	paused := both("23 sigstop server", "peer_unresponsive/server/server", "host_paused/server/server", R4, func(leg d.ConnectType, peer d.Initiator) []Testimony {
		return []Testimony{
			says(peer, leg, -5, 25, silence(server, -5, 60), about(ProbeAnswered, server, 26)),
			says(server, leg, 0, 60, during(TimerLate, 0, 60)),
		}
	})
	cut := both("22 server link cut", "network_timeout/network", "network_unreachable/network/server", R5, func(leg d.ConnectType, peer d.Initiator) []Testimony {
		return []Testimony{
			heard(says(peer, leg, -10, 25, silence(server, -10, 0)), d.NetworkTimeout, d.Network),
			says(server, leg, -1, 20, during(LinkDown, 0, 90)),
		}
	})
	unseen := row{name: "22 server link cut elsewhere", leg: cs, rule: R6, want: "network_timeout/network/server", says: []Testimony{
		heard(says(client, cs, -10, 25, silence(server, -10, 0), alive(ac, -600, 600)), d.NetworkTimeout, d.Network),
		heard(says(server, cs, -10, 30, silence(client, -10, 0)), d.NetworkTimeout, d.Network),
	}, ctx: func(c *Context) {
		c.Neighbours = []Neighbour{{ConnectionID: "c2", Shares: server, From: at(-10).Wall, Until: at(22).Wall}}
	}}
	rows = append(append(append(append(rows, killed...), paused...), cut...), unseen)
	return append(rows, rowsOfRefusals()...)
}

// rowsOfRefusals are 42, 45-49: what a dial meets.
func rowsOfRefusals() []row {
	refused := func(name string, r d.Reason, detail string) []row {
		var rows []row
		for leg, peer := range map[d.ConnectType]d.Initiator{cs: client, sa: agent} {
			rows = append(rows, row{name: name, leg: leg, rule: R2, want: r.String() + "/server", says: []Testimony{
				judged(says(peer, leg, 0, 0.1), r, server, d.EvidenceDeclared, detail),
				says(server, leg, 0, 0.1, ownCause(0.1, r, server, detail)),
			}})
		}
		return rows
	}
	rows := []row{
		{name: "42 client too old", leg: cs, kind: Attempt, rule: R2, want: "version_mismatch/server", says: []Testimony{
			phase(PhaseDial, judged(says(client, cs, 0, 0.1), d.VersionMismatch, server, d.EvidenceDeclared, "HTTP 426")),
			phase(PhaseDial, says(server, cs, 0, 0.1, ownCause(0.1, d.VersionMismatch, server, "client 0.1 is too old"))),
		}, ctx: neverOpened},
		{name: "45 tls expired", leg: cs, kind: Attempt, rule: R10, want: "tls_failure/server/server", says: []Testimony{
			phase(PhaseDial, judged(says(client, cs, 0, 0.1), d.TLSFailure, server, d.EvidenceLocal, "expired: x509")),
			phase(PhaseDial, judged(says(server, cs, 0, 0.1, Fact{Kind: CertificateBad, At: at(0.1), Text: "expired"}), d.TLSFailure, client, d.EvidenceInferred, "alert 42")),
		}, ctx: neverOpened},
		{name: "45 tls expired as the client sees it", leg: cs, kind: Attempt, rule: R10, want: "tls_failure/server", says: []Testimony{
			phase(PhaseDial, judged(says(client, cs, 0, 0.1), d.TLSFailure, server, d.EvidenceLocal, "expired: x509")),
			phase(PhaseDial, judged(says(server, cs, 0, 0.1), d.TLSFailure, client, d.EvidenceInferred, "alert 42")),
		}, ctx: neverOpened},
		{name: "46 dns broken", leg: cs, kind: Attempt, rule: R10, want: "dns_failure/network", says: []Testimony{
			phase(PhaseDial, judged(says(client, cs, 0, 0.1), d.DNSFailure, d.Network, d.EvidenceLocal, "no such host")),
		}, ctx: neverOpened},
		{name: "50 first dial refused", leg: cs, kind: Attempt, rule: R10, want: "connection_refused/server", says: []Testimony{
			phase(PhaseDial, judged(says(client, cs, 0, 0.1), d.ConnectionRefused, server, d.EvidenceInferred, "connection refused")),
		}, ctx: func(c *Context) { neverOpened(c); c.Expect = []d.Initiator{client} }},
	}
	rows = append(rows, refused("48 database down", d.InternalError, "HTTP 500")...)
	return append(rows, refused("49 reconnect storm", d.LimitExceeded, "HTTP 429")...)
}

func neverOpened(c *Context) { c.Opened = time.Time{} }

// rowsOfPaths are 24-28: between two that are well.
func rowsOfPaths() []row {
	return []row{
		{name: "24 drop agent-server", leg: sa, rule: R10, first: "network_timeout/network", want: "network_timeout/network/path", says: []Testimony{
			heard(says(agent, sa, -10, 25, silence(server, -10, 0), alive(ac, -600, 600)), d.NetworkTimeout, d.Network),
			heard(says(server, sa, -10, 30, silence(agent, -10, 0), alive(cs, -600, 600)), d.NetworkTimeout, d.Network),
		}},
		{name: "25 drop direct path", leg: ac, kind: Interruption, rule: R5, want: "path_migrated/network/path", says: []Testimony{
			interrupted(says(client, ac, -1, 4, silence(agent, -1, 9), Fact{Kind: PathChanged, At: at(9), Text: "direct to relay"}, fact(Resumed, 9))),
			interrupted(says(agent, ac, -1, 4, silence(client, -1, 9), Fact{Kind: PathChanged, At: at(9), Text: "direct to relay"}, fact(Resumed, 9))),
		}},
		{name: "26 drop direct path and relay", leg: ac, rule: R10, first: "network_timeout/network", want: "network_timeout/network/path", says: []Testimony{
			heard(says(client, ac, -1, 8, silence(agent, -1, 0), alive(cs, -600, 1800)), d.NetworkTimeout, d.Network),
			heard(says(agent, ac, -1, 8, silence(client, -1, 0), alive(sa, -600, 1800)), d.NetworkTimeout, d.Network),
			remarks(says(server, ac, 0, 0, alive(sa, -600, 1800), alive(cs, -600, 1800))),
		}},
		{name: "27 relay stopped with another one", leg: ac, kind: Interruption, rule: R5, want: "path_migrated/network/path", says: []Testimony{
			interrupted(says(client, ac, 0, 4, Fact{Kind: RelayLost, At: at(0), Ref: "r1", Cause: attr(d.ServerShutdown, relay, "")}, Fact{Kind: PathChanged, At: at(3), Text: "relay r1 to relay r2"}, fact(Resumed, 3))),
			interrupted(says(agent, ac, 0, 4, Fact{Kind: RelayLost, At: at(0), Ref: "r1", Cause: attr(d.ServerShutdown, relay, "")}, fact(PathChanged, 3), fact(Resumed, 3))),
		}},
		{name: "28 sigkill only relay", leg: ac, rule: R9, first: "network_timeout/network", want: "relay_lost/network/relay", says: []Testimony{
			heard(says(client, ac, -1, 8, silence(agent, -1, 0), Fact{Kind: RelayLost, At: at(0), Ref: "r1"}), d.NetworkTimeout, d.Network),
			heard(says(agent, ac, -1, 8, silence(client, -1, 0), Fact{Kind: RelayLost, At: at(0.1), Ref: "r1"}), d.NetworkTimeout, d.Network),
		}, ctx: func(c *Context) { c.RelayOwner = relay }},
		{name: "28 sigkill embedded relay", leg: ac, rule: R9, first: "network_timeout/network", want: "relay_lost/server/relay", says: []Testimony{
			heard(says(client, ac, -1, 8, silence(agent, -1, 0), Fact{Kind: RelayLost, At: at(0), Ref: "embedded"}), d.NetworkTimeout, d.Network),
			heard(says(agent, ac, -1, 8, silence(client, -1, 0), Fact{Kind: RelayLost, At: at(0.1), Ref: "embedded"}), d.NetworkTimeout, d.Network),
		}},
		{name: "r8 reset between two that live", leg: sa, rule: R8, first: "connection_reset/network", want: "connection_reset/network/path", says: []Testimony{
			heard(says(agent, sa, -5, 0, about(SocketReset, server, 0)), d.ConnectionReset, d.Network),
			says(server, sa, -5, 25, silence(agent, 0, 0), fact(CloseDenied, 25)),
		}},
	}
}

// rowsOfPolicy are 29-39: ended on purpose.
func rowsOfPolicy() []row {
	byServer := func(name string, r d.Reason, detail string, legs ...d.ConnectType) (rows []row) {
		for _, leg := range legs {
			var told []Testimony
			switch leg {
			case ac:
				told = []Testimony{
					says(agent, ac, 0, 0.1, order(StopOrder, 0.1, r, "order-7", detail), saidGoodbye(0.1, r, server, detail), signalled(0.2, "HUP", SentByTeardown)),
					says(client, ac, 0, 0.12, goodbyeFrom(agent, 0.12, r, server, detail)),
					remarks(says(server, ac, 0, 0, order(StopOrder, 0, r, "order-7", detail))),
				}
			case sa:
				told = []Testimony{says(server, sa, 0, 0, ownCause(0, r, server, detail)), says(agent, sa, 0, 0.02, goodbyeFrom(server, 0.02, r, server, detail))}
			case cs:
				told = []Testimony{says(server, cs, 0, 0, ownCause(0, r, server, detail)), says(client, cs, 0, 0.02, goodbyeFrom(server, 0.02, r, server, detail))}
			}
			rows = append(rows, row{name: name, leg: leg, rule: R2, want: r.String() + "/server", says: told})
		}
		return rows
	}
	rows := byServer("29 revoke user token", d.AuthRevoked, "token revoked by ada", ac, cs)
	rows = append(rows, byServer("30 rotate agent token", d.AuthRevoked, "token rotated", ac, sa)...)
	rows = append(rows, byServer("31 client token expires", d.AuthExpired, "", ac, cs)...)
	rows = append(rows, byServer("32 workspace stop", d.WorkspaceStopped, "stopped by ada", ac, sa)...)
	rows = append(rows, byServer("33 workspace delete", d.WorkspaceStopped, "delete", ac, sa)...)
	rows = append(rows, byServer("38 session limit", d.SessionLimit, "limit 8h, policy of dev", ac, cs)...)
	rows = append(rows, byServer("39 admin kills session", d.AdminTerminated, "ended by root", ac)...)
	byAgent := func(name string, leg d.ConnectType, r d.Reason, i d.Initiator, detail string) row {
		return row{name: name, leg: leg, rule: R2, want: r.String() + "/" + i.String(), says: []Testimony{
			says(agent, leg, 0, 0, ownCause(0, r, i, detail), saidGoodbye(0, r, i, detail)),
			says(client, leg, 0, 0.02, goodbyeFrom(agent, 0.02, r, i, detail)),
		}}
	}
	notice := order(PlatformNotice, -60, d.WorkspaceEvicted, "spot-1", "preempted")
	notice.Until = at(60)
	return append(rows,
		row{name: "34 evicted", leg: ac, rule: R2, first: "server_shutdown/agent", want: "workspace_evicted/server", says: []Testimony{
			says(client, ac, 0, 0.02, goodbyeFrom(agent, 0.02, d.ServerShutdown, agent, "the agent is stopping")),
			says(agent, ac, 0, 0, ownCause(0, d.ServerShutdown, agent, "the agent is stopping")),
			remarks(says(server, ac, 0, 0, notice)),
		}, ctx: func(c *Context) { c.Expect = []d.Initiator{client, agent, server} }},
		row{name: "34 evicted without a word", leg: ac, rule: R10, first: "network_timeout/network", want: "workspace_evicted/server", says: []Testimony{
			heard(says(client, ac, -1, 8, silence(agent, -1, 0)), d.NetworkTimeout, d.Network),
			remarks(says(server, ac, -10, 30, on(sa, silence(agent, -10, 0)), notice)),
		}, ctx: func(c *Context) { c.Expect = []d.Initiator{client, server} }},
		row{name: "35 second agent", leg: sa, rule: R2, want: "duplicate_agent/server", says: []Testimony{
			says(server, sa, 0, 0, ownCause(0, d.DuplicateAgent, server, "agent-1 and agent-2")),
			says(agent, sa, 0, 0.02, goodbyeFrom(server, 0.02, d.DuplicateAgent, server, "agent-1 and agent-2"), fact(CloseDenied, 0.02)),
		}},
		byAgent("36 taken over elsewhere", ac, d.SessionReplaced, client, "by another window"),
		byAgent("37 idle timeout", ac, d.IdleTimeout, agent, "idle 15m, policy of dev"),
		byAgent("44 client never reads", ac, d.SlowPeer, client, "30s write deadline"),
		byAgent("47 agent disk full", ac, d.ResourceExhausted, agent, "no space left on device"),
	)
}

// rowsOfProtocols are 40, 41 and 43: invalid bytes, or none.
func rowsOfProtocols() []row {
	strangers := func(c *Context) { neverOpened(c); c.Expect = []d.Initiator{server}; c.Principals = nil }
	return []row{
		{name: "40 garbage to the server", leg: cs, rule: R2, want: "protocol_error/client", ctx: strangers, says: []Testimony{
			phase(PhaseHandshake, says(server, cs, 0, 0, ownCause(0, d.ProtocolError, client, "malformed HTTP"))),
		}},
		{name: "41 corrupt frame", leg: sa, rule: R2, want: "protocol_error/agent", says: []Testimony{
			says(server, sa, 0, 0, ownCause(0, d.ProtocolError, agent, "frame of 70000 bytes")),
			says(agent, sa, 0, 0.02, goodbyeFrom(server, 0.02, d.ProtocolError, agent, "frame of 70000 bytes"), fact(CloseDenied, 0.02)),
		}},
		{name: "43 slow loris", leg: cs, rule: R2, want: "slow_peer/client", ctx: strangers, says: []Testimony{
			phase(PhaseHandshake, says(server, cs, 0, 10, ownCause(10, d.SlowPeer, client, "handshake not finished in 10s"))),
		}},
	}
}
