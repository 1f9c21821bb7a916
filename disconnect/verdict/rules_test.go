package verdict

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	d "fairlead.dev/fairlead/disconnect"
)

// ruling is a case of one rule, on a leg between agent and client unless it says so.
type ruling struct {
	name string
	says []Testimony
	want string
	rule Rule
	leg  d.ConnectType
	ctx  func(*Context)
	also func(*testing.T, Verdict)
}

func rulings(t *testing.T, all []ruling) {
	t.Helper()
	for _, r := range all {
		t.Run(r.name, func(t *testing.T) {
			if r.leg == 0 {
				r.leg = ac
			}
			ctx := ctxOf(r.leg)
			if r.ctx != nil {
				r.ctx(&ctx)
			}
			for i := range r.says {
				require.NoError(t, r.says[i].Validate())
			}
			v := Judge(r.says, ctx)
			require.Equal(t, r.want, cell(v), "%s: %s", v.Rule, v.Detail)
			require.Equal(t, r.rule, v.Rule)
			if r.also != nil {
				r.also(t, v)
			}
		})
	}
}

func one(t ...Testimony) []Testimony { return t }

func roleOf(t *testing.T, v Verdict, kind FactKind) Role {
	t.Helper()
	for _, item := range append(v.Used, v.Kept...) {
		if item.Fact.Kind == kind {
			return item.Role
		}
	}
	t.Fatalf("%s is not in the verdict", kind)
	return ""
}

func TestR0Order(t *testing.T) {
	wrongClock := says(client, ac, 0, 0.02, goodbyeFrom(agent, 0.02, d.ServerShutdown, agent, ""))
	wrongClock.LastGood, wrongClock.FirstNoticed = at(-86400), at(-86400)
	wrongClock.Facts[0].At = at(-86400)
	wrongClock.Clock = Clock{Offset: 86400 * 1e6, Bound: 50_000}
	stepped := says(agent, ac, 0, 0, ownCause(5000, d.ServerShutdown, agent, ""), exited(9000, 0))
	stepped.Clock = Clock{Wall: at(7200).Wall, Mono: 7200e6, Bound: 20_000}
	stepped.Facts[0].At.Mono, stepped.Facts[1].At.Mono = 10e6, 5e6 // the wall clock was set back between them
	rulings(t, []ruling{
		{name: "a goodbye after a goodbye is an echo", rule: R2, want: "server_shutdown/agent", says: one(
			says(agent, ac, 0, 0, ownCause(0, d.ServerShutdown, agent, "")),
			says(client, ac, 0, 0.02, goodbyeFrom(agent, 0.02, d.ServerShutdown, agent, ""), saidGoodbye(0.03, d.ClientClosed, client, "")),
		), also: func(t *testing.T, v Verdict) { require.Equal(t, Consequence, roleOf(t, v, GoodbyeSent)) }},
		{name: "the agent's order holds on a leg to a client", rule: R2, want: "client_closed/client", says: one(
			says(agent, ac, 0, 0, goodbyeFrom(client, 1, d.ClientClosed, client, ""), exited(1.5, 0)),
			says(client, ac, 0, 3, ownCause(3, d.ClientClosed, client, "")), // its clock is 2 s ahead
		)},
		{name: "a wrong clock with a measured offset does no harm", rule: R2, want: "server_shutdown/agent", says: one(
			wrongClock, says(agent, ac, 0, 0, ownCause(0, d.ServerShutdown, agent, "")))},
		{name: "the monotonic clock goes before one that was set", rule: R1, want: "graceful/agent", says: one(stepped)},
		{name: "crossing goodbyes: the first by the clocks", rule: R2, want: "idle_timeout/agent", says: one(
			says(agent, ac, 0, 0, ownCause(0, d.IdleTimeout, agent, "")),
			says(client, ac, 0, 1, ownCause(1, d.ClientClosed, client, "")),
		)},
	})
}

