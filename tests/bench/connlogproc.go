package main

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/crypto/ssh"
	"google.golang.org/protobuf/types/known/timestamppb"

	"fairlead.dev/fairlead/agent/proto"
	"fairlead.dev/fairlead/control"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/wire"
	"fairlead.dev/fairlead/sdk"
)

// reportersCommand makes this program many agents that do nothing but report: a process
// of its own, with the control links and calls that real agents have.
const reportersCommand = "reporters"

// Each reporter reports this many connections, in calls of this many reports: the
// beginnings of one half batch, and the ends of the half before it.
const (
	reporterSessions = 5_000
	reporterBatch    = 500
)

// reporterFigures is what the process measured.
type reporterFigures struct {
	Reports int       `json:"reports"`
	Seconds float64   `json:"seconds"`
	Calls   []float64 `json:"calls"` // how long each took, in ms
}

// reporter is one agent.
type reporter struct {
	link *control.Link
	api  proto.AgentServiceClient
}

// runReporters connects one agent for each "token host-key" line on standard input, has
// them all report at once, and prints the figures.
func runReporters(args []string) error {
	if len(args) != 1 {
		return errors.New("want the server's URL")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	var agents []*reporter
	for in := bufio.NewScanner(os.Stdin); in.Scan() && in.Text() != ""; {
		token, key, _ := strings.Cut(in.Text(), " ")
		r, err := newReporter(ctx, args[0], token, key)
		if err != nil {
			return err
		}
		defer r.link.Close(disconnect.Goodbye{Reason: disconnect.ServerShutdown, Initiator: disconnect.Agent})
		agents = append(agents, r)
	}
	var (
		mu      sync.Mutex // guards figures and failed
		figures = reporterFigures{Reports: 2 * reporterSessions * len(agents)}
		failed  error
		wg      sync.WaitGroup
	)
	begin := time.Now()
	for _, r := range agents {
		wg.Go(func() {
			calls, err := r.report(ctx)
			mu.Lock()
			defer mu.Unlock()
			figures.Calls, failed = append(figures.Calls, calls...), errors.Join(failed, err)
		})
	}
	wg.Wait()
	figures.Seconds = time.Since(begin).Seconds()
	return errors.Join(failed, json.NewEncoder(os.Stdout).Encode(figures))
}

func newReporter(ctx context.Context, server, token, key string) (*reporter, error) {
	u, err := sdk.ParseURL(server)
	if err != nil {
		return nil, err
	}
	link, err := control.Dial(ctx, control.DialOptions{
		AccessURL: u, Token: token, Instance: uuid.NewString(), Version: "bench",
		ConnectType: disconnect.ServerToAgent, Self: disconnect.Agent, Peer: disconnect.Server,
	})
	if err != nil {
		return nil, err
	}
	r := &reporter{link: link, api: proto.NewAgentServiceClient(link.RPC())}
	if _, err := r.api.GetManifest(ctx, &proto.GetManifestRequest{SshHostKey: key}); err != nil {
		return nil, err
	}
	_, err = r.api.AnnounceConnections(ctx, &proto.AnnounceConnectionsRequest{SentAt: timestamppb.Now()})
	return r, err
}

// report sends what a busy agent would, and returns how long each call took.
func (r *reporter) report(ctx context.Context) (calls []float64, err error) {
	var open []*proto.Connection
	for sent := 0; sent < reporterSessions || len(open) > 0; {
		req := &proto.ReportConnectionsRequest{}
		for _, c := range open {
			req.Reports = append(req.Reports, &proto.ReportConnectionRequest{Connection: endOf(c)})
		}
		open = nil
		for len(open) < reporterBatch/2 && sent < reporterSessions {
			id := uuid.New()
			c := &proto.Connection{
				Id: id[:], Action: proto.Connection_CONNECT, Type: proto.Connection_SSH, Timestamp: timestamppb.Now(),
				Ip: "192.0.2.7", Principal: "admin", App: "vscode", ClientVersion: "SSH-2.0-OpenSSH_9.2p1 Debian-2", Path: proto.Connection_DIRECT,
			}
			open, sent = append(open, c), sent+1
			req.Reports = append(req.Reports, &proto.ReportConnectionRequest{Connection: c})
		}
		req.SentAt = timestamppb.Now()
		begin := time.Now()
		answer, err := r.api.ReportConnections(ctx, req)
		if err != nil {
			return calls, err
		}
		if n := len(answer.GetRefused()); n > 0 {
			return calls, fmt.Errorf("%d reports were refused: %s", n, answer.GetRefused()[0].GetMessage())
		}
		calls = append(calls, milliseconds(time.Since(begin)))
	}
	return calls, nil
}

// endOf is the report of a connection's end.
func endOf(c *proto.Connection) *proto.Connection {
	end := &proto.Connection{
		Id: c.GetId(), Action: proto.Connection_DISCONNECT, Type: c.GetType(), Timestamp: timestamppb.Now(), ConnectedAt: c.GetTimestamp(),
		Ip: c.GetIp(), Principal: c.GetPrincipal(), App: c.GetApp(), ClientVersion: c.GetClientVersion(), Path: c.GetPath(),
		BytesSent: 123456, BytesReceived: 7890,
	}
	end.Attribution = wire.FromAttribution(disconnect.Attribution{
		ConnectType: disconnect.AgentToClient, Reason: disconnect.ProcessExited, Initiator: disconnect.Agent, Detail: "exit status 7",
	})
	return end
}

// newHostKey returns a public key in authorized_keys form.
func newHostKey() (string, error) {
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return "", err
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		return "", err
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))), nil
}
