package scenario

// refusalTable is of connections that never were, and of bytes that are none of ours.
var refusalTable = []entry{
	{Scenario: Scenario{
		Name: "garbage", Row: 40, Story: "Somebody sends garbage to the server's port.",
		Steps: once(Act{Verb: Babbles, On: Server, Arg: "garbage"}),
		// The connection log has no row of somebody of whom nothing is known.
		Truth: Truth{Fate: Lives, Server: says(cs("protocol_error", Client).tried()), Log: says(cs("protocol_error", Client).tried().may())},
	}},
	{Scenario: Scenario{
		Name: "corrupt-frames", Row: 41, Story: "What the agent sends to the server arrives with other bytes and valid checksums.",
		Steps: []Step{at(0, Act{Verb: Corrupts, On: Agent, With: Server}), at(8*sec, heal)},
		Truth: Truth{
			Fate:   Either,
			Agent:  says(sa("protocol_error", Agent)),
			Server: says(sa("protocol_error", Agent)),
		},
	}},
	{Scenario: Scenario{
		Name: "client-too-old", Row: 42, Story: "A client that speaks an older protocol comes.",
		World: World{Variants: map[Party]Variant{Client: Older}},
		Steps: once(Act{Verb: Opens, Arg: "ssh"}),
		Truth: Truth{
			Fate:   Lives,
			Client: says(cs("version_mismatch", Server).tried()),
			Server: says(cs("version_mismatch", Server).tried()),
		},
	}},
	{Scenario: Scenario{
		Name: "slow-loris", Row: 43, Story: "Somebody begins a dial and never ends it.",
		Steps: once(Act{Verb: Babbles, On: Server, Arg: "slow"}),
		Truth: Truth{Fate: Lives, Server: says(cs("slow_peer", Client).tried()), Log: says(cs("slow_peer", Client).tried().may())},
		Final: 25 * sec, Provisional: 25 * sec,
	}},
	{Scenario: Scenario{
		Name: "deaf-terminal", Row: 44, Story: "Nobody reads what the session writes.",
		Steps: []Step{at(0, do(Deafens, Client)), at(0, typed("yes fairlead"))},
		Truth: Truth{Fate: Either}, // it lives, which a terminal that nobody reads cannot show: docs/decisions/022
	}},
	{Scenario: Scenario{
		Name: "certificate-expired", Row: 45, Story: "The server's certificate expires, and then all links are cut once.",
		World: World{TLS: true},
		Steps: []Step{at(0, do(Expires, Server)), at(2*sec, sever(Agent)), at(2*sec, sever(Client))},
		Truth: unheardAgain("tls_failure", Server), Final: laterFinal,
	}},
	{Scenario: Scenario{
		Name: "name-unknown", Row: 46, Story: "The server's name resolves no more, and then all links are cut once.",
		World: World{Named: true},
		Steps: []Step{at(0, do(Unnames, Server)), at(0, sever(Agent)), at(0, sever(Client))},
		Truth: Truth{
			Fate:   Lives,
			Client: says(cs("dns_failure", Network).tried()),
			Agent:  says(sa("dns_failure", Network).tried()),
			Server: says(cs("dns_failure", Network).tried().may(), sa("dns_failure", Network).tried().may()),
		},
		Final: laterFinal,
	}},
	{Scenario: Scenario{
		Name: "too-many-links", Row: 49, Story: "A user connects once more than one address may.",
		World: World{Args: map[Party][]string{Server: {"--max-links-per-user", "1"}}},
		Steps: once(Act{Verb: Opens, Arg: "ssh"}),
		Truth: Truth{
			Fate:   Lives,
			Client: says(cs("limit_exceeded", Server).tried()),
			Server: says(cs("limit_exceeded", Server).tried()),
		},
		Final: laterFinal,
	}},
	{Scenario: Scenario{
		Name: "never-reached", Row: 50, Story: "The server is not there when the client dials.",
		Session: Dialling,
		Steps:   []Step{at(0, term(Server)), at(sec, returns)},
		Truth:   Truth{Fate: Either, Client: says(cs("connection_refused", Server).tried())},
		Final:   laterFinal,
	}},
}

// sever kills a party's sockets to the server once.
func sever(p Party) Act { return Act{Verb: Severs, On: p, With: Server} }

// refusedAgain is the truth of links that were cut and whose dials then fail.
func refusedAgain(reason string, by Party) Truth {
	return Truth{
		Fate:   Lives,
		Client: says(cs(reason, by).tried()),
		Agent:  says(sa(reason, by).tried()),
		Server: says(cs(reason, by).tried(), sa(reason, by).tried()),
		Log:    says(cs(reason, by).tried().may(), sa(reason, by).tried().may()), // nobody was let in who could have a row
	}
}

// unheardAgain is refusedAgain for dials that end before the server can know whose they are.
func unheardAgain(reason string, by Party) Truth {
	t := refusedAgain(reason, by)
	t.Server = t.Log
	return t
}

// resourceTable is of hosts that run out of something.
var resourceTable = []entry{
	{Scenario: Scenario{
		Name: "agent-disk-full", Row: 47, Story: "The agent's disk is full, and a session begins on it.",
		World: World{SmallFS: Agent},
		Steps: []Step{at(0, do(Fills, Agent)), at(sec, Act{Verb: Opens, Arg: "ssh"})},
		Truth: Truth{Fate: Lives}, // the agent goes on in memory: docs/decisions/022
	}},
	{Scenario: Scenario{
		Name: "database-down", Row: 48, Story: "The server's database cannot be read any more, and then all links are cut once.",
		Steps: []Step{at(0, do(Spoils, Server)), at(sec, sever(Agent)), at(sec, sever(Client))},
		Truth: refusedAgain("internal_error", Server), Final: laterFinal,
	}},
}
