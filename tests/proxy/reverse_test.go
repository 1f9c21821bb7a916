package proxy

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/tests/site"
)

// fromDeploy reads a file of deploy/ and replaces what differs between the machine of
// the documentation and that of the test. All of it must be there.
func fromDeploy(t *testing.T, name string, replacements ...string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "..", "deploy", filepath.FromSlash(name)))
	require.NoError(t, err)
	text := string(data)
	for i := 0; i < len(replacements); i += 2 {
		require.Contains(t, text, replacements[i], "deploy/%s", name)
		text = strings.ReplaceAll(text, replacements[i], replacements[i+1])
	}
	return text
}

// freePort returns a port of loopback that nobody listens on.
func freePort(t *testing.T) string {
	t.Helper()
	_, port, err := net.SplitHostPort(site.FreeAddress(t))
	require.NoError(t, err)
	return port
}

// need skips the test when a program is not installed.
func need(t *testing.T, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		if path, err = exec.LookPath("/usr/sbin/" + program); err != nil {
			t.Skipf("%s is not installed (Debian: apt-get install %s): how Fairlead works behind it is not tested", program, program)
		}
	}
	return path
}

// nginx starts nginx with the server blocks in config, listening at address.
func (m *machine) nginx(address, config string) {
	m.t.Helper()
	program := need(m.t, "nginx")
	var temp strings.Builder
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		temp.WriteString(kind + "_temp_path " + m.Path(kind) + ";\n")
	}
	m.Write("nginx.conf", "daemon off;\nmaster_process off;\npid "+m.Path("nginx.pid")+";\nerror_log stderr warn;\nevents {}\nhttp {\naccess_log off;\n"+temp.String()+config+"}\n")
	site.AwaitPort(m.StartCommand(exec.Command(program, "-e", "stderr", "-p", m.Dir, "-c", m.Path("nginx.conf"))), address)
}

// caddy starts Caddy with the sites in config, listening at address.
func (m *machine) caddy(address, config string) {
	m.t.Helper()
	program := need(m.t, "caddy")
	m.Write("Caddyfile", "{\n\tadmin off\n\tauto_https disable_redirects\n}\n"+config)
	m.Setenv("XDG_DATA_HOME="+m.Path("caddy"), "XDG_CONFIG_HOME="+m.Path("caddy"))
	site.AwaitPort(m.StartCommand(exec.Command(program, "run", "--adapter", "caddyfile", "--config", m.Path("Caddyfile"))), address)
}

// front starts a reverse proxy on port, in front of the server at upstream.
type front func(m *machine, upstream, port string)

func nginxFrom(file, name, cert string) front {
	return func(m *machine, upstream, port string) {
		m.nginx("127.0.0.1:"+port, m.nginxConfig(file, name, cert, upstream, port))
	}
}

func (m *machine) nginxConfig(file, name, cert, upstream, port string) string {
	certFile, keyFile := m.certify("localhost")
	return fromDeploy(m.t, file, "listen 443 ssl;", "listen 127.0.0.1:"+port+" ssl;", "server_name "+name+";", "server_name localhost;",
		"/etc/ssl/certs/"+cert+".pem", certFile, "/etc/ssl/private/"+cert+".key", keyFile, "127.0.0.1:7080", upstream)
}

func caddyFrom(file, name string) front {
	return func(m *machine, upstream, port string) {
		certFile, keyFile := m.certify("localhost")
		m.caddy("127.0.0.1:"+port, fromDeploy(m.t, file, "\n"+name+" {\n", "\nlocalhost:"+port+" {\n\ttls "+certFile+" "+keyFile+"\n",
			"127.0.0.1:7080", upstream))
	}
}

// TestBehindReverseProxies: with the configurations that deploy/ offers everything
// works, and `fairlead server check` has nothing to say.
func TestBehindReverseProxies(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		front front
		path  string
	}{
		"nginx":      {nginxFrom("nginx/fairlead.conf", "fairlead.example.com", "fairlead"), ""},
		"nginx path": {nginxFrom("nginx/fairlead-path.conf", "www.example.com", "www"), "/fairlead"},
		"caddy":      {caddyFrom("caddy/Caddyfile", "fairlead.example.com"), ""},
		"caddy path": {caddyFrom("caddy/Caddyfile.path", "www.example.com"), "/fairlead"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t)
			port := freePort(t)
			url := "https://localhost:" + port + c.path
			c.front(m, m.Address, port)
			m.StartServer("--access-url", url, "--trusted-proxies", "127.0.0.1")
			m.Server.Stdout.AwaitText(t, "fairlead login "+url)
			m.check(url).requireFailed(t)

			m.settle(url)
			m.AwaitAgent("online")
			r := m.Run("ssh", "dev", "--", "echo through; exit 7")
			require.Equal(t, "through\n", r.Stdout, r.Stderr)
			require.Equal(t, 7, r.Code)
			require.Contains(t, m.Server.Stderr.String(), `"remote_addr":"127.0.0.1:0"`, "the address comes from X-Forwarded-For")
		})
	}
}

