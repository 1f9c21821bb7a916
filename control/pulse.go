package control

import (
	"time"

	"fairlead.dev/fairlead/clock"
	"fairlead.dev/fairlead/control/proto"
	"fairlead.dev/fairlead/disconnect"
)

// pulse decides when to send a heartbeat and when the other end has been silent for
// too long. It holds no clock and no lock.
type pulse struct {
	every, silence time.Duration
	beat           time.Time // when the next heartbeat is due
	due            time.Time // when the next tick is due
}

// verdict is what one tick found.
type verdict struct {
	send   bool          // a heartbeat is due
	dead   bool          // nothing was heard for the time of silence
	paused bool          // the tick is so late that this process must have stood still
	wait   time.Duration // until the next tick
}

// tick judges the moment now, when bytes were last heard at heard. After a pause of
// this very process what the other end sent meanwhile is still in the socket, so that
// a pause counts as having heard.
func (p *pulse) tick(now, heard time.Time) verdict {
	v := verdict{paused: !p.due.IsZero() && now.Sub(p.due) > max(p.every, time.Second)}
	if v.paused {
		heard = now
	}
	if v.dead = now.Sub(heard) >= p.silence; v.dead {
		return v
	}
	if v.send = !now.Before(p.beat); v.send {
		p.beat = now.Add(p.every)
	}
	p.due = heard.Add(p.silence)
	if p.beat.Before(p.due) {
		p.due = p.beat
	}
	v.wait = p.due.Sub(now)
	return v
}

// startPulse starts the ticks; the first comes one heartbeat from now.
func (l *Link) startPulse() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.quiet {
		return
	}
	now := time.Now()
	l.pulse.beat = now.Add(l.pulse.every)
	v := l.pulse.tick(now, now)
	l.timer = time.AfterFunc(v.wait, l.tick)
}

// stopPulse stops the ticks and waits for one that runs.
func (l *Link) stopPulse() {
	l.mu.Lock()
	l.quiet = true
	if l.timer != nil {
		l.timer.Stop()
	}
	l.mu.Unlock()
	l.ticks.Wait()
}

// tick is the timer's function. The next tick is set before anything is sent, so that
// a send that blocks does not keep silence from being noticed.
func (l *Link) tick() {
	l.mu.Lock()
	if l.quiet || l.ended {
		l.mu.Unlock()
		return
	}
	heard := l.born // before the hello nothing else counts
	if l.greeted.happened() {
		heard = l.born.Add(time.Duration(max(l.heard.Load(), l.excused.Load())))
	}
	v := l.pulse.tick(time.Now(), heard)
	if v.paused {
		l.excused.Store(int64(time.Since(l.born)))
	}
	if !v.dead {
		l.timer.Reset(v.wait)
	}
	l.ticks.Add(1)
	l.mu.Unlock()
	defer l.ticks.Done()

	if v.paused && l.logger != nil {
		l.logger.Warn("this process stood still, control link gets more time")
	}
	switch {
	case v.dead:
		l.fellSilent()
	case v.send:
		l.beat()
	}
}

// fellSilent ends the link, and tells the other end in case it lives.
func (l *Link) fellSilent() {
	a := disconnect.Attribution{
		ConnectType: l.connectType, Reason: disconnect.NetworkTimeout, Initiator: disconnect.Network,
		Detail: "nothing heard for " + l.pulse.silence.String(),
	}
	if !l.greeted.happened() {
		a.Reason, a.Initiator = disconnect.SlowPeer, l.peer
		a.Detail = "no hello within " + l.pulse.silence.String()
	}
	l.end(Ending{Attribution: a})
	l.hangUp()
}

// beat sends a heartbeat, unless another frame is being sent: that tells as much.
func (l *Link) beat() {
	if !l.sendMu.TryLock() {
		return
	}
	defer l.sendMu.Unlock()
	l.beatLocked(false)
}

// beatLocked sends a heartbeat and returns its number; sendMu is held.
func (l *Link) beatLocked(answer bool) uint64 {
	if l.stream == nil {
		return 0
	}
	l.sequence++
	_ = l.stream.Send(&proto.LinkFrame{Frame: &proto.LinkFrame_Heartbeat{
		Heartbeat: &proto.Heartbeat{Sequence: l.sequence, Echo: l.echo.Load(), Answer: answer},
	}}) // a stream that cannot send cannot receive either, and that is noticed
	return l.sequence
}

// hear notes that bytes of the other end have come.
func (l *Link) hear() {
	l.heard.Store(int64(time.Since(l.born)))
	l.heardAt.Store(clock.Now().UnixNano())
}
