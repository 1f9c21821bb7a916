package scenario

// ownTable is of faults that the matrix does not have.
var ownTable = []entry{
	{Scenario: Scenario{
		Name: "exit-137", Story: "The shell ends with status 137 by its own choice: no signal, and no lack of memory.",
		Steps: once(typed("exit 137")),
		Truth: all(ac("process_exited", Agent)),
	}},
	{Scenario: Scenario{
		Name: "shell-terminated", Story: "Somebody on the agent's host sends SIGTERM to the session's program.",
		Steps: []Step{at(0, typed("exec sleep 100")), at(sec, term(TheShell))},
		Truth: all(ac("process_signaled", Agent)),
	}},
	{Scenario: Scenario{
		Name: "stock-ssh-exit-3", Story: "The shell of a stock ssh ends with status 3.",
		Session: Stock, CI: true,
		Steps: once(typed("exit 3")),
		Truth: all(ac("process_exited", Agent)),
	}},
	{Scenario: Scenario{
		Name: "stock-ssh-escape", Story: "The user of a stock ssh types ~. .",
		Session: Stock,
		Steps:   once(typed("\r~.")),
		Truth:   all(ac("client_closed", Client)),
	}},
	{Scenario: Scenario{
		Name: "stock-ssh-killed", Story: "kill -9 of a stock ssh, whose fairlead ssh --stdio lives.",
		Session: Stock,
		Steps:   once(kill(TheSSH)),
		Truth:   all(ac("peer_crashed", Client)),
	}},
	{Scenario: Scenario{
		Name: "cable-out", Story: "The agent's cable is pulled: no carrier, for longer than the limit.",
		World: World{Limit: longLimit},
		Steps: []Step{at(0, do(Unplugs, Agent)), at(longOutage, heal)},
		Truth: agentLegs("network_unreachable", Network), Final: laterFinal,
	}},
	// Nobody's own link is down here, so that only the place of the fault can be found.
	{Scenario: Scenario{
		Name: "behind-the-switch", Story: "The agent's host is taken off the switch while its carrier stays, for longer than the limit.",
		World: World{Limit: longLimit},
		Steps: []Step{at(0, do(Isolates, Agent)), at(longOutage, heal)},
		Truth: agentLegs("network_timeout", Network), Final: laterFinal,
	}},
	{Scenario: Scenario{
		Name: "reset-by-a-box", Story: "A box between agent and server resets their link.",
		Steps: []Step{at(0, Act{Verb: Resets, On: Agent, With: Server}), at(10*sec, heal)},
		Truth: Truth{
			Fate:   Lives,
			Agent:  says(sa("connection_reset", Network)),
			Server: says(sa("connection_reset", Network)),
		},
	}},
	{Scenario: Scenario{
		Name: "agent-powered-off", Story: "The agent's host loses power; it is back 10 s later.",
		World: World{Limit: 20 * sec},
		Steps: []Step{at(0, do(PowersOff, Agent)), at(10*sec, start(Agent))},
		Truth: agentDied("peer_crashed"), Final: laterFinal,
	}},
	{Scenario: Scenario{
		Name: "agent-frozen", Simulated: true, Story: "The agent's cgroup is frozen for 12 s, as a paused machine.",
		Steps: []Step{at(0, do(Freezes, Agent)), at(shortOutage, heal)},
		Truth: Truth{
			Fate:   Lives,
			Client: says(ac("host_paused", Agent).or("peer_unresponsive", Agent).passing()),
			Agent:  says(ac("host_paused", Agent).passing(), sa("host_paused", Agent).may()),
			Server: says(ac("host_paused", Agent).passing().may(), sa("peer_unresponsive", Agent).or("host_paused", Agent).may()),
			Log:    says(ac("host_paused", Agent).passing(), sa("host_paused", Agent).may()),
		},
		Final: laterFinal,
	}},
	{Scenario: Scenario{
		Name: "nat-renumbered", Story: "The client's NAT gets another public address.",
		Steps: once(Act{Verb: Rebinds, Arg: "renumber"}),
		Truth: withClientLink(moved()), Final: laterFinal,
	}},
	{Scenario: Scenario{
		Name: "flows-forgotten", Story: "The client's NAT forgets all its flows and takes up none in its middle.",
		Steps: once(Act{Verb: Rebinds, Arg: "flush"}),
		Truth: withClientLink(moved()), Final: laterFinal,
	}},
	{Scenario: Scenario{
		Name: "idle-cut-by-a-proxy", Story: "The proxy before the server cuts every connection once.",
		World: World{Proxied: true},
		Steps: once(Act{Verb: Bans, On: Server, Arg: "cut"}),
		Truth: serverLegs("network_error", Network),
	}},
	{Scenario: Scenario{
		Name: "proxy-without-a-server", Story: "The proxy before the server cuts every connection and answers 502 for a while.",
		World: World{Proxied: true},
		Steps: []Step{at(0, Act{Verb: Bans, On: Server, Arg: "502"}), at(6*sec, heal)},
		Truth: Truth{
			Fate:   Lives,
			Client: says(cs("connection_refused", Server).tried()),
			Agent:  says(sa("connection_refused", Server).tried()),
			Server: says(cs("network_error", Network).may(), sa("network_error", Network).may()),
		},
		Final: laterFinal,
	}},
	{Scenario: Scenario{
		Name: "agent-out-of-files", Story: "The agent may open no more files, and a session begins.",
		Steps: []Step{at(0, do(Limits, Agent)), at(0, Act{Verb: Opens, Arg: "ssh"})},
		Truth: Truth{
			Fate:   Either,
			Client: says(ac("resource_exhausted", Agent).tried()),
			Agent:  says(ac("resource_exhausted", Agent).tried()),
			Server: says(ac("resource_exhausted", Agent).tried().may()),
		},
		Final: laterFinal,
	}},
}

