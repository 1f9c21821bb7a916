package scenario

// outageTable is of what can be undone: links, paths, translation, relays, suspended and
// stopped processes, and the server. Each is tried shorter and longer than the limit.
var outageTable = []entry{
	{Cause: acts(stop(Client)), Cure: acts(cont(Client)), Scenario: Scenario{
		Name: "client-stopped", Row: 10, Story: "The client is stopped with SIGSTOP and goes on later.",
		Truth: clientLegs("suspended", Client),
	}},
	{Cause: acts(Act{Verb: Suspends, On: Client, Arg: "5m"}), Cure: acts(heal), Scenario: Scenario{
		Name: "client-asleep", Row: 11, Story: "The client's machine sleeps for five minutes.",
		Truth: clientLegs("suspended", Client), Simulated: true,
	}},
	{Cause: acts(down(Client)), Cure: acts(heal), Paths: bothPaths, Scenario: Scenario{
		Name: "client-link-down", Row: 12, CI: true, Story: "The client's network interface is down, as when Wi-Fi is switched off.",
		Truth: clientLegs("network_unreachable", Network),
	}},
	{Scenario: Scenario{
		Name: "nat-rebinding", Row: 13, CI: true, Story: "The client's NAT gives its flows other ports.",
		Steps: once(Act{Verb: Rebinds, Arg: "rebind"}),
		Truth: withClientLink(moved()),
	}},
	{Cause: acts(stop(Agent)), Cure: acts(cont(Agent)), Paths: bothPaths, Scenario: Scenario{
		Name: "agent-stopped", Row: 18, Story: "The agent is stopped with SIGSTOP and goes on later.",
		Truth: Truth{
			Client: says(ac("host_paused", Agent).or("peer_unresponsive", Agent)),
			Agent:  says(ac("host_paused", Agent), sa("host_paused", Agent)),
			Server: says(ac("host_paused", Agent), sa("peer_unresponsive", Agent).or("host_paused", Agent)),
			Log:    says(ac("host_paused", Agent), sa("host_paused", Agent)),
		},
	}},
	{Cause: acts(down(Agent)), Cure: acts(heal), Paths: bothPaths, Scenario: Scenario{
		Name: "agent-link-down", Row: 19, CI: true, Story: "The agent's network interface is down.",
		Truth: agentLegs("network_unreachable", Network),
	}},
	{Cause: acts(term(Server)), Cure: acts(start(Server)), Paths: bothPaths, Relayed: relayedThrough("server_shutdown", "server_shutdown"), Scenario: Scenario{
		Name: "server-away", Row: 20, Story: "The server is stopped with SIGTERM and started again later.",
		Truth: serverLegs("server_shutdown", Server),
	}},
	{Paths: bothPaths, Relayed: brieflyAway, Scenario: Scenario{
		Name: "server-restart", Row: 20, CI: true, Story: "The server is stopped with SIGTERM and started again at once.",
		Steps: []Step{at(0, term(Server)), at(sec, start(Server))},
		Truth: serverLegs("server_shutdown", Server), Final: laterFinal,
	}},
	{Cause: acts(kill(Server)), Cure: acts(start(Server)), Paths: bothPaths, Relayed: relayedThrough("peer_crashed", "relay_lost"), Scenario: Scenario{
		Name: "server-killed", Row: 21, Story: "kill -9 of the server, which is started again later.",
		Truth: serverLegs("peer_crashed", Server),
	}},
	{Cause: acts(down(Server)), Cure: acts(heal), Scenario: Scenario{
		Name: "server-link-down", Row: 22, Story: "The server's network interface is down; client and agent reach each other.",
		Truth: serverLegs("network_unreachable", Network),
	}},
	{Cause: acts(stop(Server)), Cure: acts(cont(Server)), Scenario: Scenario{
		Name: "server-stopped", Row: 23, Story: "The server is stopped with SIGSTOP and goes on later.",
		Truth: serverLegs("host_paused", Server),
	}},
	{Cause: acts(drop(Agent, Server)), Cure: acts(heal), Scenario: Scenario{
		Name: "agent-server-path", Row: 24, Story: "Nothing passes between agent and server any more; both reach everybody else.",
		Truth: Truth{
			Fate:   Lives,
			Agent:  says(sa("network_timeout", Network)),
			Server: says(sa("network_timeout", Network)),
		},
	}},
	{Scenario: Scenario{
		Name: "direct-path-lost", Row: 25, CI: true, Story: "UDP between client and agent is dropped; the relay lives.",
		Steps: once(dropUDP(Client, Agent)),
		Truth: moved(), Final: laterFinal,
	}},
	{Cause: acts(dropUDP(Client, Agent), drop(Client, Relay)), Cure: acts(heal), Scenario: Scenario{
		Name: "every-path-lost", Row: 26, Story: "UDP between client and agent is dropped, and the client's way to the only relay too.",
		World: World{OwnRelay: true, OneRelay: true},
		Truth: all(ac("network_timeout", Network)),
	}},
	{Scenario: Scenario{
		Name: "relay-stopped", Row: 27, Path: Relayed, Story: "The relay in use is stopped with SIGTERM; there is another.",
		World: World{OwnRelay: true, Before: acts(impair(Server, "delay=40ms"))},
		Steps: once(term(Relay)),
		Truth: moved(), Final: laterFinal,
	}, Paths: onRelay},
	{Cause: acts(kill(Relay)), Cure: acts(start(Relay)), Paths: onRelay, Scenario: Scenario{
		Name: "relay-killed", Row: 28, Story: "kill -9 of the only relay, and there is no direct path.",
		World: World{OwnRelay: true, OneRelay: true, Before: acts(dropUDP(Client, Agent))},
		Truth: all(ac("relay_lost", Network)),
	}},
}

// acts is a list of them.
func acts(list ...Act) []Act { return list }

// moved is the truth of a session whose path changed. A silence of less than 8 s is nobody's
// record, and how long this one lasts is for the paths to say.
func moved() Truth {
	migrated := ac("path_migrated", Network).passing().may()
	return Truth{Fate: Lives, Client: says(migrated), Agent: says(migrated), Server: says(migrated.may())}
}

// withClientLink is t with a control link of the client that a NAT may have forgotten, of
// which one end may hear a reset and the other nothing.
func withClientLink(t Truth) Truth {
	link := cs("network_timeout", Network).or("connection_reset", Network).may()
	t.Client, t.Server = append(t.Client, link), append(t.Server, link)
	return t
}

// serverLegs is the truth of a fault that ends control links, and no session.
func serverLegs(reason string, by Party) Truth {
	return Truth{
		Fate:   Lives,
		Client: says(cs(reason, by)),
		Agent:  says(sa(reason, by)),
		Server: says(sa(reason, by), cs(reason, by)),
	}
}

// relayedThrough is the truth of a server that goes for good, and with it the relay of a
// session that has no other path.
func relayedThrough(links, session string) *Truth {
	return &Truth{
		Client: says(cs(links, Server), ac(session, Server)),
		Agent:  says(sa(links, Server), ac(session, Server)),
		Server: says(sa(links, Server), cs(links, Server), ac(session, Server)),
	}
}

// brieflyAway is the truth of a restart that the session's relay takes part in: it is too
// short for a record, and may have one.
var brieflyAway = &Truth{
	Fate:   Lives,
	Client: says(cs("server_shutdown", Server), ac("server_shutdown", Server).passing().may()),
	Agent:  says(sa("server_shutdown", Server), ac("server_shutdown", Server).passing().may()),
	Server: says(sa("server_shutdown", Server), cs("server_shutdown", Server)),
}
