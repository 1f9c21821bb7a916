package explain

import (
	"cmp"
	"strconv"
	"time"

	d "fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/verdict"
)

// says is what a witness has to say, without its subject and its time: the predicate of a
// sentence about whoever saw it.
func (s *story) says(item *verdict.Item) string {
	for _, tell := range [...]func(*story, *verdict.Item) string{
		(*story).saysDeclared, (*story).saysOfWork, (*story).saysOfPeer, (*story).saysOfHost, (*story).saysOfNetwork,
	} {
		if text := tell(s, item); text != "" {
			return text
		}
	}
	return "saw something that this version does not know"
}

// clauseOf is a cause as a clause, without a time.
func (s *story) clauseOf(a d.Attribution) string {
	if a.ConnectType == 0 {
		a.ConnectType = s.v.ConnectType
	}
	v := verdict.Verdict{Kind: verdict.Ending, Attribution: a}
	if a.Reason == d.ProcessExited || a.Reason == d.ProcessSignaled {
		v.ExitCode, v.ExitSignal = s.v.ExitCode, s.v.ExitSignal
	}
	told := story{v: &v, viewer: s.viewer, now: s.now}
	return told.happened()
}

// saysDeclared is of what somebody decided, or judged.
func (s *story) saysDeclared(item *verdict.Item) string {
	f := &item.Fact
	switch f.Kind {
	case verdict.Account:
		return "judged: " + s.clauseOf(f.Cause)
	case verdict.GoodbyeReceived:
		return "was told by " + s.process(f.About) + ": " + s.clauseOf(f.Cause)
	case verdict.GoodbyeSent:
		return "said goodbye: " + s.clauseOf(f.Cause)
	case verdict.OwnCause:
		return "ended it: " + s.clauseOf(f.Cause)
	case verdict.StopOrder:
		if item.Source == d.Server {
			return "decided: " + s.clauseOf(f.Cause)
		}
		return "was told by the server: " + s.clauseOf(f.Cause)
	case verdict.PlatformNotice:
		return "had notice from the platform: " + s.clauseOf(f.Cause)
	case verdict.Error:
		return "met an error: " + s.clauseOf(f.Cause)
	case verdict.StatusOK:
		return "saw the other end finish in order"
	}
	return ""
}

// saysOfWork is of the session's own process.
func (s *story) saysOfWork(item *verdict.Item) string {
	f := &item.Fact
	switch f.Kind {
	case verdict.ProcessExit:
		switch {
		case f.Signal != "" && f.SentBy == verdict.SentByTeardown:
			return "ended the program, for the session was over"
		case f.Signal != "" && f.SentBy != "":
			return "saw the program end by signal " + d.Scrub(f.Signal) + ", which came from the session itself"
		case f.Signal != "":
			return "saw the program be killed by signal " + d.Scrub(f.Signal)
		case f.ExitCode != nil:
			return "saw the program end with status " + strconv.Itoa(int(*f.ExitCode))
		}
		return "saw the program end"
	case verdict.OOMKill:
		return "saw its kernel kill a program because memory had run out"
	case verdict.ParentKilled:
		return "saw that the program that it served was killed"
	}
	return ""
}

// saysOfPeer is of another party.
func (s *story) saysOfPeer(item *verdict.Item) string {
	f := &item.Fact
	about := s.process(f.About)
	switch f.Kind {
	case verdict.SocketClosed:
		return "saw the system of " + about + " close the connection without a goodbye"
	case verdict.SocketReset:
		return "was sent a reset in place of what " + about + " had to say"
	case verdict.CloseDenied:
		return "had neither closed nor reset anything by then"
	case verdict.HeartbeatSilence:
		return "heard nothing of " + about + s.until(item)
	case verdict.ProbeAnswered:
		text := "was answered by the host of " + about + ", though not by its program"
		if f.Proxied {
			text += "; that may have been a box between"
		}
		return text
	case verdict.HeardAgain:
		return "heard " + about + " again"
	case verdict.NewInstance:
		return "met a new process in the place of " + about
	case verdict.RelayClientGone:
		return "lost " + about
	case verdict.Supervisor:
		return "was told by the system how " + about + " had ended: " + outcome(f.Outcome)
	}
	return ""
}

// saysOfHost is of the witness's own process and host.
func (s *story) saysOfHost(item *verdict.Item) string {
	f := &item.Fact
	switch f.Kind {
	case verdict.Obituary:
		return "found how its former process had ended: " + outcome(f.Outcome)
	case verdict.Slept:
		return "slept" + s.until(item)
	case verdict.TimerLate:
		return "stood still" + s.until(item)
	case verdict.SleepAnnounced:
		return "was going to sleep"
	case verdict.CertificateBad:
		return "found that its own certificate was not valid"
	}
	return ""
}

// saysOfNetwork is of links and paths.
func (s *story) saysOfNetwork(item *verdict.Item) string {
	f := &item.Fact
	switch f.Kind {
	case verdict.LinkDown:
		return "had no network" + s.until(item)
	case verdict.LinkChanged:
		return "changed its network"
	case verdict.PathChanged:
		return "moved to another path"
	case verdict.RelayLost:
		return "lost its relay"
	case verdict.LegAlive:
		leg := story{v: &verdict.Verdict{Attribution: d.Attribution{ConnectType: f.Leg}}, viewer: s.viewer, now: s.now}
		return "found " + leg.link() + " in order" + s.until(item)
	case verdict.Resumed:
		return "had it work again"
	}
	return ""
}

// outcome is how a life ended.
func outcome(o verdict.Outcome) string {
	switch o {
	case verdict.Clean, verdict.ExitedInOrder:
		return "in order"
	case verdict.Crashed:
		return "it was killed or crashed"
	case verdict.Panicked:
		return "it failed because of a fault in it"
	case verdict.OOMKilled, verdict.OOMKiller:
		return "it was killed because memory had run out"
	case verdict.Rebooted:
		return "its host restarted or lost power"
	case verdict.Suspended:
		return "it was asleep"
	case verdict.ExitStatus:
		return "with an error status"
	case verdict.Signaled:
		return "by a signal"
	case verdict.CoreDumped:
		return "it crashed"
	case verdict.Watchdog:
		return "it was killed because it had hung"
	case verdict.Evicted:
		return "its host was taken away"
	}
	return "in a way that this version does not know"
}

// until is when something was over.
func (s *story) until(item *verdict.Item) string {
	if item.Until.IsZero() || !item.Until.After(item.At) {
		return ""
	}
	return " until " + s.second(item.Until)
}

// second tells a time to the second, with the day if it is not today.
func (s *story) second(t time.Time) string {
	zone := cmp.Or(s.viewer.Zone, time.UTC)
	t, now := t.In(zone), s.now.In(zone)
	if t.Year() == now.Year() && t.YearDay() == now.YearDay() {
		return t.Format("15:04:05")
	}
	return t.Format("2006-01-02 15:04:05")
}
