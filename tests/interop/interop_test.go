package interop

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/tests/site"
)

// Cells of the table.
const (
	works  = "yes"
	fails  = "**no**"
	absent = "not installed"
)

// place is a workspace, and what the scripts need around it.
type place struct {
	*site.Site
	port    string // leads to the agent's SSH server
	web     string // address of the page
	socket  string // the same page
	key     ssh.PublicKey
	scripts string
	data    string
}

// TestClients fills the table. Cells run one after another, as a measurement would want it
// and as a loaded machine bears it.
func TestClients(t *testing.T) {
	p := newPlace(t)
	table := &collected
	for _, c := range clients {
		r := p.row(t, c)
		table.rows = append(table.rows, r)
	}
	table.rows = append(table.rows, p.goRow(t))
	for _, does := range openSSHDoes {
		t.Run("openssh "+strings.Trim(does.name, "`"), func(t *testing.T) {
			result := absent
			defer func() { table.more = append(table.more, [2]string{does.name, result}) }()
			if missing := lookFor(does.needs); missing != "" {
				skip(t, missing)
			}
			result = p.try(t, openSSH+does.script)
		})
	}
}

func newPlace(t *testing.T) *place {
	p := &place{Site: site.New(t)}
	p.Must("config-ssh", "--ssh-config-file", p.Path(".ssh/config"))
	p.data = p.Path("data")
	content := make([]byte, *size<<20)
	source := rand.NewChaCha8([32]byte{1})
	_, _ = source.Read(content)
	require.NoError(t, os.WriteFile(p.data, content, 0o600))
	here, err := os.Getwd()
	require.NoError(t, err)
	p.scripts = filepath.Join(here, "scripts")
	p.serveWeb(t)
	p.port = p.listen(t)
	p.key = p.hostKey(t)
	return p
}

// serveWeb serves the page on a port and on a unix socket.
func (p *place) serveWeb(t *testing.T) {
	short, err := os.MkdirTemp("", "web") // it is a socket's path
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(short) })
	p.socket = filepath.Join(short, "s")
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello\n") })}
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	unix, err := net.Listen("unix", p.socket)
	require.NoError(t, err)
	p.web = tcp.Addr().String()
	var serving sync.WaitGroup
	for _, l := range []net.Listener{tcp, unix} {
		serving.Go(func() { _ = server.Serve(l) })
	}
	t.Cleanup(func() {
		_ = server.Close()
		serving.Wait()
	})
}

// listen lends the workspace to clients that have no ProxyCommand: each connection is one
// `fairlead ssh --stdio`.
func (p *place) listen(t *testing.T) (port string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { p.lend(ctx, c.(*net.TCPConn)) })
		}
	})
	t.Cleanup(func() {
		cancel()
		_ = l.Close()
		serving.Wait()
	})
	_, port, err = net.SplitHostPort(l.Addr().String())
	require.NoError(t, err)
	return port
}

// lend gives the connection itself to the process, as inetd does.
func (p *place) lend(ctx context.Context, c *net.TCPConn) {
	file, err := c.File()
	_ = c.Close()
	if err != nil {
		return
	}
	defer file.Close()
	cmd := p.Command(ctx, "ssh", "--stdio", "dev")
	cmd.Stdin, cmd.Stdout = file, file
	_ = cmd.Run()
}

func (p *place) hostKey(t *testing.T) (key ssh.PublicKey) {
	conn, err := net.Dial("tcp", "127.0.0.1:"+p.port)
	require.NoError(t, err)
	sc, _, _, err := ssh.NewClientConn(conn, "dev", &ssh.ClientConfig{User: "me", HostKeyCallback: func(_ string, _ net.Addr, k ssh.PublicKey) error {
		key = k
		return nil
	}})
	require.NoError(t, err)
	require.NoError(t, sc.Close())
	return key
}

// row tries all that a client can.
func (p *place) row(t *testing.T, c client) row {
	r := row{name: c.name, cells: make(map[feature]string)}
	t.Run(c.name, func(t *testing.T) {
		missing := lookFor(c.needs)
		if missing == "" && c.check != "" && exec.Command("bash", "-c", c.check).Run() != nil {
			missing = "a part of it"
		}
		if missing != "" {
			r.version = absent
			skip(t, missing)
		}
		out, _ := exec.Command("bash", "-c", c.version).CombinedOutput()
		r.version = firstLine(out)
		for _, f := range features {
			if script, ok := c.scripts[f]; ok {
				r.cells[f] = fails // also if the test stops here
				t.Run(string(f), func(t *testing.T) { r.cells[f] = p.try(t, c.prepare+script) })
			}
		}
	})
	return r
}

// lookFor returns the first program that is not there.
func lookFor(programs string) string {
	for _, name := range strings.Fields(programs) {
		if _, err := exec.LookPath(name); err != nil {
			return name
		}
	}
	return ""
}

func skip(t *testing.T, missing string) {
	t.Helper()
	if *all {
		t.Fatalf("not installed: %s", missing)
	}
	t.Skipf("not installed: %s", missing)
}

