package agent

import (
	"sync"

	"fairlead.dev/fairlead/disconnect"
)

// liveSessions are the sessions that are open, by connection id. The zero value is
// empty. All methods are safe for concurrent use; none waits.
type liveSessions struct {
	mu    sync.Mutex // guards all below
	byID  map[string]liveSession
	named map[sessionName]string // the id of each named session
}

type liveSession struct {
	end  func(disconnect.Attribution)
	name sessionName // zero: it has none
}

// sessionName is what one user calls a session.
type sessionName struct{ user, name string }

// add takes note of a session. A name that another session of the same user has is
// taken over: that one ends.
func (l *liveSessions) add(id, user, name string, end func(disconnect.Attribution)) {
	s := liveSession{end: end}
	if user != "" && name != "" {
		s.name = sessionName{user, name}
	}
	if former := l.put(id, s); former != nil {
		former(disconnect.Attribution{
			ConnectType: disconnect.AgentToClient, Reason: disconnect.SessionReplaced, Initiator: disconnect.Client,
			Detail: disconnect.Scrub(user + " began the session " + name + " anew"),
		})
	}
}

// put returns what ends the session whose name s takes over, if there is one.
func (l *liveSessions) put(id string, s liveSession) (former func(disconnect.Attribution)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.byID == nil {
		l.byID, l.named = make(map[string]liveSession), make(map[sessionName]string)
	}
	if s.name != (sessionName{}) {
		former = l.byID[l.named[s.name]].end
		l.named[s.name] = id
	}
	l.byID[id] = s
	return former
}

// remove forgets a session that has ended.
func (l *liveSessions) remove(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := l.byID[id]; l.named[s.name] == id {
		delete(l.named, s.name)
	}
	delete(l.byID, id)
}

// end ends one session, if it is open.
func (l *liveSessions) end(id string, a disconnect.Attribution) {
	l.mu.Lock()
	s, open := l.byID[id]
	l.mu.Unlock()
	if open {
		s.end(a)
	}
}
