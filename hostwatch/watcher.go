package hostwatch

import (
	"context"
	"slices"
	"sync"
	"time"

	"fairlead.dev/fairlead/clock"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/verdict"
)

const (
	// tick is how often a watcher looks at its clocks.
	tick = time.Second
	// sleptAfter is the gap between the two clocks from which the machine slept.
	sleptAfter = 2 * time.Second
	// lateAfter is how late an own timer must be before it means that this process was
	// stopped. A process that is starved of CPU is late too, but seldom by that much.
	lateAfter = 4 * time.Second
	// settle is how long changes of the links are gathered before the watcher looks: they
	// come in bursts.
	settle = 20 * time.Millisecond

	maxRecords = 32
	maxAge     = 24 * time.Hour
)

// Reading is one moment by the host's clocks.
type Reading struct {
	Boot  time.Duration // goes on while the machine sleeps; nobody can set it
	Awake time.Duration // does not
	Wall  time.Time
}

// Moment is the reading as a testimony holds it.
func (r Reading) Moment() verdict.Moment { return r.at(r.Boot) }

// at is when the boot clock showed boot. The wall time follows from the present one, so
// that a clock that was set meanwhile does not put events in a wrong order.
func (r Reading) at(boot time.Duration) verdict.Moment {
	return verdict.Moment{Wall: r.Wall.Add(boot - r.Boot).Round(0), Mono: max(boot.Microseconds(), 1)}
}

var started = time.Now()

// Now reads the host's clocks.
func Now() Reading {
	for {
		before := time.Since(started)
		r := Reading{Boot: clock.Boot(), Wall: clock.Now()}
		// Stopped between two of them, the process would seem to have slept.
		if r.Awake = time.Since(started); r.Awake-before < 100*time.Millisecond {
			return r
		}
	}
}

// record is a fact, by the boot clock.
type record struct {
	kind     verdict.FactKind
	at, till time.Duration
	lasts    bool // till is not known yet
	iface    string
	text     string
}

// Watcher observes the host until it is closed. Its methods are safe for concurrent use;
// those of a nil Watcher know nothing.
type Watcher struct {
	read  func() Reading
	links links
	tell  sync.Mutex // guards nothing but the order of calls of subscribers

	mu          sync.Mutex // guards looked, records, way, subscribers, next
	looked      Reading
	records     []*record // oldest first
	way         way
	subscribers map[int]func()
	next        int

	stop context.CancelFunc
	done sync.WaitGroup
}

// Start starts to observe this host.
func Start() *Watcher { return start(Now, systemLinks{}) }

func start(read func() Reading, l links) *Watcher {
	ctx, stop := context.WithCancel(context.Background())
	w := &Watcher{read: read, links: l, stop: stop, looked: read(), way: l.out(), subscribers: map[int]func(){}}
	changed := make(chan struct{}, 1)
	w.done.Go(func() { l.follow(ctx, changed) })
	w.done.Go(func() { w.run(ctx, changed) })
	return w
}

// Close ends the observation. What was seen can still be asked for.
func (w *Watcher) Close() {
	if w == nil {
		return
	}
	w.stop()
	w.done.Wait()
}

// Subscribe has f called after the machine slept, this process was stopped, or the way out
// came back or became another one: what waits for the network tries at once then. f must
// not wait, and is not called again once unsubscribe has returned; from inside f it must
// not be called.
func (w *Watcher) Subscribe(f func()) (unsubscribe func()) {
	if w == nil {
		return func() {}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	id := w.next
	w.next++
	w.subscribers[id] = f
	return func() {
		w.tell.Lock()
		defer w.tell.Unlock()
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.subscribers, id)
	}
}

func (w *Watcher) run(ctx context.Context, changed <-chan struct{}) {
	timer := time.NewTicker(tick)
	defer timer.Stop()
	for {
		relook := false
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-changed:
			if !pause(ctx, settle) {
				return
			}
			relook = true
		}
		w.observe(relook)
	}
}

