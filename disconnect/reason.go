package disconnect

import (
	"fmt"
	"iter"
	"maps"
	"slices"
	"strconv"
)

// Reason is a category from the closed set of why a connection ended. Its numeric
// value is stable: it is sent on the wire, stored, and added to 4000 to make a
// WebSocket close code. Numbers of reasons that no code produces yet are reserved.
type Reason uint8

// Reasons. What each one means, and whether it is expected, stands in reasonTable.
const (
	Unknown Reason = 0

	Graceful        Reason = 10
	ClientClosed    Reason = 11
	ProcessExited   Reason = 12
	SessionReplaced Reason = 13
	PathMigrated    Reason = 14
	Suspended       Reason = 15

	ServerShutdown   Reason = 20
	WorkspaceStopped Reason = 21
	AdminTerminated  Reason = 22
	IdleTimeout      Reason = 23
	SessionLimit     Reason = 24
	AuthRevoked      Reason = 25
	AuthExpired      Reason = 26

	AuthFailed        Reason = 30
	LimitExceeded     Reason = 31
	VersionMismatch   Reason = 32
	DuplicateAgent    Reason = 33
	ConnectionRefused Reason = 34
	PolicyDenied      Reason = 35

	ProcessSignaled   Reason = 40
	OOMKilled         Reason = 41
	WorkspaceEvicted  Reason = 42
	PeerCrashed       Reason = 43
	PeerUnresponsive  Reason = 44
	SlowPeer          Reason = 45
	ResourceExhausted Reason = 46
	InternalError     Reason = 47
	HostPaused        Reason = 48

	NetworkError       Reason = 50
	NetworkTimeout     Reason = 51
	ConnectionReset    Reason = 52
	NetworkUnreachable Reason = 53
	DNSFailure         Reason = 54
	TLSFailure         Reason = 55
	RelayLost          Reason = 56

	ProtocolError Reason = 60
)

type reasonInfo struct {
	reason   Reason
	name     string
	expected bool
	sentence string
}

// reasonTable is the closed set in ascending order of number.
var reasonTable = []reasonInfo{
	{Unknown, "unknown", false, "There is no evidence of why the connection ended; this is always a bug in Fairlead."},
	{Graceful, "graceful", true, "The connection did its work and both ends closed it in order, without an error."},
	{ClientClosed, "client_closed", true, "The client left on purpose while the session could have gone on."},
	{ProcessExited, "process_exited", true, "The remote process ended by itself with a status other than zero; the connection did its job."},
	{SessionReplaced, "session_replaced", true, "The same user began a session of the same name, which took this one's place."},
	{PathMigrated, "path_migrated", true, "The connection moved to another path or address and went on; an interruption, never an ending."},
	{Suspended, "suspended", true, "The client's host slept or its process was stopped, or another host slept as it had announced."},
	{ServerShutdown, "server_shutdown", true, "The agent or server that served this connection was stopping; the connection was healthy."},
	{WorkspaceStopped, "workspace_stopped", true, "Somebody who may stopped or deleted the workspace."},
	{AdminTerminated, "admin_terminated", true, "An operator, whom the detail names, ended this one connection."},
	{IdleTimeout, "idle_timeout", true, "Nothing passed through the session for as long as its policy allows."},
	{SessionLimit, "session_limit", true, "The session had lasted for as long as its policy allows."},
	{AuthRevoked, "auth_revoked", true, "The token, the account or the permission behind the connection was withdrawn while it was open."},
	{AuthExpired, "auth_expired", true, "The credential behind the connection reached its end while it was open, and was not renewed."},
	{AuthFailed, "auth_failed", false, "The identity was not accepted."},
	{LimitExceeded, "limit_exceeded", false, "A quota, rate or connection limit was exceeded."},
	{VersionMismatch, "version_mismatch", false, "The two ends have no protocol version in common."},
	{DuplicateAgent, "duplicate_agent", false, "Two live agents, or relays, had the same identity; the older one was told to stop."},
	{ConnectionRefused, "connection_refused", false, "The host answered, but nothing is listening there."},
	{PolicyDenied, "policy_denied", true, "The workspace's policy does not allow what was asked for; nothing was wrong with the connection."},
	{ProcessSignaled, "process_signaled", false, "A signal that Fairlead did not send killed the session's process."},
	{OOMKilled, "oom_killed", false, "The kernel killed the session's process, or the agent, because memory had run out."},
	{WorkspaceEvicted, "workspace_evicted", false, "The platform took the workspace's host away, as it had given notice of."},
	{PeerCrashed, "peer_crashed", false, "The other process or its host died without saying goodbye."},
	{PeerUnresponsive, "peer_unresponsive", false, "The other end's host answered, but its program did not: it hung, or was overloaded."},
	{SlowPeer, "slow_peer", false, "The other end did not read, or did not finish its handshake, in the time allowed."},
	{ResourceExhausted, "resource_exhausted", false, "A host ran out of file descriptors, memory, disk or ports."},
	{InternalError, "internal_error", false, "A bug: a panic, a failed self-check or an unexpected handler error."},
	{HostPaused, "host_paused", false, "The agent or the server, or its host, was paused without having announced it."},
	{NetworkError, "network_error", false, "The transport broke without a goodbye and without better evidence."},
	{NetworkTimeout, "network_timeout", false, "The other end was silent for longer than allowed; nothing proves that it died."},
	{ConnectionReset, "connection_reset", false, "A TCP reset ended the connection; the other end or a box between may have sent it."},
	{NetworkUnreachable, "network_unreachable", false, "There was no route to the other end, or a link was down."},
	{DNSFailure, "dns_failure", false, "A host name did not resolve."},
	{TLSFailure, "tls_failure", false, "A certificate or a TLS handshake was not acceptable."},
	{RelayLost, "relay_lost", false, "The relay was lost without a goodbye, and there was no other path."},
	{ProtocolError, "protocol_error", false, "Bytes arrived that were not valid in the protocol."},
}

