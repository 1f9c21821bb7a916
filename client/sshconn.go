package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"

	"golang.org/x/crypto/ssh"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/wire"
	"fairlead.dev/fairlead/sshend"
)

const (
	clientVersion = "SSH-2.0-Fairlead"
	// sshUser selects nothing: the agent knows who its peer is.
	sshUser = "fairlead"
)

// HostKeyError says that the agent's SSH host key is not the one that the server
// pinned: whoever answered is not the agent, or has lost its state.
type HostKeyError struct {
	Workspace string
	Got, Want string // SHA256 fingerprints
}

// Error implements error.
func (e *HostKeyError) Error() string {
	return fmt.Sprintf("refuse to connect to workspace %s: its SSH host key is %s, but the server pinned %s",
		disconnect.Scrub(e.Workspace), e.Got, e.Want)
}

// attribution says that nobody proved to be the agent.
func (e *HostKeyError) attribution() disconnect.Attribution {
	return disconnect.Attribution{
		ConnectType: disconnect.AgentToClient,
		Reason:      disconnect.TLSFailure,
		Initiator:   disconnect.Network,
		Detail:      "ssh host key " + e.Got + " is not the pinned " + e.Want,
	}
}

// sshConn is one SSH connection to the agent, with what is known of its ending.
type sshConn struct {
	client *ssh.Client
	raw    *sshend.Conn
	port   uint16           // ours, by which the agent names the connection
	told   disconnect.Latch // what the agent said over SSH before closing
	heard  chan struct{}    // closed when told is set
	dead   chan struct{}    // closed when the SSH layer has ended; err is set before
	err    error
	tasks  sync.WaitGroup // the goroutines that serve requests and wait for the end
}

// handshake makes nc an SSH connection to the agent with the pinned host key. It
// owns nc from now on, and closes it when it fails.
func handshake(ctx context.Context, nc net.Conn, workspace string, hostKey ssh.PublicKey) (*sshConn, error) {
	c := &sshConn{raw: sshend.NewConn(nc), heard: make(chan struct{}), dead: make(chan struct{})}
	if ap, err := netip.ParseAddrPort(nc.LocalAddr().String()); err == nil {
		c.port = ap.Port()
	}
	stop := context.AfterFunc(ctx, func() { _ = nc.Close() })
	var identity error
	conn, channels, requests, err := ssh.NewClientConn(c.raw, nc.RemoteAddr().String(), &ssh.ClientConfig{
		User:          sshUser,
		ClientVersion: clientVersion,
		HostKeyCallback: func(_ string, _ net.Addr, key ssh.PublicKey) error {
			identity = checkHostKey(workspace, key, hostKey)
			return identity
		},
	})
	if !stop() && err == nil {
		_ = conn.Close()
		err = context.Cause(ctx)
		go ssh.DiscardRequests(requests)
	}
	if err != nil {
		_ = nc.Close()
		return nil, handshakeFailure(ctx, c, workspace, identity, err)
	}
	c.tasks.Go(func() { c.serveRequests(requests) })
	none := make(chan *ssh.Request)
	close(none)
	c.client = ssh.NewClient(conn, channels, none)
	c.tasks.Go(func() {
		defer close(c.dead)
		c.err = c.client.Wait()
	})
	return c, nil
}

// handshakeFailure says in one sentence why there is no SSH connection.
func handshakeFailure(ctx context.Context, c *sshConn, workspace string, identity, err error) error {
	var mismatch *HostKeyError
	switch {
	case errors.As(identity, &mismatch):
		return &failure{text: mismatch.Error(), ended: &disconnect.EndedError{Attribution: mismatch.attribution(), Err: mismatch}}
	case ctx.Err() != nil:
		return failed("open ssh connection to workspace "+disconnect.Scrub(workspace), judge(context.Cause(ctx)), err)
	default:
		return failed("open ssh connection to workspace "+disconnect.Scrub(workspace), c.transport(err), err)
	}
}

func checkHostKey(workspace string, got, want ssh.PublicKey) error {
	if want != nil && string(got.Marshal()) == string(want.Marshal()) {
		return nil
	}
	e := &HostKeyError{Workspace: workspace, Got: ssh.FingerprintSHA256(got), Want: "no key"}
	if want != nil {
		e.Want = ssh.FingerprintSHA256(want)
	}
	return e
}

// serveRequests listens for the agent's last word until the connection ends.
func (c *sshConn) serveRequests(requests <-chan *ssh.Request) {
	for req := range requests {
		a, ok := parseDisconnect(req)
		if ok {
			c.hear(a)
		}
		if req.WantReply {
			_ = req.Reply(ok, nil)
		}
	}
}

// hear keeps the agent's last word, the first that it says.
func (c *sshConn) hear(a disconnect.Attribution) {
	if c.told.Set(a) {
		close(c.heard)
	}
}

// parseDisconnect reads the agent's last word.
func parseDisconnect(req *ssh.Request) (disconnect.Attribution, bool) {
	var payload sshend.Cause
	if req.Type != sshend.Request || ssh.Unmarshal(req.Payload, &payload) != nil {
		return disconnect.Attribution{}, false
	}
	g := wire.ToGoodbye(&wire.Goodbye{Reason: payload.Reason, Initiator: payload.Initiator, Detail: payload.Detail})
	return g.From(disconnect.Agent).On(disconnect.AgentToClient), true
}

// close ends the connection and waits for its goroutine. The cause has to be
// recorded before.
func (c *sshConn) close() {
	_ = c.raw.Close()
	_ = c.client.Close()
	c.tasks.Wait()
}

// broken says what the connection's end means by itself. One that still lives has
// lost its channel only.
func (c *sshConn) broken() disconnect.Attribution {
	select {
	case <-c.dead:
		return c.transport(c.err)
	default:
		return disconnect.Attribution{
			ConnectType: disconnect.AgentToClient,
			Reason:      disconnect.NetworkError,
			Initiator:   disconnect.Network,
			Detail:      "the session's channel was closed without an exit status",
		}
	}
}

// transport says how the connection ended when nobody told: by the error that its
// socket gave first, or else by what SSH made of the bytes.
func (c *sshConn) transport(err error) disconnect.Attribution {
	if code, text, ok := sshend.FromError(err); ok {
		return code.Judge(text, disconnect.Agent, disconnect.Client)
	}
	if raw := c.raw.Err(); raw != nil {
		return judge(raw)
	}
	a := disconnect.Attribution{ConnectType: disconnect.AgentToClient, Reason: disconnect.ProtocolError, Initiator: disconnect.Agent}
	if err != nil {
		a.Detail = disconnect.Scrub(err.Error())
	}
	return a
}
