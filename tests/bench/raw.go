package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/pprof"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/tailnet"
	"fairlead.dev/fairlead/tailnet/proto"
	"fairlead.dev/fairlead/tailnet/relay"
)

// nodeCommand makes this program the far node of the raw stream: a process of its
// own, so that both ends do not share one scheduler.
const nodeCommand = "node"

// sourcePort is where the far node sends zeros to whoever connects.
const sourcePort = 9000

// reportRaw times one TCP stream inside the tailnet without SSH, beside the same stream
// on plain loopback.
func (b *bench) reportRaw() error {
	return b.rawStreams(fmt.Sprintf("one raw TCP stream of %d MB", b.bytes>>20), "tailnet, direct", b.bytes, false)
}

// reportRelayed does the same with the tailnet's stream through the relay.
func (b *bench) reportRelayed() error {
	return b.rawStreams(fmt.Sprintf("one raw TCP stream of %d MB, relayed", b.bytes>>22), "tailnet, relayed", b.bytes>>2, true)
}

func (b *bench) rawStreams(title, name string, bytes int64, relayed bool) error {
	speeds, costs := newTable(title, "MB/s"), newTable(title, "CPU-s/GB")
	site := startRelaySite()
	defer site.close()
	ways := []struct {
		name string
		run  func() (speed, cost float64, err error)
	}{
		{"plain TCP on loopback", func() (speed, cost float64, err error) { return plainStream(bytes) }},
		{name, func() (speed, cost float64, err error) {
			return tailnetStream(b.ctx, bytes, site, relayed, b.profiles)
		}},
	}
	for range b.streams {
		for _, way := range ways {
			speed, cost, err := way.run()
			if err != nil {
				return fmt.Errorf("%s: %w", way.name, err)
			}
			speeds.add(way.name, []float64{speed})
			costs.add(way.name, []float64{cost})
		}
	}
	speeds.print()
	costs.print()
	return nil
}

func plainStream(size int64) (speed, cost float64, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, 0, err
	}
	defer l.Close()
	go source(l)
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return 0, 0, err
	}
	return costing(size, func(began func()) (float64, error) {
		began()
		return receive(conn, size)
	})
}

// receive reads size bytes and returns MB/s.
func receive(conn net.Conn, size int64) (float64, error) {
	defer conn.Close()
	begin := time.Now()
	n, err := io.CopyN(io.Discard, conn, size)
	if err != nil {
		return 0, err
	}
	return float64(n) / 1e6 / time.Since(begin).Seconds(), nil
}

// source sends zeros to whoever connects, until they leave.
func source(l net.Listener) {
	zeros := make([]byte, 256<<10)
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			for {
				if _, err := conn.Write(zeros); err != nil {
					return
				}
			}
		}()
	}
}

// relaySite is a relay of the bench's own, which admits the two nodes.
type relaySite struct {
	relay  *relay.Relay
	server *httptest.Server
	signer *relay.TokenSigner
}

func startRelaySite() *relaySite {
	signer := relay.NewTokenSigner([32]byte{})
	r := relay.New(relay.Config{Admit: signer.Admit})
	mux := http.NewServeMux()
	mux.Handle("/api/v1/relay", r)
	return &relaySite{relay: r, server: httptest.NewServer(mux), signer: signer}
}

func (s *relaySite) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	s.relay.Close(ctx, disconnect.Goodbye{Reason: disconnect.ServerShutdown, Initiator: disconnect.Server})
	s.server.Close()
}

// benchNode is a node with its way to the relay.
type benchNode struct {
	*tailnet.Node
}

// nodeOrder is what the far process is told.
type nodeOrder struct {
	Relayed bool   `json:"relayed"`
	URL     string `json:"url"`
	Token   string `json:"token"`
	Profile string `json:"profile,omitempty"` // file for a CPU profile
}

func newBenchNode(key tailnet.PrivateKey, order nodeOrder) (*benchNode, error) {
	u, err := url.Parse(order.URL)
	if err != nil {
		return nil, err
	}
	dialer := tailnet.NewRelayDialer(u, http.DefaultClient)
	dialer.SetToken(order.Token)
	node, err := tailnet.NewNode(tailnet.Options{
		PrivateKey: key, DialRelay: dialer.Dial, ForceRelay: order.Relayed,
		AllowInbound: []uint16{sourcePort},
	})
	if err != nil {
		return nil, err
	}
	node.SetDERPMap(&proto.DERPMap{Regions: []*proto.DERPRegion{{Id: 1, Code: "bench", Name: "bench"}}}, "127.0.0.1")
	return &benchNode{node}, nil
}

