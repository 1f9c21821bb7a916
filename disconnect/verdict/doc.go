// Package verdict joins what several observers testified of the end of one connection, or
// of its interruption, into one verdict: the five fields, where the fault was, which rule
// decided, on which evidence, how sure that is, and whether a word is still missing.
//
// [Judge] is a pure function. It reads no clock, writes nothing and knows nothing of how
// testimonies are carried or stored; [Read] reads their JSON form, which is also the form
// in which they are stored raw. [Interruptions] judges each interruption by the same
// rules, and [Incidents] finds what several losses have in common. Sentences for people
// are made by package disconnect/explain.
//
// # Who brings which facts
//
// Every observer sends what it saw and nothing that it concludes, but for its account: how
// its own layer judged the ending (disconnect.Judge, control.Judge, wsconn.Judge, ...), with
// the letter of what that rests on.
//
//   - Whoever closes: own_cause when it sets its disconnect.Latch, goodbye_sent when it has
//     said so. Whoever is told: goodbye_received (control.Ending with Goodbye set, a
//     companion goodbye, the SSH request), or status_ok when a stream ended in order.
//   - The agent: process_exit and oom_kill of its sessions' processes, stop_order and
//     platform_notice when its orders change, heartbeat_silence of each client's companion
//     stream, link_down and link_changed and path_changed from the network node, relay_lost,
//     slept and timer_late from its clocks, obituary at its start, and supervisor if its
//     environment tells.
//   - The client: the same of itself, process_exit as it arrived over SSH, parent_killed under
//     --stdio, new_instance and heard_again of the agent.
//   - The server: for its own links what every end brings; about an agent or a client, as a
//     remark on their connections and with the leg set: socket_closed, socket_reset,
//     heartbeat_silence, probe_answered, leg_alive, new_instance; stop_order and
//     platform_notice when they are decided; obituary at its start; relay_client_gone from
//     the embedded relay.
//   - A relay of its own: relay_client_gone.
//
// Fields that the observer cannot know about itself (Principal, Via, Received) are set by
// whoever takes the testimony, from what was authenticated.
//
// The design text beside this file has the rules, all kinds of facts and the JSON form.
package verdict