// try runs a script and says whether it worked. What it leaves running is killed.
func (p *place) try(t *testing.T, script string) string {
	dir, err := os.MkdirTemp("", "try") // short: it is where sockets are
	require.NoError(t, err)
	defer os.RemoveAll(dir)
	_, free, err := net.SplitHostPort(site.FreeAddress(t))
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 2*site.Patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-eu", "-o", "pipefail", "-c", script)
	cmd.Env = append(p.Env[:len(p.Env):len(p.Env)], "CONFIG="+p.Path(".ssh/config"), "PORT="+p.port, "KEY="+ssh.FingerprintSHA256(p.key),
		"DATA="+p.data, "W="+dir, "WEB="+p.web, "SOCKET="+p.socket, "FREE="+free, "SCRIPTS="+p.scripts, "LC_ALL=C.UTF-8")
	cmd.Dir = dir
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	err = cmd.Run()
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	if err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		t.Errorf("%s: %v\n%s", script, err, disconnect.Scrub(out.String()))
		return fails
	}
	return works
}

// goRow is the client that needs no script.
func (p *place) goRow(t *testing.T) row {
	r := row{name: "golang.org/x/crypto/ssh", version: "that of go.mod", cells: make(map[feature]string)}
	connect := func(t *testing.T) *ssh.Client {
		c, err := ssh.Dial("tcp", "127.0.0.1:"+p.port, &ssh.ClientConfig{User: "me", HostKeyCallback: ssh.FixedHostKey(p.key)})
		require.NoError(t, err)
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	session := func(t *testing.T) *ssh.Session {
		s, err := connect(t).NewSession()
		require.NoError(t, err)
		return s
	}
	content, err := os.ReadFile(p.data)
	require.NoError(t, err)
	for f, do := range map[feature]func(*testing.T){
		connects: func(t *testing.T) { connect(t) },
		exits: func(t *testing.T) {
			var exit *ssh.ExitError
			require.ErrorAs(t, session(t).Run("exit 3"), &exit)
			require.Equal(t, 3, exit.ExitStatus())
		},
		uploads: func(t *testing.T) {
			s := session(t)
			s.Stdin = bytes.NewReader(content)
			require.NoError(t, s.Run("cmp - '"+p.data+"'"))
		},
		download: func(t *testing.T) {
			got, err := session(t).Output("cat '" + p.data + "'")
			require.NoError(t, err)
			require.True(t, bytes.Equal(content, got))
		},
		terminal: func(t *testing.T) {
			s := session(t)
			require.NoError(t, s.RequestPty("xterm", 24, 80, nil))
			require.NoError(t, s.Run("test -t 0"))
		},
		forwards: func(t *testing.T) {
			c, err := connect(t).Dial("tcp", p.web)
			require.NoError(t, err)
			_, err = io.WriteString(c, "GET / HTTP/1.0\r\n\r\n")
			require.NoError(t, err)
			page, err := io.ReadAll(c)
			require.NoError(t, err)
			require.Contains(t, string(page), "hello\n")
		},
	} {
		r.cells[f] = fails
		t.Run("x/crypto "+string(f), func(t *testing.T) {
			do(t)
			r.cells[f] = works
		})
	}
	return r
}

// row is what one client could do.
type row struct {
	name, version string
	cells         map[feature]string
}

// report is all that is written down.
type report struct {
	rows []row
	more [][2]string // of OpenSSH

	regress        []regressResult
	regressVersion string
}

// collected is what the tests that ran found, one after the other.
var collected report

var versionNoise = regexp.MustCompile(`^plink: |^psftp: | \[core|\]$|,.*$`)

func firstLine(out []byte) string {
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	return versionNoise.ReplaceAllString(line, "")
}

func (r *report) markdown() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, `# SSH clients that work

<!-- Generated by "make interop"; do not edit. -->

Each cell is a run of the real program against a real workspace (tests/interop). Copies are of
%d MiB, and what arrives is compared byte by byte; the exit status is 3. Clients with a
configuration of OpenSSH use what `+"`fairlead config-ssh`"+` wrote. The others connect to a local port that
leads to `+"`fairlead ssh --stdio`"+`. An empty cell: the client has no such thing, or it is not tried.
Net::SSH of Perl, lftp, sshfs, rsync, git and Ansible run OpenSSH's ssh.

| client | version | %s |
|---|---|%s
`, *size, joined(features), strings.Repeat("---|", len(features)))
	for _, row := range r.rows {
		fmt.Fprintf(&b, "| %s | %s |", row.name, row.version)
		for _, f := range features {
			fmt.Fprintf(&b, " %s |", row.cells[f])
		}
		b.WriteString("\n")
	}
	b.WriteString("\n## More of OpenSSH, and an auditor\n\n| what | works |\n|---|---|\n")
	for _, does := range r.more {
		fmt.Fprintf(&b, "| %s | %s |\n", does[0], does[1])
	}
	r.regressMarkdown(&b)
	return b.Bytes()
}

func joined(all []feature) string {
	words := make([]string, len(all))
	for i, f := range all {
		words[i] = string(f)
	}
	return strings.Join(words, " | ")
}