func TestR1Work(t *testing.T) {
	rulings(t, []ruling{
		{name: "exit 0", rule: R1, want: "graceful/agent", says: one(says(agent, ac, 0, 0, exited(0, 0))), also: func(t *testing.T, v Verdict) {
			require.Equal(t, int32(0), *v.ExitCode)
			require.Equal(t, d.ConfidenceCertain, v.Confidence)
			require.True(t, v.Final, "certain at once")
		}},
		{name: "not executable", rule: R1, want: "process_exited/agent", says: one(says(agent, ac, 0, 0, exited(0, 126))),
			also: func(t *testing.T, v Verdict) { require.Equal(t, "not_executable", v.Detail) }},
		{name: "signal from outside", rule: R1, want: "process_signaled/agent", says: one(says(agent, ac, 0, 0, signalled(0, "TERM", "")))},
		{name: "Ctrl-C is no foul play", rule: R1, want: "process_exited/agent", says: one(says(agent, ac, 0, 0, signalled(0, "INT", SentByTerminal)))},
		{name: "its own broken pipe", rule: R1, want: "process_exited/agent", says: one(says(agent, ac, 0, 0, signalled(0, "PIPE", SentByPipe)))},
		{name: "exit 137 alone is an exit", rule: R1, want: "process_exited/agent", says: one(says(agent, ac, 0, 0, exited(0, 137)))},
		{name: "exit 137 with the counter risen", rule: R1, want: "oom_killed/agent", says: one(says(agent, ac, 0, 0, exited(0, 137), fact(OOMKill, 0)))},
		{name: "a counter that rose long before is another's", rule: R1, want: "process_signaled/agent", says: one(
			says(agent, ac, 0, 0, signalled(0, "KILL", ""), fact(OOMKill, -600)))},
		{name: "a service manager stops the agent and all of its processes", rule: R2, want: "server_shutdown/agent", says: one(
			says(agent, ac, 0, 0, signalled(0, "TERM", ""), ownCause(0.2, d.ServerShutdown, agent, "")))},
		{name: "too large a file", rule: R1, want: "resource_exhausted/agent", says: one(says(agent, ac, 0, 0, signalled(0, "XFSZ", "")))},
		{name: "our own teardown is not what ended it", rule: R2, want: "idle_timeout/agent", says: one(
			says(agent, ac, 0, 0, ownCause(0, d.IdleTimeout, agent, ""), signalled(0.1, "HUP", SentByTeardown)))},
		{name: "work that ended while the client slept, and the client learned it", rule: R1, want: "graceful/agent", says: one(
			says(agent, ac, 600, 600, exited(600, 0), silence(client, 0, 900)),
			says(client, ac, 600, 900, during(Slept, 0, 899), exited(900, 0)))},
	})
}

