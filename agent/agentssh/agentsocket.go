package agentssh

import (
	"net"
	"os"
	"path/filepath"

	"fairlead.dev/fairlead/disconnect"
)

// Forwarding of the client's authentication agent (draft-ietf-sshm-ssh-agent section 4, under
// the names that OpenSSH gives it).
const (
	agentRequest  = "auth-agent-req@openssh.com"
	agentArrived  = "auth-agent@openssh.com"
	agentVariable = "SSH_AUTH_SOCK"
	// agentAddress stands for the client's agent where a target's address does.
	agentAddress = "ssh-agent"
)

// agentSocket is where programs of one session reach the client's authentication agent.
type agentSocket struct {
	directory string // of its own, for nobody but the agent's user
	path      string
	listener  net.Listener
}

// openAgent makes a socket that leads to the client's authentication agent, for the session
// that will begin. A session has one.
func (s *session) openAgent() bool {
	if s.kind != "" || s.agent != nil {
		return false
	}
	if s.c.srv.forbids(remoteForwarding) {
		a := denied(remoteForwarding)
		return s.refuse("agent forwarding", a.Reason, a.Detail)
	}
	a, err := newAgentSocket()
	if err != nil {
		return s.refuse("agent forwarding", disconnect.ResourceExhausted, err.Error())
	}
	s.agent = a
	at := target{"unix", agentAddress}
	s.c.goroutines.Go(func() { s.c.acceptBack(at, a.listener) })
	return true
}

// newAgentSocket listens on a socket in a new directory.
func newAgentSocket() (*agentSocket, error) {
	directory, err := os.MkdirTemp("", "fairlead-") // with mode 0700
	if err != nil {
		return nil, err
	}
	a := &agentSocket{directory: directory, path: filepath.Join(directory, "agent")}
	if a.listener, err = net.Listen("unix", a.path); err != nil {
		_ = os.RemoveAll(directory)
		return nil, err
	}
	return a, nil
}

// closeLent removes what the client has lent the session: its authentication agent and its
// display. Connections through them end by themselves, as with sshd.
func (s *session) closeLent() {
	if s.agent != nil {
		_ = s.agent.listener.Close()
		_ = os.RemoveAll(s.agent.directory)
	}
	if s.x11 != nil {
		s.x11.close()
	}
}
