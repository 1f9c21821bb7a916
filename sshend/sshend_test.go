package sshend_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/sshend"
)

// TestJudge: each code of the RFC, as a client and as an agent sends it.
func TestJudge(t *testing.T) {
	const client, agent, network = disconnect.Client, disconnect.Agent, disconnect.Network
	for code, want := range map[sshend.Code]struct {
		reason            disconnect.Reason
		ofClient, ofAgent disconnect.Initiator
	}{
		1: {disconnect.AuthFailed, client, agent}, 2: {disconnect.ProtocolError, agent, client},
		3: {disconnect.VersionMismatch, client, agent}, 4: {disconnect.ProtocolError, client, agent},
		5: {disconnect.ProtocolError, agent, client}, 6: {disconnect.ProtocolError, agent, client},
		7: {disconnect.ResourceExhausted, client, agent}, 8: {disconnect.VersionMismatch, client, agent},
		9: {disconnect.TLSFailure, network, network}, 10: {disconnect.NetworkError, network, network},
		12: {disconnect.LimitExceeded, client, agent}, 14: {disconnect.AuthFailed, client, agent},
		15: {disconnect.AuthFailed, client, agent}, 4000: {disconnect.ProtocolError, client, agent},
	} {
		for _, a := range []disconnect.Attribution{
			code.Judge("te\x1bxt", client, agent), code.Judge("te\x1bxt", agent, client),
		} {
			require.Equal(t, want.reason, a.Reason, "code %d", code)
			require.Equal(t, disconnect.AgentToClient, a.ConnectType)
			require.Equal(t, fmt.Sprintf("ssh disconnect %d: te xt", code), a.Detail)
		}
		require.Equal(t, want.ofClient, code.Judge("", client, agent).Initiator, "code %d", code)
		require.Equal(t, want.ofAgent, code.Judge("", agent, client).Initiator, "code %d", code)
	}
	for _, code := range []sshend.Code{sshend.ByApplication, sshend.AuthCancelledByUser} {
		require.Equal(t, disconnect.ClientClosed, code.Judge("", client, agent).Reason)
		require.Equal(t, disconnect.ServerShutdown, code.Judge("", agent, client).Reason)
	}
}

func TestFromError(t *testing.T) {
	const message = `ssh: disconnect, reason 11: "dis\"connected\x1b"`
	for _, err := range []error{errors.New(message), errors.New("ssh: handshake failed: " + message)} {
		code, text, ok := sshend.FromError(err)
		require.True(t, ok)
		require.Equal(t, sshend.ByApplication, code)
		require.Equal(t, "dis\"connected\x1b", text)
	}
	for _, err := range []error{
		nil, io.EOF, &ssh.ExitMissingError{},
		errors.New("ssh: disconnect, reason x: y"), errors.New(`read: ssh: disconnect, reason 11: "a"`),
	} {
		_, _, ok := sshend.FromError(err)
		require.False(t, ok, "%v", err)
	}
}

// FuzzFromError: what a peer says last is judged with a reason of the set.
func FuzzFromError(f *testing.F) {
	f.Add("ssh: disconnect, reason 11: \"disconnected by user\"")
	f.Add("ssh: disconnect, reason 4294967295: x")
	f.Add("ssh: disconnect, reason -1")
	f.Fuzz(func(t *testing.T, text string) {
		code, said, ok := sshend.FromError(errors.New(text))
		if !ok {
			return
		}
		a := code.Judge(said, disconnect.Client, disconnect.Agent)
		require.True(t, a.Reason.Valid())
		require.NotEqual(t, disconnect.Unknown, a.Reason)
		require.Equal(t, a.Detail, disconnect.Scrub(a.Detail))
	})
}

// failingConn fails as it is told to.
type failingConn struct {
	net.Conn
	read, write error
}

func (f *failingConn) Read([]byte) (int, error)  { return 0, f.read }
func (f *failingConn) Write([]byte) (int, error) { return 0, f.write }
func (f *failingConn) Close() error              { return nil }

func TestWhichErrorOfTheTransportCounts(t *testing.T) {
	const w, r, x = "write", "read", "close"
	for _, tc := range []struct {
		read, write error
		order       []string
		want        error
	}{
		{io.EOF, syscall.ECONNRESET, []string{w, r}, syscall.ECONNRESET},
		{io.EOF, syscall.ECONNRESET, []string{r, w}, syscall.ECONNRESET},
		{io.EOF, syscall.EPIPE, []string{r, w}, io.EOF},
		{syscall.ECONNRESET, syscall.EPIPE, []string{w, r}, syscall.ECONNRESET},
		{io.EOF, syscall.EPIPE, []string{w}, syscall.EPIPE},
		{net.ErrClosed, syscall.ETIMEDOUT, []string{w, r}, syscall.ETIMEDOUT},
		{net.ErrClosed, net.ErrClosed, []string{x, w, r}, nil},
		{io.EOF, nil, []string{r, x}, io.EOF},
	} {
		c := sshend.NewConn(&failingConn{read: tc.read, write: tc.write})
		for _, op := range tc.order {
			switch op {
			case w:
				_, _ = c.Write(nil)
			case r:
				_, _ = c.Read(nil)
			case x:
				_ = c.Close()
			}
		}
		require.Equal(t, tc.want, c.Err(), "%v", tc.order)
	}
}
