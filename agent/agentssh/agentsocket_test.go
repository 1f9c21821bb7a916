//go:build unix

package agentssh_test

import (
	"bufio"
	"crypto/ed25519"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"fairlead.dev/fairlead/agent/agentssh"
	"fairlead.dev/fairlead/disconnect"
)

// TestAgentForwarding: programs of a session reach the client's authentication agent
// through a socket for this session alone, which goes with it, however that ends.
func TestAgentForwarding(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(in io.Closer, raw net.Conn){
		"exit":    func(in io.Closer, _ net.Conn) { _ = in.Close() },
		"network": func(_ io.Closer, raw net.Conn) { _ = raw.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t, nil)
			s, client, raw := h.session()
			_, private, err := ed25519.GenerateKey(nil)
			require.NoError(t, err)
			keys := agent.NewKeyring()
			require.NoError(t, keys.Add(agent.AddedKey{PrivateKey: private, Comment: "forwarded"}))
			require.NoError(t, agent.ForwardToAgent(client, keys))
			require.NoError(t, agent.RequestAgentForwarding(s))
			require.Error(t, agent.RequestAgentForwarding(s), "a session has one")
			in, err := s.StdinPipe()
			require.NoError(t, err)
			out, err := s.StdoutPipe()
			require.NoError(t, err)
			require.NoError(t, s.Start(`echo "$SSH_AUTH_SOCK"; read x`))
			path, err := bufio.NewReader(out).ReadString('\n')
			require.NoError(t, err)
			path = strings.TrimSpace(path)
			info, err := os.Stat(filepath.Dir(path))
			require.NoError(t, err)
			require.Equal(t, fs.FileMode(0o700), info.Mode().Perm())

			c, err := net.Dial("unix", path)
			require.NoError(t, err)
			found, err := agent.NewClient(c).List()
			require.NoError(t, err)
			require.Equal(t, "forwarded", found[0].Comment)
			require.NoError(t, c.Close())
			e := h.ending()
			require.Equal(t, []any{disconnect.Graceful, disconnect.Agent}, []any{e.A.Reason, e.A.Initiator}, e.A)
			h.mu.Lock()
			row := h.sessions[1]
			h.mu.Unlock()
			require.Equal(t, []any{agentssh.KindForward, "ssh-agent"}, []any{row.Kind, row.Target})

			end(in, raw)
			h.endings(2)
			require.Eventually(t, func() bool {
				_, err := os.Stat(filepath.Dir(path))
				return os.IsNotExist(err)
			}, patience, 10*time.Millisecond, "nothing is left of it")
		})
	}
}

// A client that refuses its agent is said to have; a session without one has no socket.
func TestAgentRefused(t *testing.T) {
	t.Parallel()
	h := newHost(t, nil)
	s, _, _ := h.session()
	require.NoError(t, agent.RequestAgentForwarding(s)) // x/crypto's client then knows no such channel
	program, err := exec.LookPath("ssh-add")
	if err != nil {
		t.Skip("ssh-add is not installed (package openssh-client)")
	}
	var exit *ssh.ExitError
	require.ErrorAs(t, s.Run(program+" -l"), &exit)
	for _, e := range h.endings(2) {
		if e.ExitCode == -1 {
			require.Equal(t, []any{disconnect.ConnectionRefused, disconnect.Client}, []any{e.A.Reason, e.A.Initiator}, e.A)
		}
	}
	s, _, _ = h.session()
	out, err := s.Output(`case "$SSH_AUTH_SOCK" in */fairlead-*) echo leftover;; esac`)
	require.NoError(t, err)
	require.Empty(t, out)
	h.endings(3)
}
