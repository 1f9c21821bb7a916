//go:build unix

package agentssh_test

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pkg/sftp"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"fairlead.dev/fairlead/agent/agentssh"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/testutil"
)

const blockedText = "policy_denied: file transfer is blocked by the workspace's policy"

// TestPolicyBlocksFileTransfer: stock programs say why they copied nothing, each has its
// ending, and what is no copy goes on.
func TestPolicyBlocksFileTransfer(t *testing.T) {
	t.Parallel()
	h := newHost(t, nil)
	h.SetPolicy(agentssh.Policy{NoFileTransfer: true})
	dir := t.TempDir()
	local, remote := filepath.Join(dir, "local"), filepath.Join(dir, "remote")
	require.NoError(t, os.WriteFile(local, []byte("content"), 0o600))
	ended := 0
	for name, args := range map[string][]string{
		"sftp":   {"-b", "-", "127.0.0.1"},
		"scp":    {"-s", local, "127.0.0.1:" + remote},
		"scp -O": {"-O", local, "127.0.0.1:" + remote},
		"rsync":  {local, "127.0.0.1:" + remote},
	} {
		program, err := exec.LookPath(strings.Fields(name)[0])
		if err != nil {
			continue
		}
		options := h.openSSH().Args[1:]
		all := append(portOption(options), args...)
		if name == "rsync" {
			all = append([]string{"-e", "ssh " + strings.Join(options, " ")}, args...)
		}
		cmd := exec.CommandContext(testutil.Context(t, patience), program, all...)
		cmd.Stdin = strings.NewReader("put " + local + " " + remote + "\n")
		out, err := cmd.CombinedOutput()
		require.Error(t, err, name)
		require.Contains(t, string(out), "fairlead: cannot start: "+blockedText, name)
		require.NoFileExists(t, remote, name)
		ended++
		e := h.endings(ended)[ended-1]
		require.Equal(t, []any{disconnect.PolicyDenied, disconnect.Agent, -1}, []any{e.A.Reason, e.A.Initiator, e.ExitCode}, "%s: %s", name, e.A)
		require.True(t, e.A.Expected())
	}
	require.NotZero(t, ended)
	s, client, _ := h.session()
	out, err := s.Output("echo scp -t; cat " + local) // what nobody can tell from any other command
	require.NoError(t, err)
	require.Equal(t, "scp -t\ncontent", string(out))
	h.SetPolicy(agentssh.Policy{})
	files, err := sftp.NewClient(client)
	require.NoError(t, err, "allowed again, on the same connection")
	require.NoError(t, files.Close())
	h.endings(ended + 2)
}

// portOption has -P where ssh has -p, as its companions want it.
func portOption(options []string) []string {
	out := append([]string(nil), options...)
	for i, o := range out {
		if o == "-p" {
			out[i] = "-P"
		}
	}
	return out
}

// TestPolicyBlocksForwarding: each kind of forward is refused in words, with its row where it
// is a connection, and only the kind that is blocked.
func TestPolicyBlocksForwarding(t *testing.T) {
	t.Parallel()
	b := newBackend(t, anyPort)
	h := newHost(t, nil)
	client, _ := h.dial()
	h.SetPolicy(agentssh.Policy{NoLocalForwarding: true})
	for network, address := range map[string]string{"tcp": b.addr, "unix": "/no/where"} {
		_, err := client.Dial(network, address)
		var refused *ssh.OpenChannelError
		require.ErrorAs(t, err, &refused)
		require.Equal(t, ssh.Prohibited, refused.Reason)
		require.Equal(t, "policy_denied: local forwarding is blocked by the workspace's policy", refused.Message)
	}
	for _, e := range h.endings(2) {
		require.Equal(t, []any{disconnect.PolicyDenied, disconnect.Agent}, []any{e.A.Reason, e.A.Initiator}, e.A)
	}
	l, err := client.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err, "the other way is free")
	require.NoError(t, l.Close())

	// Stock ssh says it of -W, and of -R with the next session.
	stdio := h.openSSH("-W", b.addr, "127.0.0.1")
	stdio.Args[slices.Index(stdio.Args, "LogLevel=ERROR")] = "LogLevel=INFO" // as it is by default
	out, err := stdio.CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(out), "administratively prohibited: policy_denied: local forwarding is blocked by the workspace's policy")
	h.endings(3)
	h.SetPolicy(agentssh.Policy{NoRemoteForwarding: true})
	out, err = h.openSSH("-R", "0:"+b.addr, "127.0.0.1", "echo still served").CombinedOutput()
	require.NoError(t, err)
	require.Contains(t, string(out), "fairlead: policy_denied: remote forwarding is blocked by the workspace's policy\n")
	require.Contains(t, string(out), "still served\n")
	h.endings(4)
	c, err := client.Dial("tcp", b.addr)
	require.NoError(t, err)
	require.NoError(t, c.Close())
	h.endings(5)

	s, err := client.NewSession()
	require.NoError(t, err)
	var stderr bytes.Buffer
	s.Stderr = &stderr
	require.Error(t, agent.RequestAgentForwarding(s))
	ok, err := s.SendRequest("x11-req", true, nil)
	require.NoError(t, err)
	require.False(t, ok)
	require.NoError(t, s.Run("true"))
	require.Equal(t, "fairlead: agent forwarding is refused: policy_denied: remote forwarding is blocked by the workspace's policy\n"+
		"fairlead: X11 forwarding is refused: policy_denied: remote forwarding is blocked by the workspace's policy\n", stderr.String())
	h.endings(6)
	refused := 0
	for _, r := range h.rec.Records() {
		if r.Message == "ssh request refused" {
			require.Equal(t, "policy_denied", r.Attrs["refusal"])
			refused++
		}
	}
	require.Equal(t, 3, refused, "that of -R, of the agent and of X11")
}

// TestPolicyEndsWhatArrives: a port that was asked for before it was blocked leads nowhere
// from then on.
func TestPolicyEndsWhatArrives(t *testing.T) {
	t.Parallel()
	h := newHost(t, nil)
	client, _ := h.dial()
	l, err := client.Listen("unix", filepath.Join(socketDir(t), "s"))
	require.NoError(t, err)
	defer l.Close()
	h.SetPolicy(agentssh.Policy{NoRemoteForwarding: true})
	c, err := net.Dial("unix", l.Addr().String())
	require.NoError(t, err)
	_, err = c.Read(make([]byte, 1))
	require.Error(t, err)
	require.NoError(t, c.Close())
	h.expect(disconnect.PolicyDenied, disconnect.Agent, "remote forwarding is blocked", -1)
}

// TestPolicyOfVariables: what the policy does not name is not set; our own always are.
func TestPolicyOfVariables(t *testing.T) {
	t.Parallel()
	h := newHost(t, nil)
	h.SetPolicy(agentssh.Policy{AcceptEnv: "LANG,LC_*"})
	out, err := h.openSSH("-o", "SetEnv=LANG=C LC_TIME=C FOO=1 LANGUAGE=x FAIRLEAD_APP=mine", "127.0.0.1",
		`echo "$LANG $LC_TIME ${FOO-unset} ${LANGUAGE-unset} $FAIRLEAD_APP"`).Output()
	require.NoError(t, err)
	require.Equal(t, "C C unset unset mine\n", string(out))
	h.ending()
}