func TestR2Declared(t *testing.T) {
	evicted := order(PlatformNotice, -30, d.WorkspaceEvicted, "n1", "drain")
	late := order(PlatformNotice, 30, d.WorkspaceEvicted, "n1", "drain")
	stop := order(StopOrder, -5, d.WorkspaceStopped, "build-9", "autostop")
	shutdown := says(agent, ac, 0, 0, ownCause(0, d.ServerShutdown, agent, ""))
	rulings(t, []ruling{
		{name: "goodbye received", rule: R2, want: "client_closed/client", says: one(says(agent, ac, 0, 0, goodbyeFrom(client, 0, d.ClientClosed, client, ""))),
			also: func(t *testing.T, v Verdict) { require.Equal(t, d.EvidenceDeclared, v.Evidence) }},
		{name: "confess, never accuse", rule: R2, want: "internal_error/client", says: one(says(agent, ac, 0, 0, goodbyeFrom(client, 0, d.InternalError, agent, "")))},
		{name: "the server may name anyone", rule: R2, leg: cs, want: "limit_exceeded/client", says: one(says(server, cs, 0, 0, ownCause(0, d.LimitExceeded, client, "")))},
		{name: "who enforces names the offender, whose denial is kept", rule: R2, want: "slow_peer/client", says: one(
			says(agent, ac, 0, 0, ownCause(0, d.SlowPeer, client, "")), says(client, ac, 0, 0, fact(CloseDenied, 0))),
			also: func(t *testing.T, v Verdict) { require.Equal(t, Denied, roleOf(t, v, CloseDenied)) }},
		{name: "nobody puts words into another's mouth", rule: R10, want: "network_timeout/network", says: one(
			says(agent, ac, 0, 0, goodbyeFrom(client, 0, d.ClientClosed, client, "")),
			heard(says(client, ac, 0, 8, silence(agent, 0, 0), fact(CloseDenied, 8)), d.NetworkTimeout, d.Network)),
			also: func(t *testing.T, v Verdict) {
				require.Equal(t, Denied, roleOf(t, v, GoodbyeReceived))
				require.Equal(t, d.EvidenceCorrelated, v.Evidence, "the two were weighed")
			}},
		{name: "who hangs up a dead line did not leave", rule: R10, want: "network_timeout/network", says: one(
			says(client, ac, 0, 8, silence(agent, 0, 0), ownCause(20, d.ClientClosed, client, "~."))),
			also: func(t *testing.T, v Verdict) {
				require.Equal(t, d.EvidenceCorrelated, v.Evidence)
				require.Equal(t, Consequence, roleOf(t, v, OwnCause))
			}},
		{name: "who leaves before noticing anything left", rule: R2, want: "client_closed/client", says: one(
			says(client, ac, 0, 1, silence(agent, 0, 0), ownCause(2, d.ClientClosed, client, "~.")))},
		{name: "a silence that was over when somebody left", rule: R2, want: "client_closed/client", says: one(
			says(client, ac, 0, 8, silence(agent, 0, 0), about(HeardAgain, agent, 30), ownCause(60, d.ClientClosed, client, "~.")))},
		{name: "giving up is no reason", rule: R10, want: "network_timeout/network", says: one(
			says(client, ac, 0, 8, silence(agent, 0, 0), saidGoodbye(600, d.NetworkTimeout, d.Network, "gave up")))},
		{name: "a stop while the laptop slept is a consequence", rule: R4, want: "suspended/client/client", says: one(
			says(client, ac, 0, 900, during(Slept, 0, 900)),
			says(agent, ac, 0, 600, order(StopOrder, 600, d.WorkspaceStopped, "b", ""), saidGoodbye(600, d.WorkspaceStopped, server, "")))},
		{name: "a shutdown of which notice was given", rule: R2, want: "workspace_evicted/server", says: one(shutdown, remarks(says(server, ac, 0, 0, evicted))),
			also: func(t *testing.T, v Verdict) {
				require.Equal(t, "n1", v.CausedBy)
				require.Equal(t, d.ConfidenceCertain, v.Confidence)
			}},
		{name: "a notice that came later covers nothing", rule: R2, want: "server_shutdown/agent", says: one(shutdown, remarks(says(server, ac, 0, 0, late)))},
		{name: "a shutdown that was ordered", rule: R2, want: "workspace_stopped/server", says: one(shutdown, remarks(says(server, ac, 0, 0, stop)))},
		{name: "an order that ran out", rule: R2, want: "server_shutdown/agent", says: one(shutdown, remarks(says(server, ac, 0, 0,
			order(StopOrder, -3000, d.WorkspaceStopped, "b", ""))))},
		{name: "local cancellation", rule: R2, leg: sa, want: "server_shutdown/agent", says: one(says(agent, sa, 0, 0, ownCause(0, d.ServerShutdown, agent, "")))},
		{name: "status OK from the server", rule: R2, leg: sa, want: "graceful/server", says: one(says(agent, sa, 0, 0, fact(StatusOK, 0)))},
		{name: "words go before status OK", rule: R2, leg: sa, want: "auth_revoked/server", says: one(
			says(agent, sa, 0, 0, fact(StatusOK, 0), goodbyeFrom(server, 0.1, d.AuthRevoked, server, "")))},
		{name: "a clean journal whose goodbye did not arrive", rule: R2, want: "server_shutdown/agent", says: one(
			heard(says(client, ac, -1, 8, silence(agent, -1, 0)), d.NetworkTimeout, d.Network),
			says(agent, ac, 0, 30, journal(Clean, 0, 30)))},
	})
}

