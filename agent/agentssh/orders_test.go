//go:build unix

package agentssh_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"fairlead.dev/fairlead/agent/agentssh"
	"fairlead.dev/fairlead/disconnect"
)

var killed = disconnect.Attribution{
	ConnectType: disconnect.AgentToClient, Reason: disconnect.AdminTerminated, Initiator: disconnect.Server, Detail: "ended by ada",
}

// TestEndOneSession: of two sessions on one connection one ends, with a word to its user,
// and the other goes on.
func TestEndOneSession(t *testing.T) {
	handles := make(chan func(disconnect.Attribution), 2)
	h := newHost(t, func(c *agentssh.Config) {
		track := c.Track
		c.Track = func(s agentssh.Session) (string, func(agentssh.Ended)) {
			handles <- s.End
			return track(s)
		}
	})
	client, _ := h.dial()
	begin := func() (*ssh.Session, *bytes.Buffer, func(disconnect.Attribution)) {
		s, err := client.NewSession()
		require.NoError(t, err)
		said := new(bytes.Buffer)
		s.Stderr = said
		require.NoError(t, s.Start("exec sleep 1000"))
		return s, said, wait(t, handles, "no session was tracked")
	}
	one, said, end := begin()
	two, _, endTwo := begin()
	end(killed)
	end(killed) // a second word changes nothing
	var missing *ssh.ExitMissingError
	require.ErrorAs(t, one.Wait(), &missing)
	require.Equal(t, "fairlead: session ended by server: admin_terminated: ended by ada\n", said.String())
	require.Equal(t, killed, h.ending().A)
	require.Equal(t, -1, h.ending().ExitCode)

	three, err := client.NewSession() // the connection lives
	require.NoError(t, err)
	require.NoError(t, three.Run("true"))
	<-handles
	endTwo(killed)
	require.ErrorAs(t, two.Wait(), &missing)
}

// TestEndWhileItBegins: a session that is ended by Track itself ends for that.
func TestEndWhileItBegins(t *testing.T) {
	h := newHost(t, func(c *agentssh.Config) {
		track := c.Track
		c.Track = func(s agentssh.Session) (string, func(agentssh.Ended)) {
			s.End(killed)
			return track(s)
		}
	})
	s, _, _ := h.session()
	require.Error(t, s.Run("exec sleep 1000"))
	require.Equal(t, killed, h.ending().A)
}

// TestRefuse: sessions end, and new ones are refused in words, also on a connection that
// comes later, until they are allowed.
func TestRefuse(t *testing.T) {
	h := newHost(t, nil)
	s, _, _ := h.session()
	require.NoError(t, s.Start("exec sleep 1000"))
	idle, _ := h.dial()
	opened, err := idle.NewSession()
	require.NoError(t, err)
	stop := disconnect.Attribution{
		ConnectType: disconnect.AgentToClient, Reason: disconnect.WorkspaceStopped, Initiator: disconnect.Server, Detail: "stopped by ada",
	}
	h.Refuse(stop)
	require.Error(t, s.Wait())
	require.Equal(t, stop, h.ending().A)
	require.Error(t, opened.Run("true"), "what has begun no session begins none")
	client, _ := h.dial()
	for _, c := range []*ssh.Client{client, idle} {
		_, err = c.NewSession()
		var refused *ssh.OpenChannelError
		require.ErrorAs(t, err, &refused)
		require.Equal(t, ssh.Prohibited, refused.Reason)
		require.Equal(t, "workspace_stopped: stopped by ada", refused.Message)
	}
	h.Allow()
	again, err := client.NewSession()
	require.NoError(t, err)
	require.NoError(t, again.Run("true"))
}

// TestPolicyEndsASession: with real input and output.
func TestPolicyEndsASession(t *testing.T) {
	h := newHost(t, nil)
	h.SetPolicy(agentssh.Policy{IdleTimeout: 200 * time.Millisecond, IdleRule: "a rule"})
	s, _, _ := h.session()
	require.Error(t, s.Run("exec sleep 1000"))
	h.expect(disconnect.IdleTimeout, disconnect.Agent, "nothing passed through the session for 200ms, and a rule allows no more", -1)
}
