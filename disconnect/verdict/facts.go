package verdict

import (
	"fmt"
	"slices"

	"fairlead.dev/fairlead/disconnect"
)

// FactKind is what sort of thing an observer saw: a closed set. In JSON it is its word,
// which never changes its meaning; the numeric value is not stored.
type FactKind uint8

// Kinds of facts. What each one means, and who can know it, stands in factTable.
const (
	// Account is what the observer made of the ending by itself. It is not written as a
	// fact: [Testimony.Account] is it.
	Account FactKind = iota + 1
	GoodbyeReceived
	GoodbyeSent
	OwnCause
	StatusOK
	StopOrder
	PlatformNotice
	ProcessExit
	OOMKill
	SocketClosed
	SocketReset
	CloseDenied
	HeartbeatSilence
	ProbeAnswered
	HeardAgain
	NewInstance
	Obituary
	Supervisor
	ParentKilled
	Slept
	TimerLate
	SleepAnnounced
	LinkDown
	LinkChanged
	PathChanged
	RelayLost
	RelayClientGone
	LegAlive
	CertificateBad
	Error
	Resumed
)

// observers, in the order in which the table names them.
const (
	client = disconnect.Client
	agent  = disconnect.Agent
	server = disconnect.Server
	relay  = disconnect.Relay
)

var (
	anyone = []disconnect.Initiator{client, agent, server, relay}
	ends   = []disconnect.Initiator{client, agent, server}
)

type factInfo struct {
	kind     FactKind
	name     string
	by       []disconnect.Initiator // who can know it
	sentence string                 // what it says, and which fields say more
}

var factTable = []factInfo{
	{Account, "account", anyone, "What the observer judged by itself."},
	{GoodbyeReceived, "goodbye_received", ends, "The other end said goodbye: cause, and about who said it."},
	{GoodbyeSent, "goodbye_sent", ends, "The observer said goodbye: cause."},
	{OwnCause, "own_cause", ends, "The observer recorded its own cause before it closed anything: cause."},
	{StatusOK, "status_ok", ends, "The other end finished its stream in order (status OK), without a goodbye."},
	{StopOrder, "stop_order", ends, "The server had decided to end this, and said so: cause, ref of the decision, until when it counts."},
	{PlatformNotice, "platform_notice", []disconnect.Initiator{agent, server}, "The platform gave notice that it takes the host away: cause, until when it counts, ref."},
	{ProcessExit, "process_exit", []disconnect.Initiator{client, agent}, "The session's process ended: exit_code, or signal and sent_by."},
	{OOMKill, "oom_kill", []disconnect.Initiator{agent}, "The kernel's count of processes killed for want of memory rose."},
	{SocketClosed, "socket_closed", anyone, "The kernel of whom it is about closed its control socket without a goodbye."},
	{SocketReset, "socket_reset", anyone, "A TCP reset ended the connection with whom it is about."},
	{CloseDenied, "close_denied", ends, "The observer had closed and reset nothing on this leg by then."},
	{HeartbeatSilence, "heartbeat_silence", ends, "Nothing was heard of whom it is about, on that leg, from at until until (still, if there is none); said once a person would be told, after 4 s."},
	{ProbeAnswered, "probe_answered", anyone, "The host of whom it is about acknowledged a fresh probe while its program was silent; proxied if a box between may have done so."},
	{HeardAgain, "heard_again", ends, "The same life of whom it is about was heard again."},
	{NewInstance, "new_instance", anyone, "Another life of whom it is about, instance, has taken its place."},
	{Obituary, "obituary", ends, "The journal of the observer's former life: outcome; at is its last sign of life, until its next start."},
	{Supervisor, "supervisor", ends, "What a supervisor or platform says of how the process of whom it is about ended: outcome."},
	{ParentKilled, "parent_killed", []disconnect.Initiator{client}, "The local program that the client served was killed; nobody chose to leave."},
	{Slept, "slept", ends, "The observer's host slept from at until until: its boot-time clock ran on, its monotonic clock did not."},
	{TimerLate, "timer_late", ends, "The observer's own timer, due at at, ran at until: its process or host was stopped."},
	{SleepAnnounced, "sleep_announced", ends, "The observer's host said that it was going to sleep."},
	{LinkDown, "link_down", ends, "The observer's own link or route was down from at until until (still, if there is none)."},
	{LinkChanged, "link_changed", ends, "The observer's own addresses or routes changed."},
	{PathChanged, "path_changed", []disconnect.Initiator{client, agent}, "The connection moved to another path; text names both."},
	{RelayLost, "relay_lost", []disconnect.Initiator{client, agent}, "The observer lost its relay, ref; cause if the relay said goodbye."},
	{RelayClientGone, "relay_client_gone", []disconnect.Initiator{server, relay}, "The relay lost whom it is about; cause if there was a goodbye."},
	{LegAlive, "leg_alive", anyone, "That other leg was in order from at until until."},
	{CertificateBad, "certificate_bad", []disconnect.Initiator{server}, "The server's own check of its own certificate failed: text says why."},
	{Error, "error", anyone, "An error of the transport, as its layer judged it: cause."},
	{Resumed, "resumed", ends, "The connection worked again."},
}

