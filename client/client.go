package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	agentproto "fairlead.dev/fairlead/agent/proto"
	"fairlead.dev/fairlead/clock"
	"fairlead.dev/fairlead/control"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/hostwatch"
	"fairlead.dev/fairlead/tailnet"
	"fairlead.dev/fairlead/tailnet/proto"
	"fairlead.dev/fairlead/wsconn"
)

// serverTimeout bounds the first contact with the server, and its answer about a
// workspace.
const serverTimeout = 15 * time.Second

// Options say who the client is and how it reaches the server.
type Options struct {
	AccessURL *url.URL
	Token     string
	// Instance names this life of the client's process.
	Instance, Version string
	Logger            *slog.Logger // nil discards
	// ForceRelay keeps all traffic on the relay.
	ForceRelay bool
	// OutageLimit is how long an agent may be silent; 0 means what it says that it allows
	// us, and a minute.
	OutageLimit time.Duration
	// CheckHostKey is asked about the SSH host key that the server pinned for a
	// workspace, before anything is sent there; an error refuses it. nil: the server's
	// word is enough.
	CheckHostKey func(ctx context.Context, workspace string, key ssh.PublicKey) error
	// Records are kept of sessions; nil: none are.
	Records *Records
	// Step is called with each step of connecting; nil: not.
	Step func(string)
	// Notice is called with a sentence about what the user should know although the
	// client goes on; nil: not. It must not block, and may be called from any goroutine.
	Notice func(string)
}

// Client is one process' presence in the tailnet: its node, and the link to the
// server that keeps its peers current. The node's key is made for this process and
// kept nowhere. Methods are safe for concurrent use.
type Client struct {
	options    Options
	logger     *slog.Logger
	host       *hostwatch.Watcher
	node       *tailnet.Node
	relay      *tailnet.RelayDialer
	controller *tailnet.Controller
	stop       context.CancelFunc // ends tasks
	tasks      sync.WaitGroup
	link       atomic.Pointer[control.Link] // the last one to the server

	mu         sync.Mutex                   // guards workspaces
	workspaces map[proto.NodeKey]*Workspace // nil while one is being opened
}

// Open contacts the server and starts the node, both at the same time. The caller
// must Close the client. An error is one sentence; [disconnect.FromError] tells its
// attribution.
func Open(ctx context.Context, options Options) (*Client, error) {
	if options.Logger == nil {
		options.Logger = slog.New(slog.DiscardHandler)
	}
	if options.Step == nil {
		options.Step = func(string) {}
	}
	if options.Notice == nil {
		options.Notice = func(string) {}
	}
	c := &Client{options: options, logger: options.Logger, workspaces: make(map[proto.NodeKey]*Workspace)}
	options.Step("contacting the server")
	key := tailnet.NewPrivateKey()
	relay := tailnet.NewRelayDialer(options.AccessURL, nil)

	var node *tailnet.Node
	var nodeErr error
	started := make(chan struct{})
	go func() {
		defer close(started)
		node, nodeErr = tailnet.NewNode(tailnet.Options{
			PrivateKey: key, Logger: c.logger, DialRelay: relay.Dial, ForceRelay: options.ForceRelay, OnRelayEnd: c.relayEnded,
		})
	}()
	link, err := c.dialServer(ctx)
	<-started
	if err != nil || nodeErr != nil {
		abandonStart(link, node)
		if err != nil {
			return nil, contactFailure(ctx, options.AccessURL, err)
		}
		return nil, fmt.Errorf("start tailnet node: %w", nodeErr)
	}
	c.node, c.relay, c.host = node, relay, hostwatch.Start()
	book := tailnet.NewPeerBook(tailnet.PeerBookOptions{Remove: node.RemovePeer, OnRemoved: c.removed})
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	c.stop = stop
	c.tasks.Go(func() { book.Run(running) })
	c.controller = tailnet.NewController(tailnet.ControllerConfig{
		Dial: c.dialAfter(link), Node: node, Book: book, Key: key, Logger: c.logger,
		ConnectType: disconnect.ClientToServer, Initiator: disconnect.Client,
		StunHost:     options.AccessURL.Hostname(),
		OnRelayToken: relay.SetToken, OnPresence: c.presence, OnState: c.serverState, Explain: c.explain,
	})
	c.controller.Start(running)
	node.WatchPaths(c.pathChanged)
	c.host.Subscribe(c.hostIsBack)
	return c, nil
}