func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// observe looks at the clocks, and at the links if they may have changed.
func (w *Watcher) observe(links bool) {
	w.mu.Lock()
	now := w.read()
	news := w.lookLocked(now)
	if links || news {
		news = w.routeLocked(now, w.links.out()) || news
	}
	w.mu.Unlock()
	if !news {
		return
	}
	w.tell.Lock()
	defer w.tell.Unlock()
	for _, f := range w.subscribed() {
		f()
	}
}

func (w *Watcher) subscribed() (all []func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, f := range w.subscribers {
		all = append(all, f)
	}
	return all
}

// lookLocked notes whether this process ran since it last looked.
func (w *Watcher) lookLocked(now Reading) (news bool) {
	passed, awake := now.Boot-w.looked.Boot, now.Awake-w.looked.Awake
	since := w.looked.Boot
	w.looked = now
	switch {
	case passed-awake >= sleptAfter:
		w.keepLocked(now, &record{kind: verdict.Slept, at: since, till: now.Boot})
	case awake-tick >= lateAfter:
		w.keepLocked(now, &record{kind: verdict.TimerLate, at: since + tick, till: now.Boot})
	default:
		return false
	}
	return true
}

// keepLocked adds a record, and forgets what is old. What still goes on is not forgotten.
func (w *Watcher) keepLocked(now Reading, r *record) {
	w.records = slices.DeleteFunc(append(w.records, r), func(r *record) bool {
		return !r.lasts && now.Boot-r.till > maxAge
	})
	if len(w.records) > maxRecords {
		i := max(slices.IndexFunc(w.records, func(r *record) bool { return !r.lasts }), 0)
		w.records = slices.Delete(w.records, i, i+1)
	}
}

// Facts returns what was seen of the host that was still so at a time of its wall clock,
// or since, oldest first. Their moments have the boot clock in Mono; a testimony that has
// them should have [Clock] too.
func (w *Watcher) Facts(since time.Time) []verdict.Fact {
	if w == nil {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.read()
	w.lookLocked(now) // who asks may have been woken before the watcher was
	from := now.Boot - now.Wall.Round(0).Sub(since.Round(0))
	var facts []verdict.Fact
	for _, r := range w.records {
		if !r.lasts && r.till < from {
			continue
		}
		f := verdict.Fact{Kind: r.kind, At: now.at(r.at), Text: r.text, Ref: r.iface}
		if r.till > r.at {
			f.Until = now.at(r.till)
		}
		facts = append(facts, f)
	}
	return facts
}

// Clock returns both clocks of this moment, for a testimony with moments of these clocks.
func Clock() verdict.Clock { return Now().clock() }

func (r Reading) clock() verdict.Clock {
	m := r.Moment()
	return verdict.Clock{Wall: m.Wall, Mono: m.Mono}
}

// Before is how long before the last good moment of a connection something must have been
// over to have no part in its end.
const Before = time.Minute

// Explain says whether the host itself, on which self runs, is why nothing came any more on
// a connection that last worked at good, and that was seen not to work at noticed, by the
// wall clock: it slept, was stopped, or had no link. What it says is certain. A standstill
// shorter than patience, which the other end has before it closes the connection, is not why
// it did; 0: it did not.
func (w *Watcher) Explain(self disconnect.Initiator, on disconnect.ConnectType, good, noticed time.Time, patience time.Duration) (disconnect.Attribution, bool) {
	facts := slices.DeleteFunc(w.Facts(good.Add(-Before)), func(f verdict.Fact) bool {
		return (f.Kind == verdict.Slept || f.Kind == verdict.TimerLate) && f.Until.Wall.Sub(f.At.Wall) < patience
	})
	if len(facts) == 0 {
		return disconnect.Attribution{}, false
	}
	now := w.read()
	t := verdict.Testimony{
		Observer: self, ConnectType: on, Kind: verdict.Ending, Clock: now.clock(), Facts: facts,
		LastGood: verdict.Moment{Wall: good}, FirstNoticed: verdict.Moment{Wall: noticed},
	}
	t.Clock.Bound = 1 // there is one clock
	v := verdict.Judge([]verdict.Testimony{t}, verdict.Context{ConnectType: on, Now: now.Wall})
	return v.Attribution, v.Rule == verdict.R4 || v.Rule == verdict.R5
}