var factByName = make(map[string]FactKind, len(factTable))

func init() {
	for _, info := range factTable {
		factByName[info.name] = info.kind
	}
}

// FactKinds returns the whole set.
func FactKinds() []FactKind {
	all := make([]FactKind, len(factTable))
	for i := range factTable {
		all[i] = factTable[i].kind
	}
	return all
}

// Valid reports whether k is a member of the set.
func (k FactKind) Valid() bool { return k != 0 && int(k) <= len(factTable) }

// String returns the kind's word.
func (k FactKind) String() string {
	if !k.Valid() {
		return fmt.Sprintf("fact(%d)", uint8(k))
	}
	return factTable[k-1].name
}

// Sentence explains the kind to a person.
func (k FactKind) Sentence() string {
	if !k.Valid() {
		return ""
	}
	return factTable[k-1].sentence
}

// Known reports whether an observer can know facts of this kind.
func (k FactKind) Known(by disconnect.Initiator) bool {
	return k.Valid() && slices.Contains(factTable[k-1].by, by)
}

// MarshalText returns the kind's word.
func (k FactKind) MarshalText() ([]byte, error) {
	if !k.Valid() {
		return nil, fmt.Errorf("%s is not a known kind of fact", k)
	}
	return []byte(k.String()), nil
}

// UnmarshalText is the inverse of [FactKind.MarshalText].
func (k *FactKind) UnmarshalText(b []byte) error {
	kind, ok := factByName[string(b)]
	if !ok {
		return fmt.Errorf("%q is not a known kind of fact", disconnect.Scrub(string(b)))
	}
	*k = kind
	return nil
}

// Outcome is how a former life ended, by its journal or its supervisor: a closed set.
type Outcome string

// Outcomes. The first group is what a journal tells, the second what a supervisor does.
const (
	Clean     Outcome = "clean"      // it closed its journal; the fact's cause says why it stopped
	Crashed   Outcome = "crashed"    // the journal just ends, on the same boot
	Panicked  Outcome = "panicked"   // it recorded its own panic
	OOMKilled Outcome = "oom_killed" // it just ends, and the kernel's count of kills had risen
	Rebooted  Outcome = "rebooted"   // another boot id: a reboot, a crash of the kernel or a power loss
	Suspended Outcome = "suspended"  // it was asleep when it was last seen

	ExitedInOrder Outcome = "success"
	ExitStatus    Outcome = "exit_status"
	Signaled      Outcome = "signal"
	CoreDumped    Outcome = "core_dump"
	OOMKiller     Outcome = "oom_kill"
	Watchdog      Outcome = "watchdog"
	Evicted       Outcome = "evicted"
)

var outcomes = []Outcome{
	Clean, Crashed, Panicked, OOMKilled, Rebooted, Suspended,
	ExitedInOrder, ExitStatus, Signaled, CoreDumped, OOMKiller, Watchdog, Evicted,
}

// Outcomes returns the whole set.
func Outcomes() []Outcome { return slices.Clone(outcomes) }

// Sender is who sent a signal that ended a session's process: a closed set.
type Sender string

// Senders. The zero value is anybody else: a signal that was not ours.
const (
	SentByTeardown Sender = "teardown" // we, while we ended the session for another reason
	SentByTerminal Sender = "terminal" // Ctrl-C and the like
	SentByClient   Sender = "client"   // a signal request over SSH
	SentByPipe     Sender = "pipe"     // its own broken pipe
)

var senders = []Sender{"", SentByTeardown, SentByTerminal, SentByClient, SentByPipe}