func TestR3Obituary(t *testing.T) {
	lost := heard(says(client, ac, -1, 8, silence(agent, -1, 0)), d.NetworkTimeout, d.Network)
	fin := remarks(says(server, ac, -1, 0, on(sa, about(SocketClosed, agent, 0))))
	supervised := func(o Outcome) Testimony {
		return remarks(says(server, ac, 0, 5, Fact{Kind: Supervisor, About: agent, Outcome: o, At: at(0)}))
	}
	rulings(t, []ruling{
		{name: "an unclean journal", rule: R3, want: "peer_crashed/agent/agent", says: one(lost, says(agent, ac, 0, 20, journal(Crashed, -3, 20)))},
		{name: "an unclean journal of another time", rule: R10, want: "network_timeout/network", says: one(lost, says(agent, ac, 0, 900, journal(Crashed, 600, 900)))},
		{name: "another boot", rule: R3, want: "peer_crashed/agent/agent", says: one(lost, says(agent, ac, 0, 90, journal(Rebooted, -3, 90))),
			also: func(t *testing.T, v Verdict) { require.Equal(t, "host_restart", v.Detail) }},
		{name: "a supervisor is certain", rule: R3, want: "peer_crashed/agent/agent", says: one(lost, supervised(Signaled)),
			also: func(t *testing.T, v Verdict) { require.Equal(t, d.ConfidenceCertain, v.Confidence) }},
		{name: "a supervisor knows of the OOM killer", rule: R3, want: "oom_killed/agent/agent", says: one(
			lost, supervised(OOMKiller), says(agent, ac, 0, 20, journal(Crashed, -3, 20)))},
		{name: "a platform that evicts", rule: R3, want: "workspace_evicted/server/agent", says: one(lost, supervised(Evicted))},
		{name: "a watchdog", rule: R3, want: "peer_unresponsive/agent/agent", says: one(lost, supervised(Watchdog))},
		{name: "two witnesses", rule: R3, want: "peer_crashed/agent/agent", says: one(lost, fin), also: func(t *testing.T, v Verdict) {
			require.Equal(t, d.ConfidenceHigh, v.Confidence)
			require.False(t, v.Final, "the agent may come back and say")
			require.Equal(t, []d.Initiator{agent}, v.Waiting)
		}},
		{name: "one witness accuses nobody", rule: R10, want: "network_error/network", says: one(fin)},
		{name: "a new life without an unclean journal is no crash", rule: R10, want: "network_timeout/network", says: one(
			lost, fin, says(agent, ac, 0, 20, fact(LinkChanged, 0)))},
		{name: "heard again: it lives", rule: R10, want: "network_timeout/network", says: one(
			lost, fin, remarks(says(server, ac, 0, 30, about(HeardAgain, agent, 30))))},
		{name: "its parent was killed: no choice", rule: R3, want: "peer_crashed/client/client", says: one(
			says(client, ac, 0, 0, ownCause(0, d.ClientClosed, client, ""), fact(ParentKilled, 0)))},
		{name: "a crash under notice is the eviction", rule: R3, want: "workspace_evicted/server", says: one(
			lost, says(agent, ac, 0, 60, journal(Rebooted, -1, 60)), remarks(says(server, ac, 0, 0, order(PlatformNotice, -20, d.WorkspaceEvicted, "n", ""))))},
		{name: "who died after the link had gone did not cause the silence", rule: R5, want: "network_unreachable/network/client_net", says: one(
			says(client, ac, -1, 7, during(LinkDown, 0, 600), silence(agent, -1, 0)),
			says(agent, ac, -1, 60, journal(Crashed, 30, 60)))},
		{name: "nor did who died a little after", rule: R5, want: "network_unreachable/network/client_net", says: one(
			says(client, ac, -1, 7, during(LinkDown, 0, 600), silence(agent, -1, 0)),
			says(agent, ac, -1, 60, journal(Crashed, 6, 60)))},
		{name: "what went on did not die", rule: R10, want: "network_timeout/network", says: one(
			interrupted(heard(says(client, ac, -1, 8, silence(agent, -1, 30), fact(Resumed, 30)), d.NetworkTimeout, d.Network)), fin)},
		{name: "witnesses of a reset only are not sure", rule: R3, want: "peer_crashed/agent/agent", says: one(
			lost, remarks(says(server, ac, -1, 0, on(sa, about(SocketReset, agent, 0))))),
			also: func(t *testing.T, v Verdict) { require.Equal(t, d.ConfidenceLow, v.Confidence) }},
	})
}

