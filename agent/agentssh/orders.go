package agentssh

import (
	"sync"

	"fairlead.dev/fairlead/disconnect"
)

// orders are what the server wants of all sessions.
type orders struct {
	mu      sync.Mutex             // guards all below
	refuse  disconnect.Attribution // not zero: no new sessions, for this reason
	policy  Policy
	changed chan struct{} // closed and renewed when policy changes; nil: nobody waits
}

// Refuse ends every session and forward for that cause, and refuses new ones with it until
// Allow. It does not wait for them. A connection that has none stays: who opens one there
// is told.
func (s *Server) Refuse(a disconnect.Attribution) {
	a = a.On(disconnect.AgentToClient)
	s.orders.mu.Lock()
	s.orders.refuse = a
	s.orders.mu.Unlock()
	// A session that begins from here on finds the refusal.
	for _, c := range s.snapshot() {
		if c.busy() {
			c.stop(a)
		}
	}
}

// Allow lets sessions in again.
func (s *Server) Allow() {
	s.orders.mu.Lock()
	defer s.orders.mu.Unlock()
	s.orders.refuse = disconnect.Attribution{}
}

// refusal returns what a new session is refused with, if it is.
func (s *Server) refusal() (text string, refused bool) {
	s.orders.mu.Lock()
	defer s.orders.mu.Unlock()
	a := s.orders.refuse
	return a.Reason.String() + ": " + a.Detail, !a.IsZero()
}

// SetPolicy sets how long sessions may last, those that are open included.
func (s *Server) SetPolicy(p Policy) {
	s.orders.mu.Lock()
	defer s.orders.mu.Unlock()
	if s.orders.policy == p {
		return
	}
	s.orders.policy = p
	if s.orders.changed != nil {
		close(s.orders.changed)
		s.orders.changed = nil
	}
}

// currentPolicy returns the policy, and a channel that is closed when it changes.
func (s *Server) currentPolicy() (Policy, <-chan struct{}) {
	s.orders.mu.Lock()
	defer s.orders.mu.Unlock()
	if s.orders.changed == nil {
		s.orders.changed = make(chan struct{})
	}
	return s.orders.policy, s.orders.changed
}

// Announce shows a line to whoever sits at a terminal. It does not wait for them.
func (s *Server) Announce(text string) {
	for _, c := range s.snapshot() {
		c.announce(text)
	}
}

// busy reports whether the connection has a session that runs something, or a forward.
func (c *conn) busy() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.sessions)+len(c.forwards) > 0
}

// announce holds mu so that the sessions, and with them the connection's goroutines,
// are still there.
func (c *conn) announce(text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for s := range c.sessions {
		c.goroutines.Go(func() { s.warn(text) })
	}
}

// warn shows a line if somebody sits at a terminal.
func (s *session) warn(text string) {
	if s.pty != nil {
		s.say(text)
	}
}

// stop ends this session alone for cause a, unless another came first.
func (s *session) stop(a disconnect.Attribution) {
	s.stopOnce.Do(func() {
		s.claim(a.On(disconnect.AgentToClient))
		close(s.stopped)
	})
}

func (s *session) isStopped() bool {
	select {
	case <-s.stopped:
		return true
	default:
		return false
	}
}