// abandonStart takes down what was started when the other half failed.
func abandonStart(link *control.Link, node *tailnet.Node) {
	if link != nil {
		_ = link.Close(disconnect.Goodbye{
			Reason: disconnect.ClientClosed, Initiator: disconnect.Client, Detail: "the client could not start its tailnet node",
		})
	}
	if node != nil {
		_ = node.Close()
	}
}

// dialServer dials a control link once, and logs that it could not.
func (c *Client) dialServer(ctx context.Context) (*control.Link, error) {
	asked := ctx
	ctx, cancel := context.WithTimeoutCause(ctx, serverTimeout, &disconnect.EndedError{Attribution: disconnect.Attribution{
		ConnectType: disconnect.ClientToServer,
		Reason:      disconnect.NetworkTimeout,
		Initiator:   disconnect.Network,
		Detail:      fmt.Sprintf("no answer for %v", serverTimeout),
	}})
	defer cancel()
	link, err := control.Dial(ctx, control.DialOptions{
		AccessURL: c.options.AccessURL, Token: c.options.Token,
		Instance: c.options.Instance, Version: c.options.Version,
		ConnectType: disconnect.ClientToServer, Self: disconnect.Client, Peer: disconnect.Server,
		Logger: c.logger,
	})
	if err != nil && asked.Err() == nil {
		a := contactEnding(asked, err)
		a.Detail = err.Error()
		a.LogAttempt(asked, c.logger, slog.LevelWarn, "could not reach the server")
	}
	return link, err
}

// dialAfter returns the controller's dial, which begins with the link that is open.
func (c *Client) dialAfter(first *control.Link) func(context.Context) (*control.Link, error) {
	links := make(chan *control.Link, 1)
	links <- first
	return func(ctx context.Context) (*control.Link, error) {
		var link *control.Link
		var err error
		select {
		case link = <-links:
		default:
			link, err = c.dialServer(ctx)
		}
		if err == nil {
			c.link.Store(link)
			c.follow(link)
		}
		return link, err
	}
}

// contactEnding says what a failed dial of the server means.
func contactEnding(ctx context.Context, err error) disconnect.Attribution {
	if ctx.Err() != nil {
		return disconnect.Judge(context.Cause(ctx), disconnect.ClientToServer, disconnect.Client)
	}
	if a, ok := disconnect.FromError(err); ok {
		return a
	}
	return control.JudgeDial(err, disconnect.ClientToServer, disconnect.Client, disconnect.Server)
}

// contactFailure says in one sentence why the server could not be reached.
func contactFailure(ctx context.Context, access *url.URL, err error) error {
	a := contactEnding(ctx, err)
	url := disconnect.Scrub(access.Redacted())
	text := contactText(url, a)
	switch {
	case answered(err) == http.StatusBadGateway:
		text = "a proxy at " + url + " answered with status 502: the Fairlead server behind it does not answer"
	case a.Reason == disconnect.AuthFailed && answered(err) == http.StatusNotFound:
		// The server knows the token: one of a scope without connections gets the answer
		// of a path that is not there.
		text = "this login at " + url + " may not connect to workspaces: its token is for something else"
	}
	return &failure{
		text:  text,
		ended: &disconnect.EndedError{Attribution: a, Err: err},
	}
}

// answered returns the HTTP status that a dial failed with; 0: none.
func answered(err error) int {
	if failed := (*wsconn.DialError)(nil); errors.As(err, &failed) {
		return failed.Status
	}
	return 0
}