func TestR4AndR5HostsAndLinks(t *testing.T) {
	lost := heard(says(agent, ac, -1, 8, silence(client, -1, 0)), d.NetworkTimeout, d.Network)
	rulings(t, []ruling{
		{name: "a client that slept", rule: R4, want: "suspended/client/client", says: one(lost, says(client, ac, 0, 900, during(Slept, 0, 900)))},
		{name: "a sleep of another time", rule: R10, want: "network_timeout/network", says: one(lost, says(client, ac, 0, 900, during(Slept, 300, 900)))},
		{name: "a timer that was a little late", rule: R10, want: "network_timeout/network", says: one(lost, says(client, ac, 0, 8, during(TimerLate, 0, 1)))},
		{name: "an agent that was paused", rule: R4, want: "host_paused/agent/agent", says: one(says(agent, ac, 0, 60, during(TimerLate, 0, 60)))},
		{name: "an agent that announced its sleep", rule: R4, want: "suspended/agent/agent", says: one(
			says(agent, ac, 0, 60, fact(SleepAnnounced, -1), during(Slept, 0, 60)))},
		{name: "a laptop that slept loses its link too", rule: R4, want: "suspended/client/client", says: one(
			lost, says(client, ac, 0, 900, during(Slept, 0, 900), during(LinkDown, 1, 905)))},
		{name: "a link that went long before the sleep", rule: R5, want: "network_unreachable/network/client_net", says: one(
			lost, says(client, ac, -1, 7, during(LinkDown, 0, 905), during(Slept, 60, 900)))},
		{name: "a link that was down at another time", rule: R10, want: "network_timeout/network", says: one(
			lost, says(client, ac, -1, 8, during(LinkDown, 300, 400)))},
		{name: "the first of two links", rule: R5, want: "network_unreachable/network/agent_net", says: one(
			says(client, ac, -1, 8, during(LinkDown, 1, 60)), says(agent, ac, -1, 8, during(LinkDown, 0, 60)))},
		{name: "a new path does not end anything", rule: R10, want: "network_timeout/network", says: one(
			says(client, ac, -1, 8, silence(agent, -1, 0), fact(PathChanged, 0)))},
	})
}

func TestR6ToR9LegsAndRelays(t *testing.T) {
	lost := heard(says(client, ac, -1, 8, silence(agent, -1, 0)), d.NetworkTimeout, d.Network)
	agentLost := remarks(says(server, ac, -10, 30, on(sa, silence(agent, -10, 0)), alive(cs, -600, 600)))
	relayLost := func(who d.Initiator) Testimony {
		return says(who, ac, -1, 8, silence(map[d.Initiator]d.Initiator{client: agent, agent: client}[who], -1, 0), fact(RelayLost, 0))
	}
	rulings(t, []ruling{
		{name: "two legs to the agent, and one that avoids it lives", rule: R6, want: "network_timeout/network/agent", says: one(lost, agentLost)},
		{name: "no leg that avoids it", rule: R10, want: "network_timeout/network", says: one(lost, remarks(says(server, ac, -10, 30, on(sa, silence(agent, -10, 0)))))},
		{name: "a leg to it that lives", rule: R10, want: "network_timeout/network/path", says: one(lost, remarks(says(server, ac, 0, 0, alive(sa, -600, 600), alive(cs, -600, 600))))},
		{name: "by the neighbours", rule: R6, want: "network_timeout/network/server", leg: cs,
			says: one(heard(says(client, cs, -5, 20, silence(server, -5, 0), alive(ac, -60, 60)), d.NetworkTimeout, d.Network)),
			ctx: func(c *Context) {
				c.Neighbours = []Neighbour{{ConnectionID: "c9", Shares: server, From: at(-5).Wall, Until: at(18).Wall}}
			}, also: func(t *testing.T, v Verdict) { require.Equal(t, "c9", v.CausedBy) }},
		{name: "a host that answers", rule: R7, want: "peer_unresponsive/agent/agent", says: one(lost, remarks(says(server, ac, -5, 25, on(sa, silence(agent, -5, 0)), about(ProbeAnswered, agent, 20))))},
		{name: "a host that answers says more than the place", rule: R7, want: "peer_unresponsive/agent/agent", says: one(lost, agentLost,
			remarks(says(server, ac, -5, 25, about(ProbeAnswered, agent, 20))))},
		{name: "a proxy that answers proves nothing", rule: R10, want: "network_timeout/network", says: one(lost, remarks(says(server, ac, -5, 25,
			on(sa, silence(agent, -5, 0)), Fact{Kind: ProbeAnswered, About: agent, At: at(20), Proxied: true})))},
		{name: "a probe answered after the silence was over", rule: R10, want: "network_timeout/network", says: one(
			heard(says(client, ac, -1, 8, silence(agent, -1, 30)), d.NetworkTimeout, d.Network), remarks(says(server, ac, 0, 60, about(ProbeAnswered, agent, 60))))},
		{name: "a reset that was not sent", rule: R8, leg: sa, want: "connection_reset/network/path", says: one(
			says(agent, sa, -1, 0, about(SocketReset, server, 0)), says(server, sa, -1, 30, fact(CloseDenied, 30)))},
		{name: "an end of stream that was not sent", rule: R8, leg: sa, want: "network_error/network/path", says: one(
			says(server, sa, -1, 0, about(SocketClosed, agent, 0)), says(agent, sa, -1, 30, fact(CloseDenied, 30)))},
		{name: "a reset that nobody denies", rule: R10, leg: sa, want: "connection_reset/network", says: one(says(agent, sa, -1, 0, about(SocketReset, server, 0)))},
		{name: "a relay that both lost", rule: R9, want: "relay_lost/server/relay", says: one(relayLost(client), relayLost(agent))},
		{name: "a relay of its own", rule: R9, want: "relay_lost/network/relay", says: one(relayLost(client), relayLost(agent)), ctx: func(c *Context) { c.RelayOwner = 0 }},
		{name: "a relay that one lost", rule: R10, want: "network_timeout/network", says: one(relayLost(client))},
	})
}

