package scenario

import "time"

const sec = time.Second

// workTable is of sessions whose work is over, or whose user leaves.
var workTable = []entry{
	{Scenario: Scenario{
		Name: "exit-0", Row: 1, CI: true, Story: "The user types exit 0 in the shell.",
		Steps: once(typed("exit 0")),
		Truth: all(ac("graceful", Agent)),
	}},
	{Scenario: Scenario{
		Name: "exit-3", Row: 2, CI: true, Story: "The shell ends with status 3.",
		Steps: once(typed("exit 3")),
		Truth: all(ac("process_exited", Agent)),
	}},
	{Scenario: Scenario{
		Name: "shell-killed", Row: 3, CI: true, Story: "The user kills their own shell with -9.",
		Steps: once(typed("kill -9 $$")),
		Truth: all(ac("process_signaled", Agent)),
	}},
	{Scenario: Scenario{
		Name: "shell-out-of-memory", Row: 4, Story: "The kernel kills the session's process for its memory.",
		World: World{Memory: true},
		Steps: once(do(Starves, TheShell)),
		Truth: all(ac("oom_killed", Agent)),
	}},
	{Scenario: Scenario{
		Name: "terminal-closed", Row: 6, CI: true, Story: "The user closes the terminal's window.",
		Steps: once(do(Closes, Client)),
		Truth: clientLeft,
	}},
	{Scenario: Scenario{
		Name: "client-interrupted", Row: 6, Story: "The client is sent SIGINT, as by Ctrl-C outside a raw terminal.",
		Steps: once(signal(Client, "INT")),
		Truth: clientLeft,
	}},
	{Scenario: Scenario{
		Name: "client-escape", Row: 6, Story: "The user types ~. at the beginning of a line.",
		Steps: once(typed("\r~.")),
		Truth: clientLeft,
	}},
	{Scenario: Scenario{
		Name: "detach", Row: 7, Story: "The user leaves a kept terminal, which goes on.",
		Session: Attached,
		Steps:   once(typed("\r~.")),
		Truth:   all(ac("client_closed", Client)),
	}},
	{Scenario: Scenario{
		Name: "client-terminated", Row: 8, CI: true, Story: "The client is sent SIGTERM.",
		Steps: once(term(Client)),
		Truth: all(ac("client_closed", Client)),
	}},
	{Scenario: Scenario{
		Name: "revoked", Row: 29, CI: true, Story: "The user's token is revoked.",
		Steps: once(Act{Verb: Commands, On: Client, Arg: "token revoke current"}),
		Truth: Truth{
			Client: says(ac("auth_revoked", Server), cs("auth_revoked", Server)),
			Agent:  says(ac("auth_revoked", Server)),
			Server: says(ac("auth_revoked", Server), cs("auth_revoked", Server)),
		},
	}},
	{Scenario: Scenario{
		Name: "agent-token-rotated", Row: 30, Story: "The agent's token is replaced by another.",
		Steps: once(admin("workspace rotate-token dev")),
		Truth: Truth{
			Fate:   Either,
			Client: says(ac("auth_revoked", Server).may()),
			Agent:  says(sa("auth_revoked", Server), ac("auth_revoked", Server).may()),
			Server: says(sa("auth_revoked", Server), ac("auth_revoked", Server).may()),
		},
	}},
	{Scenario: Scenario{
		Name: "client-token-expires", Row: 31, Story: "The user's token reaches its end.",
		World: World{Token: 12 * sec},
		Steps: once(Act{Verb: Waits, Arg: "token"}),
		Truth: Truth{
			Fate:   Either,
			Client: says(cs("auth_expired", Server), ac("auth_expired", Server).may()),
			Agent:  says(ac("auth_expired", Server).may()),
			Server: says(cs("auth_expired", Server), ac("auth_expired", Server).may()),
		},
	}},
	{Scenario: Scenario{
		Name: "workspace-stopped", Row: 32, CI: true, Story: "The workspace is stopped, and its platform then stops the agent.",
		Steps: []Step{at(0, admin("workspace stop dev")), at(2*sec, term(Agent))},
		Truth: stopped,
	}},
	{Scenario: Scenario{
		Name: "workspace-deleted", Row: 33, Story: "The workspace is deleted.",
		Steps: once(admin("workspace delete dev")),
		Truth: stopped,
	}},
	{Scenario: Scenario{
		Name: "evicted", Row: 34, Story: "The platform gives notice and then stops the agent.",
		Steps: []Step{at(0, admin("workspace notice dev --deadline 30s")), at(2*sec, term(Agent))},
		Truth: agentLegs("workspace_evicted", Server),
	}},
	{Scenario: Scenario{
		Name: "twin-agent", Row: 35, Story: "A second agent with the same token appears.",
		Steps: once(do(Twin, Agent)),
		Truth: Truth{
			Fate:   Either,
			Client: says(ac("duplicate_agent", Server).may()),
			Agent:  says(sa("duplicate_agent", Server), ac("duplicate_agent", Server).may()),
			Server: says(sa("duplicate_agent", Server), ac("duplicate_agent", Server).may()),
		},
	}},
	{Scenario: Scenario{
		Name: "taken-over", Row: 36, Story: "The same user takes the kept terminal over from elsewhere.",
		Session: Attached,
		Steps:   once(Act{Verb: Opens, Arg: "attach --take-over"}),
		Truth:   all(ac("session_replaced", Client)),
	}},
	{Scenario: Scenario{
		Name: "idle", Row: 37, Story: "Nothing passes through the session for as long as its policy allows.",
		Steps: once(admin("workspace policy dev --idle-timeout 4s")),
		Truth: all(ac("idle_timeout", Agent)),
		Final: 20 * sec, Provisional: 20 * sec,
	}},
	// The matrix names the control link too; the limit is the session's, which does not end it.
	// Its initiator is the server there, and who enforces it in the definition of the word.
	{Scenario: Scenario{
		Name: "session-limit", Row: 38, Story: "The session has lasted for as long as its policy allows.",
		Steps: once(admin("workspace policy dev --session-limit 4s")),
		Truth: all(ac("session_limit", Server).or("session_limit", Agent)),
		Final: 20 * sec, Provisional: 20 * sec,
	}},
	{Scenario: Scenario{
		Name: "ended-by-admin", Row: 39, CI: true, Story: "An admin ends the session.",
		Steps: once(admin("connections kill $SESSION")),
		Truth: all(ac("admin_terminated", Server)),
	}},
}