// contactText says in one sentence why the server at url could not be reached. What
// the error said besides stays in the attribution.
func contactText(url string, a disconnect.Attribution) string {
	switch a.Reason {
	case disconnect.AuthFailed, disconnect.AuthRevoked:
		return "the server at " + url + " does not accept this login: log in again"
	case disconnect.AuthExpired:
		return "this login at " + url + " has expired: log in again"
	case disconnect.ConnectionRefused:
		return "cannot reach the server at " + url + ": the connection was refused"
	case disconnect.DNSFailure:
		return "the name of the server at " + url + " does not resolve"
	case disconnect.NetworkTimeout:
		return "the server at " + url + " does not answer"
	case disconnect.NetworkUnreachable:
		switch {
		case strings.Contains(a.Detail, "captive_portal"):
			return "what answers at " + url + " is a web page, perhaps the login page of this network"
		case strings.Contains(a.Detail, "proxy_auth"):
			return "a proxy on the way to " + url + " asks for a login"
		}
		return "there is no way to the server at " + url + ": the network is unreachable"
	case disconnect.ProtocolError:
		if strings.Contains(a.Detail, wsconn.ErrSpeaksTLS.Error()) {
			return "the server at " + url + " cannot be reached: " + wsconn.ErrSpeaksTLS.Error()
		}
		return "what answers at " + url + " is not a Fairlead server"
	case disconnect.TLSFailure:
		now := "by this machine's clock, which says " + clock.Now().Format(time.DateTime) + ": one of the two is wrong"
		switch {
		case strings.HasPrefix(a.Detail, "not_yet_valid"):
			return "the certificate of the server at " + url + " is not valid yet " + now
		case strings.HasPrefix(a.Detail, "expired"):
			return "the certificate of the server at " + url + " is not valid any more " + now
		}
		return "contact the server at " + url + ": " + disconnect.Scrub(a.Detail)
	case disconnect.VersionMismatch:
		return "the server at " + url + " has no protocol version in common with this client"
	case disconnect.LimitExceeded:
		return "the server at " + url + " is too busy: try again later"
	case disconnect.ServerShutdown:
		return "the server at " + url + " is stopping: try again later"
	case disconnect.ClientClosed:
		return "stopped before the server at " + url + " was reached"
	default:
		return "contact the server at " + url + ": " + disconnect.Scrub(a.Detail)
	}
}

// CheckNetwork looks at the relays, and at what the network does to UDP on the way to
// them. An error is one sentence: the server did not name any relays in time.
func (c *Client) CheckNetwork(ctx context.Context) (tailnet.NetworkReport, error) {
	ctx, cancel := context.WithTimeout(ctx, serverTimeout)
	defer cancel()
	return c.node.CheckNetwork(ctx, c.relay)
}

// Reach opens the way to a workspace, named by NAME or OWNER/NAME, once until that ends:
// all sessions share it. An error is one sentence; a [*tailnet.RefusedError] in it is the server's refusal.
func (c *Client) Reach(ctx context.Context, name string) (*Workspace, error) {
	c.options.Step("finding the workspace")
	tunnelCtx, cancel := context.WithTimeoutCause(ctx, serverTimeout, &disconnect.EndedError{Attribution: disconnect.Attribution{
		ConnectType: disconnect.ClientToServer,
		Reason:      disconnect.NetworkTimeout,
		Initiator:   disconnect.Network,
		Detail:      fmt.Sprintf("not ready within %v", serverTimeout),
	}})
	defer cancel()
	tunnel, err := c.tunnel(tunnelCtx, name)
	if err != nil {
		return nil, c.tunnelFailure(ctx, name, err)
	}
	if !c.reserve(tunnel.Key) {
		return nil, fmt.Errorf("workspace %s is open already", disconnect.Scrub(name))
	}
	config := c.workspaceConfig(name, tunnel)
	if config.hostKey != nil && c.options.CheckHostKey != nil {
		if err := c.options.CheckHostKey(ctx, name, config.hostKey); err != nil {
			c.forget(tunnel.Key)
			return nil, err
		}
	}
	c.options.Step("connecting to the workspace")
	w, err := openWorkspace(ctx, config, func(w *Workspace) { c.adopt(tunnel.Key, w) })
	if err != nil {
		c.forget(tunnel.Key)
		return nil, err
	}
	return w, nil
}