// reserved holds the numbers whose reasons no code produces yet, so that nothing
// else takes them.
var reserved = map[Reason]string{}

var (
	reasonByNumber [256]*reasonInfo
	reasonByName   = make(map[string]Reason, len(reasonTable))
)

func init() {
	for i := range reasonTable {
		info := &reasonTable[i]
		reasonByNumber[info.reason] = info
		reasonByName[info.name] = info.reason
	}
}

// Reasons returns the whole set in ascending order of number.
func Reasons() []Reason {
	all := make([]Reason, len(reasonTable))
	for i := range reasonTable {
		all[i] = reasonTable[i].reason
	}
	return all
}

// ReservedReasons returns the numbers, ascending, and words of the reasons that no
// code produces yet. They are not members of the set.
func ReservedReasons() iter.Seq2[Reason, string] {
	return func(yield func(Reason, string) bool) {
		for _, r := range slices.Sorted(maps.Keys(reserved)) {
			if !yield(r, reserved[r]) {
				return
			}
		}
	}
}

// MayInterrupt reports whether a connection may be interrupted for that reason and go on.
func (r Reason) MayInterrupt() bool {
	switch r {
	case PathMigrated, Suspended, ServerShutdown:
		return true
	}
	return PeerCrashed <= r && r <= HostPaused || NetworkError <= r && r < ProtocolError
}

// String returns the reason's word, or "reason(N)" for a number outside the set.
func (r Reason) String() string {
	if info := reasonByNumber[r]; info != nil {
		return info.name
	}
	return "reason(" + strconv.Itoa(int(r)) + ")"
}

// Valid reports whether r is a member of the set.
func (r Reason) Valid() bool { return reasonByNumber[r] != nil }

// Expected reports whether an ending for this reason is normal operation. A
// number outside the set is not.
func (r Reason) Expected() bool {
	info := reasonByNumber[r]
	return info != nil && info.expected
}

// Sentence explains the reason to a person.
func (r Reason) Sentence() string {
	if info := reasonByNumber[r]; info != nil {
		return info.sentence
	}
	return "The other end gave a reason that this version does not know."
}

// ParseReason is the inverse of [Reason.String] for members of the set.
func ParseReason(s string) (Reason, error) {
	if r, ok := reasonByName[s]; ok {
		return r, nil
	}
	return Unknown, fmt.Errorf("parse reason: %q is not a known reason", s)
}
