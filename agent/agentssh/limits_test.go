//go:build unix

package agentssh_test

import (
	"errors"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"
)

// TestChannelsOfOneConnectionAreBounded: a client that opens 10,000 sessions gets as
// many as the limit says, a plain refusal for each of the others, and harms nobody.
func TestChannelsOfOneConnectionAreBounded(t *testing.T) {
	t.Parallel()
	h := newHost(t, nil)
	hostile, _ := h.dial()
	var open []ssh.Channel
	refused := 0
	for range 10_000 {
		ch, requests, err := hostile.OpenChannel("session", nil)
		var refusal *ssh.OpenChannelError
		switch {
		case err == nil:
			go ssh.DiscardRequests(requests)
			open = append(open, ch)
		case errors.As(err, &refusal):
			require.Equal(t, ssh.ResourceShortage, refusal.Reason)
			require.Equal(t, "limit_exceeded: this connection has 256 sessions already", refusal.Message)
			refused++
		default:
			t.Fatal(err)
		}
	}
	require.Len(t, open, 256)
	require.Equal(t, 10_000-256, refused)

	other, _, _ := h.session()
	out, err := other.Output("echo served")
	require.NoError(t, err)
	require.Equal(t, "served\n", string(out))

	require.NoError(t, open[0].Close()) // makes room for one
	require.Eventually(t, func() bool {
		ch, requests, err := hostile.OpenChannel("session", nil)
		if err != nil {
			return false
		}
		go ssh.DiscardRequests(requests)
		_, err = ch.SendRequest("shell", true, nil)
		return err == nil
	}, patience, time.Millisecond)
}

// TestConnectionsOfOnePeerAreBounded: connections beyond the limit are refused in words
// that both the Go client and stock ssh understand; those before it live on.
func TestConnectionsOfOnePeerAreBounded(t *testing.T) {
	t.Parallel()
	h := newHost(t, nil)
	first, _, _ := h.session()
	idle := make([]net.Conn, 127) // they never even begin the handshake
	for i := range idle {
		c, err := net.Dial("tcp", h.addr)
		require.NoError(t, err)
		idle[i] = c
		defer c.Close()
		// The version line is there: the server has taken the connection.
		_, err = c.Read(make([]byte, 1))
		require.NoError(t, err)
	}
	raw, err := net.Dial("tcp", h.addr)
	require.NoError(t, err)
	_, _, _, err = ssh.NewClientConn(raw, h.addr, &ssh.ClientConfig{HostKeyCallback: ssh.FixedHostKey(h.key.PublicKey())})
	require.ErrorContains(t, err, "reason 12: \"limit_exceeded: this client has 128 connections already\"")

	if stock, err := exec.LookPath("ssh"); err == nil {
		host, port, err := net.SplitHostPort(h.addr)
		require.NoError(t, err)
		out, _ := exec.CommandContext(t.Context(), stock, "-F", "none", "-o", "BatchMode=yes", "-p", port, host, "true").CombinedOutput()
		require.Contains(t, string(out), "limit_exceeded: this client has 128 connections already")
	}

	out, err := first.Output("echo served")
	require.NoError(t, err)
	require.Equal(t, "served\n", string(out))

	require.NoError(t, idle[0].Close()) // makes room for one
	require.Eventually(t, func() bool {
		raw, err := net.Dial("tcp", h.addr)
		if err != nil {
			return false
		}
		sc, channels, requests, err := ssh.NewClientConn(raw, h.addr, &ssh.ClientConfig{HostKeyCallback: ssh.FixedHostKey(h.key.PublicKey())})
		if err != nil {
			return false
		}
		return ssh.NewClient(sc, channels, requests).Close() == nil
	}, patience, time.Millisecond)
}

func TestVariablesOfOneSessionAreBounded(t *testing.T) {
	t.Parallel()
	h := newHost(t, nil)
	s, _, _ := h.session()
	require.Error(t, s.Setenv("LONG", strings.Repeat("x", 32<<10+1)))
	for i := range 256 {
		require.NoError(t, s.Setenv("V"+strconv.Itoa(i), "x"))
	}
	require.Error(t, s.Setenv("V256", "x"))
	out, err := s.Output("echo $V255$V256")
	require.NoError(t, err)
	require.Equal(t, "x\n", string(out))
}