func TestR10AndR11Errors(t *testing.T) {
	account := func(who d.Initiator, r d.Reason, i d.Initiator, e d.Evidence) Testimony {
		return judged(says(who, ac, -1, 0), r, i, e, "x")
	}
	inferred := d.EvidenceInferred
	rulings(t, []ruling{
		{name: "EOF", rule: R10, want: "network_error/network", says: one(account(agent, d.NetworkError, d.Network, inferred))},
		{name: "the more specific", rule: R10, want: "connection_reset/network", says: one(
			account(agent, d.NetworkError, d.Network, inferred), account(client, d.ConnectionReset, d.Network, inferred))},
		{name: "nothing inferred is graceful", rule: R10, want: "network_error/network", says: one(account(agent, d.Graceful, client, inferred))},
		{name: "nothing inferred is on purpose", rule: R10, want: "network_error/network", says: one(account(agent, d.ClientClosed, client, inferred))},
		{name: "nobody is blamed by inference", rule: R10, want: "network_error/network", says: one(account(client, d.PeerCrashed, agent, inferred))},
		{name: "own certificate", rule: R10, leg: cs, want: "tls_failure/server/server", says: one(
			judged(says(server, cs, 0, 0, Fact{Kind: CertificateBad, At: at(0), Text: "expired"}), d.TLSFailure, client, inferred, "alert"))},
		{name: "an error without an account", rule: R10, want: "connection_reset/network", says: one(says(client, ac, 0, 0, Fact{Kind: Error, At: at(0), Cause: attr(d.ConnectionReset, d.Network, "")}))},
		{name: "something is not nothing", rule: R10, want: "network_error/network", says: one(says(client, ac, 0, 0, fact(LinkChanged, 0)))},
		{name: "nothing", rule: R11, want: "unknown/unknown", says: one(says(client, ac, 0, 0))},
		{name: "nobody", rule: R11, want: "unknown/unknown", says: nil},
	})
}