// pairTable is of two faults at once. What came first and would have been enough is the
// truth; what came second has to stay out of it.
var pairTable = []entry{
	{Scenario: Scenario{
		Name: "gave-up-on-a-dead-link", Story: "The client's link is down, and 10 s later its user leaves with ~. because of it.",
		World: World{Limit: 20 * sec},
		Steps: []Step{at(0, down(Client)), at(10*sec, typed("\r~.")), at(15*sec, heal)},
		Truth: clientLegs("network_unreachable", Network), Final: laterFinal,
	}},
	{Scenario: Scenario{
		Name: "agent-and-server-killed", Story: "kill -9 of the server and of the agent at once; both are started again.",
		World: World{Limit: 20 * sec},
		Steps: []Step{at(0, kill(Server)), at(0, kill(Agent)), at(3*sec, start(Server)), at(6*sec, start(Agent))},
		Truth: Truth{
			Client: says(ac("peer_crashed", Agent), cs("peer_crashed", Server)),
			Agent:  says(ac("peer_crashed", Agent)),
			Server: says(ac("peer_crashed", Agent), cs("peer_crashed", Server)),
		},
		Final: laterFinal,
	}},
	{Scenario: Scenario{
		Name: "agent-killed-while-server-stands", Story: "The server stands still, the agent is killed with -9 and started again, and the server goes on.",
		World: World{Limit: 20 * sec},
		Steps: []Step{at(0, stop(Server)), at(sec, kill(Agent)), at(5*sec, start(Agent)), at(8*sec, cont(Server))},
		Truth: agentDied("peer_crashed"), Final: laterFinal,
	}},
	{Scenario: Scenario{
		Name: "agent-killed-behind-a-dead-link", Story: "The agent's link goes down, and it is killed with -9 while nobody can see it.",
		World: World{Limit: 20 * sec},
		Steps: []Step{at(0, down(Agent)), at(2*sec, kill(Agent)), at(6*sec, heal), at(6*sec, start(Agent))},
		Truth: agentDied("peer_crashed"), Final: laterFinal,
	}},
	{Scenario: Scenario{
		Name: "stopped-then-killed", Story: "The agent stands still, and 5 s later it is killed with -9 and started again.",
		World: World{Limit: 20 * sec},
		Steps: []Step{at(0, stop(Agent)), at(5*sec, kill(Agent)), at(7*sec, start(Agent))},
		Truth: agentDied("peer_crashed"), Final: laterFinal,
	}},
	{Scenario: Scenario{
		Name: "crashed-after-a-notice", Story: "The platform gives notice, and the agent's host then loses power.",
		World: World{Limit: 20 * sec},
		Steps: []Step{at(0, admin("workspace notice dev --deadline 30s")), at(2*sec, do(PowersOff, Agent)), at(10*sec, start(Agent))},
		Truth: agentLegs("workspace_evicted", Server), Final: laterFinal,
	}},
	{Scenario: Scenario{
		Name: "exit-during-an-outage", Story: "The shell ends by itself while the client's link is down.",
		Steps: []Step{at(0, typed("sleep 3; exit 3")), at(sec, down(Client)), at(10*sec, heal)},
		Truth: all(ac("process_exited", Agent)), Final: laterFinal,
	}},
	{Scenario: Scenario{
		Name: "server-restart-and-rebinding", Story: "The server restarts, and the client's NAT gives its flows other ports.",
		Steps: []Step{at(0, term(Server)), at(0, Act{Verb: Rebinds, Arg: "rebind"}), at(sec, start(Server))},
		Truth: Truth{
			Fate:   Lives,
			Client: says(cs("server_shutdown", Server), ac("path_migrated", Network).passing().may()),
			Agent:  says(sa("server_shutdown", Server), ac("path_migrated", Network).passing().may()),
			Server: says(sa("server_shutdown", Server), cs("server_shutdown", Server)),
		},
		Final: laterFinal,
	}},
	{Scenario: Scenario{
		Name: "killed-after-its-stop", Story: "The agent is stopped with SIGTERM while the server stands still, and killed before it is done.",
		World: World{Args: map[Party][]string{Agent: {"--shutdown-timeout", "20s"}}},
		Steps: []Step{at(0, stop(Server)), at(sec, term(Agent)), at(2*sec, kill(Agent)), at(4*sec, cont(Server)), at(5*sec, start(Agent))},
		Truth: Truth{
			Client: says(ac("server_shutdown", Agent)),
			Agent:  says(ac("server_shutdown", Agent), sa("server_shutdown", Agent).may()),
			Server: says(ac("server_shutdown", Agent), sa("server_shutdown", Agent)),
		},
		Final: laterFinal,
	}},
}