// tailnetStream streams between this process and a far node; profiles is a directory for
// CPU profiles of both, or empty.
func tailnetStream(ctx context.Context, size int64, site *relaySite, relayed bool, profiles string) (speed, cost float64, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	profile := func(end string) string {
		if profiles == "" {
			return ""
		}
		return filepath.Join(profiles, fmt.Sprintf("raw-%s-relayed-%v.pprof", end, relayed))
	}
	near, far := tailnet.NewPrivateKey(), tailnet.NewPrivateKey()
	order := func(key tailnet.PrivateKey) nodeOrder {
		return nodeOrder{Relayed: relayed, URL: site.server.URL, Token: site.signer.Sign(relay.Claims{Node: key.Public(), Expires: time.Now().Add(time.Hour)})}
	}
	node, err := newBenchNode(near, order(near))
	if err != nil {
		return 0, 0, err
	}
	defer node.Close()
	farOrder := order(far)
	farOrder.Profile = profile("far")
	stop, err := startFar(ctx, node, far, farOrder)
	if err != nil {
		return 0, 0, err
	}
	defer stop()
	conn, err := dialUntil(ctx, node, far.Public(), relayed)
	if err != nil {
		return 0, 0, err
	}
	profiled, err := startProfile(profile("near"))
	if err != nil {
		return 0, 0, err
	}
	defer profiled()
	return costing(size, func(began func()) (float64, error) {
		began()
		return receive(conn, size)
	})
}

// dialUntil dials until the far node answers on the wanted kind of path.
func dialUntil(ctx context.Context, node *benchNode, far proto.NodeKey, relayed bool) (net.Conn, error) {
	want := tailnet.PathDirect
	if relayed {
		want = tailnet.PathRelay
	}
	for {
		attempt, cancel := context.WithTimeout(ctx, time.Second)
		conn, err := node.DialTCP(attempt, far, sourcePort)
		cancel()
		if err == nil {
			if _, err = io.ReadFull(conn, make([]byte, 1<<16)); err == nil && node.Path(far).Kind == want {
				return conn, nil
			}
			_ = conn.Close()
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(context.Cause(ctx), err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// startFar runs the far node and keeps both nodes informed of each other.
func startFar(ctx context.Context, near *benchNode, key tailnet.PrivateKey, order nodeOrder) (stop func(), err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	text, err := key.MarshalText()
	if err != nil {
		return nil, err
	}
	orderJSON, err := json.Marshal(order)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, nodeCommand, string(text), string(orderJSON))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	near.SetSelfCallback(func(n *proto.Node) { _ = writeNode(in, n) })
	pumped := make(chan struct{})
	go func() {
		defer close(pumped)
		_ = readNodes(out, near.UpsertPeer)
	}()
	return func() {
		near.SetSelfCallback(nil)
		_ = in.Close()
		<-pumped
		_ = cmd.Wait()
	}, nil
}

// runNode is the far process: it ends when its standard input does.
func runNode(args []string) error {
	if len(args) != 2 {
		return errors.New("want a key and an order")
	}
	var key tailnet.PrivateKey
	if err := key.UnmarshalText([]byte(args[0])); err != nil {
		return err
	}
	var order nodeOrder
	if err := json.Unmarshal([]byte(args[1]), &order); err != nil {
		return err
	}
	node, err := newBenchNode(key, order)
	if err != nil {
		return err
	}
	defer node.Close()
	listener, err := node.Listen(sourcePort)
	if err != nil {
		return err
	}
	profiled, err := startProfile(order.Profile)
	if err != nil {
		return err
	}
	defer profiled()
	go source(listener)
	node.SetSelfCallback(func(n *proto.Node) { _ = writeNode(os.Stdout, n) })
	return readNodes(os.Stdin, node.UpsertPeer)
}

// startProfile profiles this process into a file until stop is called; no name, no profile.
func startProfile(name string) (stop func(), err error) {
	if name == "" {
		return func() {}, nil
	}
	file, err := os.Create(name)
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(file); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return func() {
		pprof.StopCPUProfile()
		_ = file.Close()
	}, nil
}

func writeNode(w io.Writer, n *proto.Node) error {
	line, err := protojson.Marshal(n)
	if err != nil {
		return err
	}
	_, err = w.Write(append(line, '\n'))
	return err
}

func readNodes(r io.Reader, each func(*proto.Node) error) error {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		var n proto.Node
		if err := protojson.Unmarshal(lines.Bytes(), &n); err != nil {
			return err
		}
		if err := each(&n); err != nil {
			return err
		}
	}
	return lines.Err()
}
