package agentssh

import (
	"path"
	"slices"
	"strings"

	"fairlead.dev/fairlead/disconnect"
)

// What a policy may block, as its refusals name it.
const (
	fileTransfer     = "file transfer"
	localForwarding  = "local forwarding"
	remoteForwarding = "remote forwarding"
)

// denied is why the workspace's policy refuses one of these.
func denied(what string) disconnect.Attribution {
	return attribute(disconnect.PolicyDenied, disconnect.Agent, what+" is blocked by the workspace's policy")
}

// deniedText is what the user reads of it.
func deniedText(what string) string {
	a := denied(what)
	return a.Reason.String() + ": " + a.Detail
}

// forbids reports whether the policy refuses this now.
func (s *Server) forbids(what string) bool {
	p, _ := s.currentPolicy()
	switch what {
	case fileTransfer:
		return p.NoFileTransfer
	case localForwarding:
		return p.NoLocalForwarding
	}
	return p.NoRemoteForwarding
}

// tellLater has the next session say that this was refused: a global request has no place
// for words, but for our own client, which reads them there.
func (c *conn) tellLater(what string) {
	if c.tellsItsUser() {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.untold = what
}

// tellRefused says what was refused before this session began.
func (s *session) tellRefused() {
	s.c.mu.Lock()
	what := s.c.untold
	s.c.untold = ""
	s.c.mu.Unlock()
	if what != "" {
		s.say(deniedText(what))
	}
}

// ownVariables begin with this: they tell of the session, and are always taken.
const ownVariables = "FAIRLEAD_"

// acceptsEnv reports whether the policy lets a client set a variable.
func (p Policy) acceptsEnv(name string) bool {
	if p.AcceptEnv == "" || strings.HasPrefix(name, ownVariables) {
		return true
	}
	return slices.ContainsFunc(strings.Split(p.AcceptEnv, ","), func(pattern string) bool {
		prefix, star := strings.CutSuffix(pattern, "*")
		return name == pattern || star && strings.HasPrefix(name, prefix)
	})
}

// transfersFiles reports whether a command line is what scp, rsync or sftp run at the far
// end. It knows their own command lines and nothing else: a shell has many other ways.
func transfersFiles(line string) bool {
	words := strings.Fields(line)
	for len(words) > 0 && (strings.Contains(words[0], "=") || slices.Contains([]string{"exec", "env", "command", "nice", "nohup", "sudo"}, words[0])) {
		words = words[1:]
	}
	if len(words) == 0 {
		return false
	}
	switch path.Base(words[0]) {
	case "scp":
		return slices.ContainsFunc(words[1:], func(w string) bool {
			return strings.HasPrefix(w, "-") && !strings.HasPrefix(w, "--") && strings.ContainsAny(w, "tf")
		})
	case "rsync":
		return slices.Contains(words[1:], "--server")
	case "sftp-server":
		return true
	}
	return false
}