// Waiting for an agent that is on its way back to a server that was restarted.
const (
	agentReturn = 10 * time.Second
	askAgain    = 250 * time.Millisecond
)

// tunnel asks for a tunnel, and for a while again when the agent is away only because
// the server was: agents come back by themselves, within seconds.
func (c *Client) tunnel(ctx context.Context, name string) (tailnet.Tunnel, error) {
	patience, cancel := context.WithTimeout(ctx, agentReturn)
	defer cancel()
	for {
		tunnel, err := c.controller.Tunnel(ctx, name)
		if !comingBack(err, clock.Now()) {
			return tunnel, err
		}
		c.options.Step("waiting for the workspace, which lost the server")
		timer := time.NewTimer(askAgain)
		select {
		case <-timer.C:
		case <-patience.Done():
			timer.Stop()
			return tunnel, err
		}
	}
}

// comingBack reports whether err says that an agent is offline because the server
// ended its link, not long ago.
func comingBack(err error, now time.Time) bool {
	var refused *tailnet.RefusedError
	return errors.As(err, &refused) && refused.Code == proto.Refusal_AGENT_OFFLINE &&
		refused.Ending.Initiator == disconnect.Server && now.Sub(refused.Since).Abs() < time.Minute
}

func (c *Client) workspaceConfig(name string, tunnel tailnet.Tunnel) workspaceConfig {
	// A key that does not parse pins nothing, and then no agent is accepted.
	hostKey, _, _, _, _ := ssh.ParseAuthorizedKey([]byte(tunnel.SSHHostKey))
	dial := func(port uint16) func(context.Context) (net.Conn, error) {
		return func(ctx context.Context) (net.Conn, error) { return c.node.DialTCP(ctx, tunnel.Key, port) }
	}
	return workspaceConfig{
		name: name, hostKey: hostKey,
		dialSSH: dial(agentproto.SSHPort), dialCompanion: dial(agentproto.CompanionPort), dialAPI: dial(agentproto.APIPort),
		packets:  peerPackets{c.node, tunnel.Key},
		instance: c.options.Instance, version: c.options.Version,
		logger: c.logger, outageLimit: c.options.OutageLimit, records: c.options.Records,
		kick: func() { c.node.Kick(tunnel.Key) }, facts: c.host.Facts, serverSilent: c.serverSilent,
	}
}

// reserve reports whether no way to the agent with key is open, and keeps the place for
// one that [Client.adopt] fills or [Client.forget] gives up.
func (c *Client) reserve(key proto.NodeKey) bool {
	c.mu.Lock()
	over, taken := c.workspaces[key]
	if taken && (over == nil || over.Ending().IsZero()) {
		c.mu.Unlock()
		return false
	}
	c.workspaces[key] = nil
	c.mu.Unlock()
	if over != nil {
		over.Goodbye(context.Background(), disconnect.Goodbye{}) // it has ended: there is only to wait for it
	}
	return true
}

// adopt makes w hear of its agent's life, from the last that is known on. The lock
// keeps the order: what is known now, then what the server says next.
func (c *Client) adopt(key proto.NodeKey, w *Workspace) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.workspaces[key] = w
	if p, ok := c.controller.Presence(key); ok {
		w.presence(p.Instance, p.Online, p.Goodbye, p.Ending)
	}
	w.pathChanged(c.node.Path(key))
}

