package server

import (
	"fmt"
	"math"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/sdk"
	"fairlead.dev/fairlead/server/auth"
)

const (
	// What an address may fail at once, and how long one unit of it takes to come back.
	failedBurst = 200
	failedEvery = 600 * time.Millisecond
	// What failures cost. A token is too long to be guessed, and a fleet of agents may
	// have a withdrawn one; a one-time code is what a person can type.
	tokenCost = 1
	codeCost  = 10
	// maxAddresses bounds how many addresses' failures are remembered. Beyond it the
	// rest share one allowance.
	maxAddresses = 8192
	// maxConns bounds the TCP connections of one address that are neither control links
	// nor a relay's.
	maxConns = 1024
	// DefaultMaxLinksPerUser and DefaultMaxLinksPerAddress bound control links: one is
	// one agent, or one client that runs.
	DefaultMaxLinksPerUser    = 2048
	DefaultMaxLinksPerAddress = 8192
	// linkRetry is what somebody with too many control links is told to wait.
	linkRetry = 10 * time.Second
	// What may follow the connection log at once: one user, and all of them.
	maxFollowsPerUser = 16
	maxFollows        = 256
)

// limited is a refusal of what would be welcome later.
type limited struct {
	refusal
	after time.Duration
}

// Unwrap lets a limited be answered as any refusal.
func (l *limited) Unwrap() error { return &l.refusal }

// tooMany refuses with limit_exceeded: what there is too much of, and when to try again.
func tooMany(what string, after time.Duration) error {
	after = time.Duration(math.Ceil(after.Seconds())) * time.Second
	return &limited{refusal{
		http.StatusTooManyRequests, sdk.CodeLimitExceeded, fmt.Sprintf("%s: try again in %v", what, after), disconnect.LimitExceeded,
	}, after}
}

// setRetryAfter tells when to try again, in whole seconds.
func (l *limited) setRetryAfter(h http.Header) {
	h.Set("Retry-After", strconv.Itoa(int(l.after.Seconds())))
}

// limits are what one address, and one principal, may do at once. The state is in
// memory only.
type limits struct {
	now                func() time.Time
	perUser, perSource int
	followPatience     time.Duration // for one write to somebody who follows the log
	refusals           *rate.Limiter // that are written down
	strangers          *rate.Limiter // whose failed dials are written down

	mu       sync.Mutex // guards the maps and rest
	failures map[netip.Prefix]*rate.Limiter
	rest     *rate.Limiter // of the addresses beyond maxAddresses; nil: there were none
	links    map[string]int
}

func newLimits(opts Options) *limits {
	return &limits{
		now: opts.Now, perUser: opts.MaxLinksPerUser, perSource: opts.MaxLinksPerAddress,
		followPatience: defaultFollowPatience, refusals: rate.NewLimiter(1, refusalBurst), strangers: rate.NewLimiter(1, refusalBurst),
		failures: map[netip.Prefix]*rate.Limiter{}, links: map[string]int{},
	}
}

// refusalBurst is how many refused control links are written down at once, and one a second
// after that: somebody who floods the server does not flood its log.
const refusalBurst = 30

// source is what counts as one address: an IPv6 host can have any of its network's.
func source(remoteAddr string) netip.Prefix {
	addr, err := netip.ParseAddrPort(remoteAddr)
	if err != nil {
		return netip.Prefix{} // all of these share one allowance
	}
	ip, bits := addr.Addr().Unmap().WithZone(""), 32
	if ip.Is6() {
		bits = 64
	}
	return netip.PrefixFrom(ip, bits).Masked()
}

// mayTry refuses an address that has failed to log in too often.
func (l *limits) mayTry(remoteAddr string, cost int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	bucket := l.failures[source(remoteAddr)]
	if bucket == nil && len(l.failures) >= maxAddresses {
		bucket = l.rest
	}
	if bucket == nil {
		return nil
	}
	if missing := float64(cost) - bucket.TokensAt(l.now()); missing > 0 {
		return tooMany("too many failed logins from this address", time.Duration(missing*float64(failedEvery)))
	}
	return nil
}

// failed counts a wrong token or code, and returns err, or what says that there were
// too many. A right token is never refused for the failures of others at its address.
func (l *limits) failed(remoteAddr string, cost int, err error) error {
	if refused := l.mayTry(remoteAddr, cost); refused != nil {
		return refused
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.bucketLocked(source(remoteAddr)).AllowN(l.now(), cost)
	return err
}

func (l *limits) bucketLocked(from netip.Prefix) *rate.Limiter {
	if bucket := l.failures[from]; bucket != nil {
		return bucket
	}
	if len(l.failures) >= maxAddresses {
		l.forgetLocked()
	}
	if len(l.failures) >= maxAddresses {
		if l.rest == nil {
			l.rest = rate.NewLimiter(rate.Every(failedEvery), failedBurst)
		}
		return l.rest
	}
	bucket := rate.NewLimiter(rate.Every(failedEvery), failedBurst)
	l.failures[from] = bucket
	return bucket
}

// forgetLocked drops the addresses that have their whole allowance again.
func (l *limits) forgetLocked() {
	now := l.now()
	for from, bucket := range l.failures {
		if bucket.TokensAt(now) >= failedBurst {
			delete(l.failures, from)
		}
	}
}

// enter counts a control link of p from an address, or refuses it. done must be called
// when the link has ended.
func (l *limits) enter(p auth.Principal, remoteAddr string) (done func(), err error) {
	who, from := "user "+p.UserID, "address "+source(remoteAddr).String()
	if p.Kind == auth.KindAgent {
		who = "agent " + p.WorkspaceID
	}
	if p.Kind == auth.KindRelay {
		who = "relay " + p.RelayID
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.links[who] >= l.perUser:
		return nil, tooMany(fmt.Sprintf("%s has %d connections to this server already", p.UserName, l.perUser), linkRetry)
	case l.links[from] >= l.perSource:
		return nil, tooMany(fmt.Sprintf("this address has %d connections to this server already", l.perSource), linkRetry)
	}
	return l.countLocked(who, from), nil
}

// follow counts a reader of the connection log's feed, or refuses it. done must be
// called when it has ended.
func (l *limits) follow(p auth.Principal) (done func(), err error) {
	who, all := "follow "+p.UserID, "follow"
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.links[who] >= maxFollowsPerUser:
		return nil, tooMany(fmt.Sprintf("%s follows the connection log %d times already", p.UserName, maxFollowsPerUser), linkRetry)
	case l.links[all] >= maxFollows:
		return nil, tooMany(fmt.Sprintf("the connection log is followed %d times already", maxFollows), linkRetry)
	}
	return l.countLocked(who, all), nil
}

// countLocked counts one for each of the keys, until done is called.
func (l *limits) countLocked(keys ...string) (done func()) {
	for _, key := range keys {
		l.links[key]++
	}
	return sync.OnceFunc(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, key := range keys {
			if l.links[key]--; l.links[key] <= 0 {
				delete(l.links, key)
			}
		}
	})
}