func TestGuards(t *testing.T) {
	stranger := says(client, ac, 0, 0, ownCause(0, d.ClientClosed, client, ""))
	stranger.Principal = "mallory"
	elsewhere := says(agent, ac, 0, 0, exited(0, 0))
	elsewhere.ConnectionID = "c2"
	hearsay := says(client, ac, 0, 900, during(Slept, 0, 900))
	hearsay.Via = agent
	lost := heard(says(agent, ac, -1, 8, silence(client, -1, 0)), d.NetworkTimeout, d.Network)
	future := says(client, ac, 0, 0, ownCause(9e6, d.ClientClosed, client, ""))
	rulings(t, []ruling{
		{name: "a stranger is not believed", rule: R10, want: "network_timeout/network", says: one(stranger, lost), also: func(t *testing.T, v Verdict) {
			require.Equal(t, NotBelieved, v.Kept[len(v.Kept)-1].Role)
		}},
		{name: "nor who speaks of another connection", rule: R11, want: "unknown/unknown", says: one(elsewhere)},
		{name: "nor a client of a link that is not its own", rule: R11, leg: sa, want: "unknown/unknown", says: one(says(client, sa, 0, 0, ownCause(0, d.Graceful, client, "")))},
		{name: "hearsay helps, and weighs little", rule: R4, want: "suspended/client/client", says: one(lost, hearsay), also: func(t *testing.T, v Verdict) {
			require.Equal(t, d.ConfidenceLow, v.Confidence)
			require.Equal(t, d.EvidenceInferred, v.Evidence)
			require.Equal(t, []d.Initiator{client}, v.Waiting)
		}},
		{name: "hearsay against the first hand is only kept", rule: R5, want: "network_unreachable/network/client_net", says: one(
			lost, hearsay, says(client, ac, -1, 7, during(LinkDown, 0, 60))), also: func(t *testing.T, v Verdict) {
			require.Equal(t, Hearsay, roleOf(t, v, Slept))
		}},
		{name: "nothing happens after it was received", rule: R2, want: "client_closed/client", says: one(future), also: func(t *testing.T, v Verdict) {
			require.Equal(t, noon.Add(2*time.Hour), v.Used[0].At)
		}},
	})
}

func TestFinality(t *testing.T) {
	lost := heard(says(agent, ac, -1, 8, silence(client, -1, 0)), d.NetworkTimeout, d.Network)
	ctx := ctxOf(ac)
	v := Judge(one(lost), ctx)
	require.False(t, v.Final)
	require.Equal(t, []d.Initiator{client}, v.Waiting)
	require.Equal(t, 0, v.Revision)

	ctx.Previous = &v
	again := Judge(one(lost, lost), ctx)
	require.Equal(t, 0, again.Revision, "nothing new")
	better := Judge(one(lost, says(client, ac, 0, 900, during(Slept, 0, 900))), ctx)
	require.True(t, better.Final)
	require.Equal(t, 1, better.Revision)

	ctx.Previous, ctx.Now = nil, noon.Add(FinalAfter+time.Minute)
	old := Judge(one(lost), ctx)
	require.True(t, old.Final, "nobody will speak any more")
	require.Equal(t, d.ConfidenceLow, old.Confidence)
	require.Equal(t, []d.Initiator{client}, old.Waiting)
}

func TestInterruptions(t *testing.T) {
	first := interrupted(heard(says(agent, ac, -1801, -1792, silence(client, -1801, -1700), fact(Resumed, -1700)), d.NetworkTimeout, d.Network))
	firstToo := interrupted(says(client, ac, -1800, -1710, during(Slept, -1800, -1701), fact(Resumed, -1700)))
	open := interrupted(heard(says(agent, ac, -1, 8, silence(client, -1, 0)), d.NetworkTimeout, d.Network))
	end := says(client, ac, -1, 300, during(LinkDown, 0, 300), silence(agent, -1, 0))
	all := one(first, end, open, firstToo)
	ctx := ctxOf(ac)

	v := Judge(all, ctx)
	require.Equal(t, Ending, v.Kind)
	require.True(t, v.Counts())
	require.Equal(t, "network_unreachable/network/client_net", cell(v))

	paused := Interruptions(all, ctx)
	require.Len(t, paused, 1, "the one that was open is the ending")
	require.Equal(t, "suspended/client/client", cell(paused[0]))
	require.False(t, paused[0].Counts())
	require.Equal(t, 100*time.Second, paused[0].Lasted().Round(time.Second))
	require.True(t, paused[0].Final)

	exit := Judge(one(first, firstToo, says(agent, ac, 0, 0, exited(0, 0))), ctx)
	require.Equal(t, "graceful/agent", cell(exit), "what was over before has no part in it")
}