// TestBadReverseProxies: what is wrong with a proxy is found, and said.
func TestBadReverseProxies(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		from, to string // in the good configuration
		check    string
		found    string
	}{
		"short time-out":      {"proxy_read_timeout 60s;", "proxy_read_timeout 2s;", "idle", "was cut after 2"},
		"upgrade stripped":    {"proxy_set_header Upgrade $http_upgrade;", "", "upgrade", "the upgrade was stripped"},
		"html instead":        {"location / {", "location /api/v1/check/socket { default_type text/html; return 200 '<html>'; }\nlocation / {", "upgrade", "a page of HTML with status 200"},
		"relay not forwarded": {"location / {", "location /api/v1/relay { return 404; }\nlocation / {", "paths", "/api/v1/relay does not lead to the server"},
		"nobody behind":       {"proxy_pass http://", "proxy_pass http://127.0.0.1:1; #", "answer", "a proxy at"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t)
			port := freePort(t)
			url := "https://localhost:" + port
			config := m.nginxConfig("nginx/fairlead.conf", "fairlead.example.com", "fairlead", m.Address, port)
			require.Contains(t, config, c.from)
			m.nginx("127.0.0.1:"+port, strings.ReplaceAll(config, c.from, c.to))
			m.StartServer("--access-url", url, "--trusted-proxies", "127.0.0.1")
			require.Contains(t, m.check(url).requireFailed(t, c.check), c.found)
		})
	}
}

// TestAgentSaysThatItIsCut: an agent behind a proxy that bears less silence than there
// is between two heartbeats says so in its log.
func TestAgentSaysThatItIsCut(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	port := freePort(t)
	url := "https://localhost:" + port
	config := m.nginxConfig("nginx/fairlead.conf", "fairlead.example.com", "fairlead", m.Address, port)
	m.nginx("127.0.0.1:"+port, strings.ReplaceAll(config, "proxy_read_timeout 60s;", "proxy_read_timeout 1s;"))
	m.StartServer("--access-url", url, "--trusted-proxies", "127.0.0.1")
	m.settle(url)
	log := m.Agent.Stderr.AwaitText(t, "the control link is cut again and again")
	require.Contains(t, log, `"server_url":"`+url+`"`)
	require.Contains(t, log, `"disconnect_reason":"network_error"`)
	require.Contains(t, log, `"disconnect_initiator":"network"`)
}

// TestClientSaysThatItIsCut: a session goes on behind such a proxy; its user learns of it
// when it is over, once, and not in the middle of the screen.
func TestClientSaysThatItIsCut(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	port := freePort(t)
	url := "https://localhost:" + port
	config := m.nginxConfig("nginx/fairlead.conf", "fairlead.example.com", "fairlead", m.Address, port)
	m.nginx("127.0.0.1:"+port, strings.ReplaceAll(config, "proxy_read_timeout 60s;", "proxy_read_timeout 1s;"))
	m.StartServer("--access-url", url, "--trusted-proxies", "127.0.0.1")
	m.settle(url)
	m.AwaitAgent("online")
	sh := m.OpenShell("dev", "--log-file", m.Path("ssh.log"))
	const mark = "the control link is cut again and again"
	log := func() string {
		data, err := os.ReadFile(m.Path("ssh.log"))
		require.NoError(t, err)
		return string(data)
	}
	site.Eventually(t, "the warning in the log", func() bool { return strings.Contains(log(), mark) })
	sh.Echo("undisturbed")
	require.NotContains(t, sh.Out.String(), "again and again")
	sh.Type("exit 3\r")
	require.Equal(t, 3, sh.Wait())
	require.Equal(t, 1, strings.Count(log(), mark))
	told := "fairlead: the connection to the server at " + url + " was cut again and again without a word"
	require.Equal(t, 1, strings.Count(sh.Out.String(), told), sh.Out.String())
	require.Contains(t, sh.Out.String(), "fairlead server check "+url+"\r\n")
}

// TestUnconfiguredServer: a server that does not know that it is behind a proxy.
func TestUnconfiguredServer(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	port := freePort(t)
	caddyFrom("caddy/Caddyfile", "fairlead.example.com")(m, m.Address, port)
	m.StartServer()
	r := m.check("https://localhost:" + port)
	require.Contains(t, r.requireFailed(t, "caller"), "does not trust it")
	require.Contains(t, m.Server.Stderr.String(), "a proxy that is not trusted")

	plain := m.Run("server", "check", "https://localhost:"+port)
	require.Equal(t, 1, plain.Code)
	require.Contains(t, plain.Stdout, "fail  caller")
	require.Contains(t, plain.Stdout, "What to do: start the server with --trusted-proxies 127.0.0.1")
}

// TestDocumentShowsTheFiles: docs/deploy.md shows what is tested here.
func TestDocumentShowsTheFiles(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "deploy.md"))
	require.NoError(t, err)
	for _, name := range []string{"nginx/fairlead.conf", "nginx/fairlead-path.conf", "caddy/Caddyfile", "caddy/Caddyfile.path"} {
		require.Contains(t, string(page), "\n"+fromDeploy(t, name)+"```", "docs/deploy.md does not show deploy/%s", name)
	}
}
