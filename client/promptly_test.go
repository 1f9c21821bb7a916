package client

import (
	"context"
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"fairlead.dev/fairlead/disconnect"
)

// toldWithin is how long after a loss that is known here a person waits for the sentence.
const toldWithin = 2 * time.Second

// shellServer answers one SSH connection and says yes to whatever is asked for.
func shellServer(nc net.Conn, signer ssh.Signer) {
	config := &ssh.ServerConfig{NoClientAuth: true}
	config.AddHostKey(signer)
	_, channels, requests, err := ssh.NewServerConn(nc, config)
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests)
	for offered := range channels {
		_, requests, err := offered.Accept()
		if err != nil {
			return
		}
		go func() {
			for request := range requests {
				_ = request.Reply(true, nil)
			}
		}()
	}
}

// TestALossIsToldPromptly: the transport breaks and the agent does not answer, so nothing
// is known but that. Nobody waits longer than 2 s to be told so.
func TestALossIsToldPromptly(t *testing.T) {
	signer := newSigner(t)
	for name, run := range map[string]func(*Workspace, io.Reader) SessionEnd{
		"session": func(w *Workspace, in io.Reader) SessionEnd {
			return w.RunSession(context.Background(), SessionOptions{Shell: true, Stdin: in})
		},
		"attach": func(w *Workspace, in io.Reader) SessionEnd {
			return w.RunSession(context.Background(), SessionOptions{Subsystem: "attach {}", PTY: true, Stdin: in})
		},
		"stdio": func(w *Workspace, in io.Reader) SessionEnd {
			return w.Stdio(context.Background(), in, io.Discard)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ours, theirs := net.Pipe()
				go shellServer(theirs, signer)
				w, err := openWorkspace(t.Context(), workspaceConfig{
					name: "dev", hostKey: signer.PublicKey(), instance: "client-1",
					dialSSH: func(context.Context) (net.Conn, error) { return ours, nil },
					dialCompanion: func(ctx context.Context) (net.Conn, error) {
						<-ctx.Done()
						return nil, os.ErrDeadlineExceeded
					},
				}, nil)
				require.NoError(t, err)
				in, keys := io.Pipe()
				defer keys.Close()
				ended := make(chan SessionEnd, 1)
				go func() { ended <- run(w, in) }()
				<-time.After(time.Minute)
				lost := time.Now()
				require.NoError(t, theirs.Close())
				end := <-ended
				require.Less(t, time.Since(lost), toldWithin)
				require.Equal(t, exitLost, end.ExitCode)
				require.Equal(t, disconnect.NetworkError, end.Attribution.Reason, end.Attribution.String())
				w.Goodbye(context.Background(), end.Goodbye())
			})
		})
	}
}
