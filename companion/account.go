package companion

import (
	"slices"
	"time"

	"fairlead.dev/fairlead/clock"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/verdict"
)

// told is a last word on a stream, of which only the first counts.
type told struct {
	disconnect.Attribution
	by disconnect.Initiator
	at time.Duration // by the boot clock
}

// Moment is now, as a testimony holds it: by the wall clock, and by the boot clock, which
// all processes of a machine share.
func Moment() verdict.Moment {
	return verdict.Moment{Wall: clock.Now().Round(0), Mono: max(clock.Boot().Microseconds(), 1)}
}

// Testify adds to t what the watch saw of the agent up to noticed, when the end of the
// connection was: when it was heard last, whether it was silent then, what it or the server
// said last and what we said, and which life of it answered instead.
func (w *Watch) Testify(t *verdict.Testimony, noticed verdict.Moment) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now, wall := w.config.Clock().Boot, clock.Now().Round(0)
	at := func(boot time.Duration) verdict.Moment {
		return verdict.Moment{Wall: wall.Add(boot - now), Mono: max(boot.Microseconds(), 1)}
	}
	end := min(time.Duration(noticed.Mono)*time.Microsecond, now)
	if w.ended {
		end = min(end, w.endedAt)
	}
	heard := min(w.vigil.heard.Boot, end)
	t.LastGood, t.FirstNoticed = at(heard), at(end)
	if silence := end - heard; silence > 2*w.config.Heartbeat {
		t.FirstNoticed = at(heard + 2*w.config.Heartbeat)
		t.Facts = append(t.Facts, verdict.Fact{Kind: verdict.HeartbeatSilence, About: disconnect.Agent, At: at(heard)})
	}
	if f, gone := w.vigil.relayGone(heard, w.config.Clock()); gone {
		t.Facts = append(t.Facts, f)
	}
	if w.received.by != 0 {
		t.Facts = append(t.Facts, verdict.Fact{
			Kind: verdict.GoodbyeReceived, About: w.received.by, Cause: w.received.Attribution, At: at(w.received.at),
		})
	}
	if w.sent.by != 0 {
		t.Facts = append(t.Facts, verdict.Fact{
			Kind: verdict.GoodbyeSent, About: disconnect.Agent, Cause: w.sent.Attribution, At: at(w.sent.at),
		})
	}
	if w.replacedBy != "" {
		t.Facts = append(t.Facts, verdict.Fact{
			Kind: verdict.NewInstance, About: disconnect.Agent, Instance: w.replacedBy, At: at(w.replacedAt),
		})
	}
	t.Facts = slices.DeleteFunc(t.Facts, func(f verdict.Fact) bool {
		return (f.Kind == verdict.GoodbyeReceived || f.Kind == verdict.GoodbyeSent) && f.Cause.Reason == disconnect.Unknown
	})
}