// controlTable is of faults in which nothing ends, and of which nothing is to be said.
var controlTable = []entry{
	{Scenario: control("outage-of-5s", "Nothing passes the client's link for 5 s.", at(0, drop(Client, Network)), at(5*sec, heal))},
	{Scenario: control("loss-of-20-percent", "One packet in five is lost for 15 s.", at(0, impair(Client, "loss=20")), at(15*sec, heal))},
	{Scenario: control("delay-of-300ms", "Each packet takes 300 ms more for 15 s.", at(0, impair(Client, "delay=300ms")), at(15*sec, heal))},
	{Scenario: control("jitter-and-reordering", "Packets are delayed by 10 to 90 ms, out of order, for 15 s.", at(0, impair(Client, "delay=50ms,jitter=40ms,reorder=30")), at(15*sec, heal))},
	{Scenario: control("slow-link", "The client's link carries 256 kbit/s for 15 s.", at(0, impair(Client, "rate=256000")), at(15*sec, heal))},
	{Scenario: control("unreachable-by-icmp", "A router answers once that the agent's network is administratively prohibited.", at(0, Act{Verb: Refuses, On: Client, With: Agent, Arg: "admin-prohibited"}), at(2*sec, heal))},
	{Scenario: control("small-packets-only", "Packets over 1280 bytes vanish on the agent's link for 15 s.", at(0, Act{Verb: Blackhole, On: Agent, Arg: "1280"}), at(15*sec, heal))},
	{Scenario: simulated(control("clock-set-forward", "The agent's wall clock is set forward by a year.", at(0, Act{Verb: Skews, On: Agent, Arg: "8760h"})))},
}

func simulated(s Scenario) Scenario {
	s.Simulated = true
	return s
}

// control is a scenario in which nothing ends.
func control(name, story string, steps ...Step) Scenario {
	return Scenario{Name: name, Story: story, Steps: steps, Truth: nothing, Control: true, CI: name == "outage-of-5s"}
}
