package agentssh

import (
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"syscall"

	"fairlead.dev/fairlead/disconnect"
)

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
	oom    bool   // the kernel killed it, or something in it, for want of memory
}

// signalSource says who is known to have sent the signal that ended a process.
type signalSource string

const (
	sourceUnknown  signalSource = ""
	sourceClient   signalSource = "requested by the client"
	sourceTerminal signalSource = "typed at the terminal"
)

// killedStatus is what a shell exits with after a program that SIGKILL has ended.
const killedStatus = 128 + 9

// shellNotes are what shells mean by some exit statuses. A program may use them too,
// so they go into the detail only.
var shellNotes = map[int]string{126: "not_executable", 127: "not_found"}

// judgeExit says what the end of a session's process means when it came first.
// Signals of our own teardown never get here: the teardown's cause came first.
func judgeExit(st exitStatus, source signalSource) disconnect.Attribution {
	switch {
	case st.oom && st.signal != "":
		return attribute(disconnect.OOMKilled, disconnect.Agent, "the kernel killed the process for want of memory")
	case st.oom:
		return attribute(disconnect.OOMKilled, disconnect.Agent,
			"the kernel killed for want of memory, and the process exited with error status: "+strconv.Itoa(st.code))
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

// startText is what the user reads of it.
func startText(err error) string {
	if a, ok := disconnect.FromError(err); ok {
		return a.Reason.String() + ": " + a.Detail
	}
	return err.Error()
}

// tooLong says that the host takes no command line and environment of this length; it is
// the client's doing if most of that came from there.
func (s *session) tooLong(line string, cmd *exec.Cmd, err error) error {
	all, longest, theirs := 0, 0, len(line)
	for _, part := range append(cmd.Args[:len(cmd.Args):len(cmd.Args)], cmd.Env...) {
		all, longest = all+len(part), max(longest, len(part))
	}
	for _, variable := range s.env {
		theirs += len(variable)
	}
	who := disconnect.Agent
	if theirs > all/2 {
		who = disconnect.Client
	}
	return &disconnect.EndedError{Attribution: attribute(disconnect.LimitExceeded, who, fmt.Sprintf(
		"the command and its environment are too long for this host: %d bytes, the longest part of which has %d", all, longest)), Err: err}
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
