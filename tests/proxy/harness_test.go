package proxy

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"log"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// patience bounds anything that should happen soon on a loaded machine.
const patience = 60 * time.Second

// binary is the program under test.
var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "fairlead-proxy-")
	if err != nil {
		log.Fatal(err)
	}
	binary = filepath.Join(dir, "fairlead")
	build := exec.Command("go", "build", "-race", "-tags", "grpcnotrace", "-o", binary, "fairlead.dev/fairlead/cmd/fairlead")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		log.Fatalf("build the program under test: %v", err)
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// machine is where the processes of one test live.
type machine struct {
	t   *testing.T
	dir string
	env []string
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	m := &machine{t: t, dir: t.TempDir()}
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(strings.ToUpper(kv), "=")
		if !strings.HasPrefix(name, "FAIRLEAD_") && !strings.HasPrefix(name, "XDG_") && !strings.HasSuffix(name, "_PROXY") {
			m.env = append(m.env, kv)
		}
	}
	m.env = append(m.env, "HOME="+m.dir, "SHELL=/bin/sh", "FAIRLEAD_CONFIG_DIR="+m.path("config"),
		"GORACE=halt_on_error=1 atexit_sleep_ms=0")
	return m
}

func (m *machine) path(name string) string { return filepath.Join(m.dir, name) }

func (m *machine) write(name, content string) string {
	m.t.Helper()
	require.NoError(m.t, os.WriteFile(m.path(name), []byte(content), 0o600))
	return m.path(name)
}

// certify writes a certificate for the names, trusted by the machine's fairlead
// processes, and returns its files.
func (m *machine) certify(names ...string) (cert, key string) {
	m.t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(m.t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(0, 1, 0),
		DNSNames: names, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	require.NoError(m.t, err)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	require.NoError(m.t, err)
	cert = m.write("cert.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	key = m.write("key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})))
	m.env = append(m.env, "SSL_CERT_FILE="+cert)
	return cert, key
}

// result is what one finished command did.
type result struct {
	code           int
	stdout, stderr string
}

// run executes fairlead to its end.
func (m *machine) run(args ...string) result {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), 2*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Env, cmd.Dir = m.env, m.dir
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		m.t.Fatalf("run %q: %v\n%s", args, err, errOut.String())
	}
	require.NoError(m.t, ctx.Err(), "%q did not end\nstdout: %s\nstderr: %s", args, out.String(), errOut.String())
	require.NotContains(m.t, errOut.String(), "DATA RACE")
	return result{cmd.ProcessState.ExitCode(), out.String(), errOut.String()}
}

// process runs in the background until the test ends.
type process struct {
	t    *testing.T
	out  *output // both streams
	done chan struct{}
}

func (m *machine) start(args ...string) *process {
	m.t.Helper()
	return m.startCommand(exec.Command(binary, args...))
}

func (m *machine) startCommand(cmd *exec.Cmd) *process {
	m.t.Helper()
	cmd.Env, cmd.Dir = m.env, m.dir
	p := &process{t: m.t, out: &output{changed: make(chan struct{})}, done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = p.out, p.out
	require.NoError(m.t, cmd.Start())
	go func() {
		defer close(p.done)
		_ = cmd.Wait()
		p.out.close()
	}()
	m.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-p.done
		if m.t.Failed() {
			m.t.Logf("%s:\n%s", strings.Join(cmd.Args, " "), p.out)
		}
		if strings.Contains(p.out.String(), "DATA RACE") {
			m.t.Errorf("%s: data race:\n%s", cmd.Args[0], p.out)
		}
	})
	return p
}

// output collects what a process writes and lets a test wait for a part of it.
type output struct {
	mu      sync.Mutex // guards data, closed and changed
	data    bytes.Buffer
	closed  bool
	changed chan struct{} // closed and renewed at every change
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.data.Write(b)
	close(o.changed)
	o.changed = make(chan struct{})
	return len(b), nil
}

