package agentssh

import (
	"time"

	"fairlead.dev/fairlead/disconnect"
)

// Policy says what sessions may do, and for how long. Zero times mean for ever.
type Policy struct {
	// IdleTimeout ends a session through which nothing passed for so long, either way.
	IdleTimeout time.Duration
	IdleRule    string // whose value that is, as in "the workspace's policy"
	// SessionLimit ends a session that has lasted so long.
	SessionLimit time.Duration
	LimitRule    string
	// NoFileTransfer refuses SFTP, and commands that are known to serve scp or rsync.
	// Whoever has a shell can copy by other means: it is no wall.
	NoFileTransfer bool
	// NoLocalForwarding refuses channels to what the workspace reaches, NoRemoteForwarding
	// what leads from the workspace to the client, its authentication agent and display
	// included. What is open goes on.
	NoLocalForwarding, NoRemoteForwarding bool
	// AcceptEnv has the names of variables that clients may set, separated by commas; one
	// may end in "*". "" means any. Our own are always taken.
	AcceptEnv string
}

const (
	// warning is how long before its end a session is told of it. One that may not
	// last twice as long is told half-way.
	warning = time.Minute
	// Traffic is looked at so often, at least: an idle session lives too long by that.
	shortestLook, longestLook = 20 * time.Millisecond, 10 * time.Second
)

// clock decides when a session ends by its policy. It looks at what has passed now and
// then, so that passing costs nothing.
type clock struct {
	policy      Policy
	began       time.Time
	active      time.Time // when traffic was last seen to have changed
	seen        uint64
	warnedIdle  bool
	warnedLimit bool
}

// verdict is what a clock says.
type verdict struct {
	end  disconnect.Attribution // not zero: the session is over
	warn string                 // not empty: to be told now
	next time.Duration          // when to look again; 0: not before the policy changes
}

// look says what is to be done now with a session through which traffic bytes passed.
func (k *clock) look(now time.Time, traffic uint64, p Policy) verdict {
	if p != k.policy {
		k.policy, k.warnedIdle, k.warnedLimit = p, false, false
	}
	if traffic != k.seen {
		k.seen, k.active, k.warnedIdle = traffic, now, false
	}
	var v verdict
	if p.SessionLimit > 0 {
		left := p.SessionLimit - now.Sub(k.began)
		if left <= 0 {
			return verdict{end: attribute(disconnect.SessionLimit, disconnect.Agent,
				"the session lasted "+p.SessionLimit.String()+", and "+p.LimitRule+" allows no more")}
		}
		v.take(left, p.SessionLimit, &k.warnedLimit, "for it lasts no longer than "+p.SessionLimit.String()+" by "+p.LimitRule)
	}
	if p.IdleTimeout > 0 {
		left := p.IdleTimeout - now.Sub(k.active)
		if left <= 0 {
			return verdict{end: attribute(disconnect.IdleTimeout, disconnect.Agent,
				"nothing passed through the session for "+p.IdleTimeout.String()+", and "+p.IdleRule+" allows no more")}
		}
		v.take(left, p.IdleTimeout, &k.warnedIdle, "unless something passes through it: it may idle for "+p.IdleTimeout.String()+" by "+p.IdleRule)
		v.sooner(min(max(p.IdleTimeout/16, shortestLook), longestLook))
	}
	return v
}

// take warns when no more than the warning time is left, and says when to look again.
func (v *verdict) take(left, whole time.Duration, warned *bool, why string) {
	lead := min(warning, whole/2)
	if left > lead {
		v.sooner(left - lead)
		return
	}
	if !*warned {
		*warned = true
		v.warn = "this session ends in " + rounded(left).String() + " " + why
	}
	v.sooner(left)
}

func (v *verdict) sooner(d time.Duration) {
	if v.next == 0 || d < v.next {
		v.next = d
	}
}

// rounded is a time as people say it.
func rounded(d time.Duration) time.Duration {
	if d < 10*time.Second {
		return d.Round(100 * time.Millisecond)
	}
	return d.Round(time.Second)
}

// keepTime ends the session when its policy says so, until it is over anyway.
func (s *session) keepTime() {
	now := time.Now()
	// An IDE's session is silent while its forwards are busy.
	traffic := func() uint64 { return s.bytes.total() + s.c.bytes.total() }
	k := clock{began: now, active: now, seen: traffic()}
	k.run(s.c.srv.currentPolicy, traffic, s.warn, s.stop, s.over)
}

// run looks at the clock whenever it is time, until over is closed or it has called
// end.
func (k *clock) run(policy func() (Policy, <-chan struct{}), traffic func() uint64,
	warn func(string), end func(disconnect.Attribution), over <-chan struct{}) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		p, changed := policy()
		v := k.look(time.Now(), traffic(), p)
		if !v.end.IsZero() {
			end(v.end)
			return
		}
		if v.warn != "" {
			warn(v.warn)
		}
		timer.Stop()
		if v.next > 0 {
			timer.Reset(v.next)
		}
		select {
		case <-timer.C:
		case <-changed:
		case <-over:
			return
		}
	}
}