// clientLeft is the truth of a client that says goodbye.
var clientLeft = Truth{
	Client: says(ac("client_closed", Client), cs("client_closed", Client)),
	Agent:  says(ac("client_closed", Client)),
	Server: says(ac("client_closed", Client), cs("client_closed", Client)),
}

var stopped = agentLegs("workspace_stopped", Server)

// agentLegs is the truth of a fault that ends both of the agent's legs alike.
func agentLegs(reason string, by Party) Truth {
	return Truth{
		Client: says(ac(reason, by)),
		Agent:  says(ac(reason, by), sa(reason, by)),
		Server: says(ac(reason, by), sa(reason, by)),
	}
}

// agentDied is the truth of an agent that could say nothing; its next life has to tell of
// the session, and may of its link.
func agentDied(reason string) Truth {
	t := agentLegs(reason, Agent)
	t.Agent[1] = t.Agent[1].may()
	return t
}

// clientLegs is the truth of one that ends both of the client's.
func clientLegs(reason string, by Party) Truth {
	return Truth{
		Client: says(ac(reason, by), cs(reason, by)),
		Agent:  says(ac(reason, by)),
		Server: says(ac(reason, by), cs(reason, by)),
	}
}

// crashTable is of processes that end, by their operator or by no choice.
var crashTable = []entry{
	{Paths: bothPaths, Scenario: Scenario{
		Name: "agent-out-of-memory", Row: 5, Story: "The kernel kills the agent for its memory; it is started again 6 s later.",
		World: World{Memory: true, Limit: 20 * sec},
		Steps: []Step{at(0, do(Starves, Agent)), at(6*sec, start(Agent))},
		Truth: agentDied("oom_killed"), Final: laterFinal,
	}},
	{Paths: bothPaths, Scenario: Scenario{
		Name: "client-killed", Row: 9, CI: true, Story: "kill -9 of the client, which its user starts again 4 s later.",
		World: World{Limit: longLimit},
		Steps: []Step{at(0, kill(Client)), at(4*sec, returns)},
		Truth: clientLegs("peer_crashed", Client), Final: laterFinal,
	}},
	{Paths: bothPaths, Scenario: Scenario{
		Name: "agent-terminated", Row: 14, CI: true, Story: "The agent is stopped with SIGTERM.",
		Steps: once(term(Agent)),
		Truth: agentLegs("server_shutdown", Agent),
	}},
	{Scenario: Scenario{
		Name: "agent-slow-to-stop", Row: 15, Story: "The agent is stopped while the server stands still, so that its time for stopping is over first.",
		World: World{Args: map[Party][]string{Agent: {"--shutdown-timeout", "2s"}}},
		Steps: []Step{at(0, stop(Server)), at(sec, term(Agent)), at(6*sec, cont(Server)), at(7*sec, start(Agent))},
		Truth: agentLegs("server_shutdown", Agent), Final: laterFinal,
	}},
	{Paths: bothPaths, Scenario: Scenario{
		Name: "agent-killed", Row: 16, CI: true, Story: "kill -9 of the agent, which is started again 6 s later.",
		World: World{Limit: 20 * sec},
		Steps: []Step{at(0, kill(Agent)), at(6*sec, start(Agent))},
		Truth: agentDied("peer_crashed"), Final: laterFinal,
	}},
	{Scenario: Scenario{
		Name: "agent-killed-for-good", Row: 16, Story: "kill -9 of the agent, which nobody starts again.",
		World: World{Limit: longLimit},
		Steps: once(kill(Agent)),
		Truth: Truth{
			Client: says(ac("peer_crashed", Agent)),
			Server: says(ac("peer_crashed", Agent), sa("peer_crashed", Agent)),
		},
		Final: 30 * sec,
	}},
	{Scenario: Scenario{
		Name: "agent-panics", Row: 17, Story: "The agent panics in the work of the session, and its recover hook runs.",
		World: World{Variants: map[Party]Variant{Agent: Panics}},
		Steps: once(signal(Agent, "USR2")),
		Truth: all(ac("internal_error", Agent)),
	}},
}

// says is a list, for tables whose lines read alike.
func says(list ...Say) []Say { return list }
