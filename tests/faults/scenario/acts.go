package scenario

import (
	"strings"
	"time"
)

// Verb is a kind of act.
type Verb string

// Verbs.
const (
	Types     Verb = "type"      // Arg into the session's terminal, with Enter
	Closes    Verb = "close"     // the terminal's window
	Deafens   Verb = "deafen"    // nobody reads the terminal any more
	Signals   Verb = "signal"    // Arg to the process On
	Starts    Verb = "start"     // the process On again
	Returns   Verb = "return"    // the client runs again, and ends at once
	Opens     Verb = "open"      // another session, with Arg
	Twin      Verb = "twin"      // a second agent with the same token
	Commands  Verb = "fairlead"  // Arg, by the admin
	Downs     Verb = "link down" // of On's host, as its operator does
	Unplugs   Verb = "cable"     // On sees no carrier
	Isolates  Verb = "unplug"    // On's host behind the switch: its carrier stays
	Drops     Verb = "drop"      // silently between On and With; Arg: only this protocol
	DropsTo   Verb = "drop to"   // the same, only what On sends to With
	Resets    Verb = "reset"     // TCP between On and With, by a box between
	Refuses   Verb = "icmp"      // between On and With, by a router, with the code Arg
	Rebinds   Verb = "nat"       // Arg: rebind, renumber or flush
	Impairs   Verb = "impair"    // the link of On, by Arg
	Blackhole Verb = "mtu"       // Arg, with its ICMP dropped
	Severs    Verb = "socket"    // TCP sockets of On to With are killed in the kernel
	Freezes   Verb = "freeze"    // the cgroup of the process On
	Suspends  Verb = "suspend"   // On's host: frozen, and its boot clock jumps by Arg
	PowersOff Verb = "power off" // On's host: cut first, then killed
	Starves   Verb = "starve"    // On of memory, so that the kernel kills it
	Fills     Verb = "fill"      // On's disk
	Limits    Verb = "limit"     // On's open files to what it has now
	Expires   Verb = "expire"    // the server's certificate
	Unnames   Verb = "unname"    // nobody resolves the server's name any more
	Spoils    Verb = "spoil"     // the database of the server On
	Bans      Verb = "proxy"     // Arg: cut idle connections, or 502
	Skews     Verb = "skew"      // On's wall clock by Arg
	Babbles   Verb = "babble"    // garbage to the server's port, or a dial that never ends
	Corrupts  Verb = "corrupt"   // On's bytes to With, with valid checksums
	Heals     Verb = "heal"      // undoes all that can be undone
	Waits     Verb = "wait"      // until Arg: token, when the login is over
)

// Shell and the stock ssh of the client are targets as the parties are.
const (
	TheShell Party = "shell" // the session's process at the agent
	TheSSH   Party = "ssh"   // the stock ssh at the client
)

// Act is one thing that is done from outside.
type Act struct {
	Verb Verb
	On   Party
	With Party
	Arg  string
}

// String is the act in words.
func (a Act) String() string {
	var parts []string
	for _, p := range []string{string(a.Verb), string(a.On), string(a.With), a.Arg} {
		if p != "" {
			parts = append(parts, p)
		}
	}
	return strings.Join(parts, " ")
}

func typed(text string) Act             { return Act{Verb: Types, Arg: text} }
func signal(on Party, name string) Act  { return Act{Verb: Signals, On: on, Arg: name} }
func kill(on Party) Act                 { return signal(on, "KILL") }
func term(on Party) Act                 { return signal(on, "TERM") }
func stop(on Party) Act                 { return signal(on, "STOP") }
func cont(on Party) Act                 { return signal(on, "CONT") }
func start(on Party) Act                { return Act{Verb: Starts, On: on} }
func down(host Party) Act               { return Act{Verb: Downs, On: host} }
func drop(a, b Party) Act               { return Act{Verb: Drops, On: a, With: b} }
func dropUDP(a, b Party) Act            { return Act{Verb: Drops, On: a, With: b, Arg: "udp"} }
func impair(host Party, how string) Act { return Act{Verb: Impairs, On: host, Arg: how} }
func admin(args string) Act             { return Act{Verb: Commands, Arg: args} }
func do(verb Verb, on Party) Act        { return Act{Verb: verb, On: on} }

var (
	heal    = Act{Verb: Heals}
	returns = Act{Verb: Returns, On: Client}
)

// at is one step; once is the usual whole of them: one act, at once.
func at(d time.Duration, a Act) Step { return Step{At: d, Act: a} }

func once(acts ...Act) (steps []Step) {
	for _, a := range acts {
		steps = append(steps, at(0, a))
	}
	return steps
}
