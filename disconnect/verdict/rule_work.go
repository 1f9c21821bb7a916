package verdict

import (
	"strconv"

	"fairlead.dev/fairlead/disconnect"
)

// workEndedFirst is R1: the session's process ended before anything else did.
func workEndedFirst(h *hearing) (finding, bool) {
	c := h.first()
	if c == nil || !c.exit || c.late {
		return finding{}, false
	}
	f := h.fromCause(c)
	if c.Reason == disconnect.OOMKilled {
		for s := range h.of(OOMKill) {
			f.rest(s)
		}
	}
	return f, true
}

// exitOf reads how a process ended. What our own teardown killed did not end by itself.
func (h *hearing) exitOf(s *sighting) (a disconnect.Attribution, ok bool) {
	f := s.fact
	a = disconnect.Attribution{ConnectType: h.leg, Initiator: agent, Detail: f.Text}
	killed := f.Signal == "KILL" || (f.Signal == "" && f.ExitCode != nil && *f.ExitCode == 137)
	switch {
	case f.SentBy == SentByTeardown, h.stoppedWithAgent(s):
		return a, false
	case killed && f.SentBy == "" && h.memoryRanOut():
		a.Reason = disconnect.OOMKilled
	case f.Signal == "XCPU" || f.Signal == "XFSZ":
		a.Reason = disconnect.ResourceExhausted
	case f.Signal != "" && f.SentBy == "":
		a.Reason = disconnect.ProcessSignaled
	case f.Signal != "":
		a.Reason = disconnect.ProcessExited
	case f.ExitCode == nil:
		return a, false
	case *f.ExitCode == 0:
		a.Reason = disconnect.Graceful
	default:
		a.Reason = disconnect.ProcessExited
	}
	if a.Detail == "" {
		a.Detail = exitDetail(f)
	}
	return a, true
}

// stopsTogether is within what time a service manager stops all that belongs to an agent.
const stopsTogether = 1_000_000

// stoppedWithAgent reports whether the process was killed by what stopped the agent itself
// in the same second: a service manager signals all of them at once.
func (h *hearing) stoppedWithAgent(s *sighting) bool {
	if s.fact.SentBy != "" || (s.fact.Signal != "TERM" && s.fact.Signal != "HUP" && s.fact.Signal != "KILL") {
		return false
	}
	for o := range h.of(OwnCause) {
		if o.observer == agent && s.observer == agent && o.fact.Cause.Reason == disconnect.ServerShutdown &&
			o.at-s.at < stopsTogether && s.at-o.at < stopsTogether {
			return true
		}
	}
	return false
}

func exitDetail(f *Fact) string {
	switch {
	case f.Signal != "" && f.SentBy != "":
		return "exit_signal=" + f.Signal + " sent_by=" + string(f.SentBy)
	case f.Signal != "":
		return "process killed by signal: SIG" + f.Signal
	case *f.ExitCode == 0:
		return "normal exit"
	case *f.ExitCode == 126:
		return "not_executable"
	case *f.ExitCode == 127:
		return "not_found"
	default:
		return "process exited with error status: " + strconv.Itoa(int(*f.ExitCode))
	}
}

// memoryRanOut reports whether the kernel's count of processes that it killed for want of
// memory rose.
func (h *hearing) memoryRanOut() bool {
	for s := range h.of(OOMKill) {
		if h.ownLeg(s) && h.atOnset(s) {
			return true
		}
	}
	return false
}