// pathChanged passes on how packets reach an agent now.
func (c *Client) pathChanged(e tailnet.PathEvent) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if w := c.workspaces[e.Peer]; w != nil {
		w.pathChanged(e.New)
	}
}

// hostIsBack looks for the agents at once when this machine woke or has its link back.
func (c *Client) hostIsBack() {
	c.node.Refresh("the host is back")
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, w := range c.workspaces {
		if w != nil {
			w.watch.Probe()
		}
	}
}

// relayEnded passes on how a connection to a relay ended.
func (c *Client) relayEnded(a disconnect.Attribution, ofServer bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, w := range c.workspaces {
		if w != nil {
			w.watch.RelayLost(a, ofServer)
		}
	}
}

func (c *Client) forget(key proto.NodeKey) {
	c.mu.Lock()
	delete(c.workspaces, key)
	c.mu.Unlock()
	c.controller.RemoveTunnel(key)
}

func (c *Client) presence(key proto.NodeKey, p tailnet.Presence) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if w := c.workspaces[key]; w != nil {
		w.presence(p.Instance, p.Online, p.Goodbye, p.Ending)
	}
}

// tunnelFailure says in one sentence why there is no way to a workspace.
func (c *Client) tunnelFailure(ctx context.Context, name string, err error) error {
	var refused *tailnet.RefusedError
	if errors.As(err, &refused) {
		return &refusal{text: refusalText(name, refused, clock.Now()), err: refused}
	}
	return contactFailure(ctx, c.options.AccessURL, err)
}

// refusal is the server's refusal in one sentence.
type refusal struct {
	text string
	err  *tailnet.RefusedError
}

func (r *refusal) Error() string { return r.text }
func (r *refusal) Unwrap() error { return r.err }

func refusalText(name string, refused *tailnet.RefusedError, now time.Time) string {
	name = disconnect.Scrub(name)
	switch refused.Code {
	case proto.Refusal_NOT_FOUND:
		return "there is no workspace " + name
	case proto.Refusal_AGENT_OFFLINE:
		text := "the agent of workspace " + name + " is offline"
		if !refused.Since.IsZero() {
			text += " since " + refused.Since.Local().Format("2006-01-02 15:04:05") + sinceText(now.Sub(refused.Since))
		}
		if !refused.Ending.IsZero() {
			text += "; it ended with " + refused.Ending.String()
		}
		return text
	default:
		return "the server refused workspace " + name + ": " + disconnect.Scrub(refused.Message)
	}
}

// sinceText says how long ago something was that the server has dated. What lies in the
// future shows that the clocks disagree.
func sinceText(ago time.Duration) string {
	if ago < -time.Minute {
		return fmt.Sprintf(" (the server's clock is ahead of this machine's by %v)", -ago.Round(time.Second))
	}
	return fmt.Sprintf(" (%v ago)", max(ago, 0).Round(time.Second))
}

// Close leaves: it says g to the agents of all workspaces, then to the server, and
// stops the node. It waits for each to have heard it, for a few hundred milliseconds
// at most or until ctx ends, and up to two seconds for what the server is told of sessions
// that were lost.
func (c *Client) Close(ctx context.Context, g disconnect.Goodbye) {
	c.mu.Lock()
	var leaving, telling sync.WaitGroup
	for key, w := range c.workspaces {
		delete(c.workspaces, key)
		if w != nil {
			leaving.Go(func() { w.Goodbye(ctx, g) })
			telling.Go(w.tasks.Wait)
		}
	}
	c.mu.Unlock()
	defer telling.Wait()
	// The agents first: the server makes them forget us.
	leaving.Wait()
	c.host.Close()
	ctx, cancel := context.WithTimeout(ctx, leaveWait)
	defer cancel()
	if err := c.controller.Close(ctx, g); err != nil {
		c.logger.Debug("close control link", "error", err)
	}
	c.stop()
	c.tasks.Wait()
	if err := c.node.Close(); err != nil {
		c.logger.Debug("close tailnet node", "error", err)
	}
}
