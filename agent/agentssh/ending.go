package agentssh

import (
	"errors"
	"strconv"
	"strings"
	"syscall"

	"fairlead.dev/fairlead/disconnect"
)

// DisconnectRequest is the global SSH request that tells the other end why the
// connection is about to end; x/crypto/ssh cannot send a disconnect message. Its
// payload is uint32 reason, uint32 initiator, string detail.
const DisconnectRequest = "disconnect@fairlead.dev"

// disconnectPayload is what DisconnectRequest carries, in SSH encoding.
type disconnectPayload struct {
	Reason    uint32
	Initiator uint32
	Detail    string
}

func attribute(r disconnect.Reason, i disconnect.Initiator, detail string) disconnect.Attribution {
	return disconnect.Attribution{
		ConnectType: disconnect.AgentToClient, Reason: r, Initiator: i, Detail: disconnect.Scrub(detail),
	}
}

// exitStatus is how a process ended.
type exitStatus struct {
	code   int    // exit status, or 128 + signal number
	signal string // "" or a name without SIG, as in "TERM"
	core   bool   // it dumped core
}

// signalSource says who is known to have sent the signal that ended a process.
type signalSource string

const (
	sourceUnknown  signalSource = ""
	sourceClient   signalSource = "requested by the client"
	sourceTerminal signalSource = "typed at the terminal"
)

// shellNotes are what shells mean by some exit statuses. A program may use them too,
// so they go into the detail only.
var shellNotes = map[int]string{126: "not_executable", 127: "not_found"}

// judgeExit says what the end of a session's process means when it came first.
// Signals of our own teardown never get here: the teardown's cause came first.
func judgeExit(st exitStatus, source signalSource) disconnect.Attribution {
	switch {
	case st.signal != "":
		return judgeSignal(st, source)
	case st.code == 0:
		return attribute(disconnect.Graceful, disconnect.Agent, "normal exit")
	}
	detail := "process exited with error status: " + strconv.Itoa(st.code)
	if note, ok := shellNotes[st.code]; ok {
		detail += " (" + note + ")"
	} else if n := st.code - 128; n > 0 && n <= 64 {
		detail += " (signal_" + strconv.Itoa(n) + "_in_shell)"
	}
	return attribute(disconnect.ProcessExited, disconnect.Agent, detail)
}

func judgeSignal(st exitStatus, source signalSource) disconnect.Attribution {
	name := "SIG" + st.signal
	if source != sourceUnknown {
		return attribute(disconnect.ProcessExited, disconnect.Agent,
			"process exited on signal: "+name+" ("+string(source)+")")
	}
	detail := "process killed by signal: " + name
	if st.core {
		detail += " (core dumped)"
	}
	switch st.signal {
	case "PIPE": // its reader went away: the ordinary end of a writer
		return attribute(disconnect.ProcessExited, disconnect.Agent,
			"process exited on signal: "+name+" (its own pipe)")
	case "XCPU", "XFSZ":
		return attribute(disconnect.ResourceExhausted, disconnect.Agent, detail)
	case "SEGV", "ABRT", "BUS", "FPE", "ILL":
		return attribute(disconnect.ProcessSignaled, disconnect.Agent, "crash: "+detail)
	default:
		return attribute(disconnect.ProcessSignaled, disconnect.Agent, detail)
	}
}

// judgeStart says what a process that did not start means.
func judgeStart(err error) disconnect.Attribution {
	if a, ok := disconnect.FromError(err); ok {
		return a
	}
	if exhausted(err) {
		return attribute(disconnect.ResourceExhausted, disconnect.Agent, err.Error())
	}
	return attribute(disconnect.InternalError, disconnect.Agent, err.Error())
}

// exhausted reports whether the host ran out of something that may come back.
func exhausted(err error) bool {
	for _, errno := range []syscall.Errno{
		syscall.EAGAIN, syscall.ENOMEM, syscall.EMFILE, syscall.ENFILE, syscall.ENOSPC,
	} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// disconnectCode reads an SSH disconnect message back from x/crypto/ssh, whose type
// for it is not exported: `ssh: disconnect, reason 11: "disconnected by user"`.
func disconnectCode(err error) (code uint32, text string, ok bool) {
	if err == nil {
		return 0, "", false
	}
	rest, ok := strings.CutPrefix(err.Error(), "ssh: disconnect, reason ")
	if !ok {
		return 0, "", false
	}
	number, quoted, _ := strings.Cut(rest, ": ")
	n, perr := strconv.ParseUint(number, 10, 32)
	if perr != nil {
		return 0, "", false
	}
	if text, perr = strconv.Unquote(quoted); perr != nil {
		text = quoted
	}
	return uint32(n), text, true
}

// judgeDisconnect says what a disconnect message (RFC 4253 section 11.1) from a
// client means. A client that complains of our bytes names us.
func judgeDisconnect(code uint32, text string) disconnect.Attribution {
	detail := "ssh disconnect " + strconv.FormatUint(uint64(code), 10) + ": " + text
	verdict := func(r disconnect.Reason, i disconnect.Initiator) disconnect.Attribution {
		return attribute(r, i, detail)
	}
	switch code {
	case 11, 13: // by application, authentication cancelled by user
		return verdict(disconnect.ClientClosed, disconnect.Client)
	case 1, 14, 15: // host not allowed, no more authentication methods, illegal user
		return verdict(disconnect.AuthFailed, disconnect.Client)
	case 2, 5, 6: // protocol, MAC and compression errors
		return verdict(disconnect.ProtocolError, disconnect.Agent)
	case 3, 8: // key exchange failed, version not supported
		return verdict(disconnect.VersionMismatch, disconnect.Client)
	case 7: // service not available
		return verdict(disconnect.ResourceExhausted, disconnect.Client)
	case 9: // host key not verifiable
		return verdict(disconnect.TLSFailure, disconnect.Network)
	case 10: // connection lost
		return verdict(disconnect.NetworkError, disconnect.Network)
	case 12: // too many connections
		return verdict(disconnect.LimitExceeded, disconnect.Client)
	default:
		return verdict(disconnect.ProtocolError, disconnect.Client)
	}
}