func (o *output) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	close(o.changed)
	o.changed = make(chan struct{})
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.data.String()
}

// await waits for a part of the output and returns all of it.
func (p *process) await(part string) string {
	p.t.Helper()
	deadline := time.After(patience)
	for {
		p.out.mu.Lock()
		text, closed, changed := p.out.data.String(), p.out.closed, p.out.changed
		p.out.mu.Unlock()
		if strings.Contains(text, part) {
			return text
		}
		if closed {
			p.t.Fatalf("waiting for %q: the process ended with:\n%s", part, text)
		}
		select {
		case <-changed:
		case <-deadline:
			p.t.Fatalf("waiting for %q: not seen in:\n%s", part, text)
		}
	}
}

// freePort returns a loopback address that nobody listens on.
func freePort(t *testing.T) (address, port string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	_, port, err = net.SplitHostPort(l.Addr().String())
	require.NoError(t, err)
	return l.Addr().String(), port
}

// awaitPort waits until somebody listens at address.
func awaitPort(t *testing.T, p *process, address string) {
	t.Helper()
	deadline := time.After(patience)
	for {
		if conn, err := net.Dial("tcp", address); err == nil {
			require.NoError(t, conn.Close())
			return
		}
		select {
		case <-p.done:
			t.Fatalf("the proxy ended with:\n%s", p.out)
		case <-deadline:
			t.Fatalf("nobody listens at %s:\n%s", address, p.out)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// server starts a server at address and returns it with its one-time code.
func (m *machine) server(address string, args ...string) (p *process, code string) {
	m.t.Helper()
	p = m.start(append([]string{"server", "--listen", address, "--state-dir", m.path("server"),
		"--stun-listen", "", "--log-format", "json"}, args...)...)
	p.await(`"server listening"`)
	_, rest, _ := strings.Cut(p.await("--code "), "--code ")
	return p, strings.Fields(rest)[0]
}

// settle logs in at url, creates the workspace dev and starts its agent.
func (m *machine) settle(url, code string) (agent *process) {
	m.t.Helper()
	r := m.run("login", url, "--code", code)
	require.Equal(m.t, 0, r.code, r.stderr)
	r = m.run("workspace", "create", "dev", "--token-file", m.path("agent-token"))
	require.Equal(m.t, 0, r.code, r.stderr)
	return m.start("agent", url, "--token-file", m.path("agent-token"), "--state-dir", m.path("agent"), "--force-relay", "--log-format", "json")
}

// online waits until the server lists the agent as online.
func (m *machine) online() {
	m.t.Helper()
	require.Eventually(m.t, func() bool { return strings.Contains(m.run("ls", "--output", "json").stdout, `"online"`) }, patience, 50*time.Millisecond)
}

// report is the output of `fairlead server check --output json`.
type report struct {
	OK     bool `json:"ok"`
	Checks []struct {
		Name, Status, Found, Meaning, Advice string
	} `json:"checks"`
	code int
}

func (m *machine) check(url string, args ...string) report {
	m.t.Helper()
	r := m.run(append([]string{"server", "check", url, "--output", "json"}, args...)...)
	out := report{code: r.code}
	require.NoError(m.t, json.Unmarshal([]byte(r.stdout), &out), "%s%s", r.stdout, r.stderr)
	return out
}

// requireFailed checks that exactly the named checks failed, and returns what the
// first found.
func (r report) requireFailed(t *testing.T, names ...string) string {
	t.Helper()
	var failed []string
	found := ""
	for _, c := range r.Checks {
		if c.Status != "fail" {
			continue
		}
		if failed = append(failed, c.Name); found == "" {
			found = c.Found
		}
		require.NotEmpty(t, c.Meaning)
		require.NotEmpty(t, c.Advice)
	}
	require.Equal(t, names, failed, "%+v", r)
	require.Equal(t, len(names) == 0, r.OK)
	require.Equal(t, map[bool]int{true: 0, false: 1}[r.OK], r.code)
	return found
}
