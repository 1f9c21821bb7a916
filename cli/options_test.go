package cli

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func writeConfig(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fairlead.yaml")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// effective returns the settings that a command line leads to, by name.
func effective(t *testing.T, args ...string) map[string]setting {
	t.Helper()
	code, out, errOut := runCLI(t, append(args, "--print-config=json")...)
	require.Zero(t, code, errOut)
	var all []setting
	require.NoError(t, json.Unmarshal([]byte(out), &all), out)
	byName := map[string]setting{}
	for _, s := range all {
		byName[s.Name] = s
	}
	return byName
}

// TestOptionsComeFromFourPlaces: the flag goes before the variable, the variable
// before the file, and the file before the default.
func TestOptionsComeFromFourPlaces(t *testing.T) {
	t.Setenv("XDG_STATE_HOME", "/state")
	t.Setenv("FAIRLEAD_TLS_CERT", "env.pem")
	t.Setenv("FAIRLEAD_TLS_KEY", "env.key")
	path := writeConfig(t, "# ours\ntls-cert: file.pem\nlisten: 127.0.0.1:1\ninsecure-http: true\nlog-level: debug\nstun-listen: ''\n")
	got := effective(t, "server", "--config", path, "--tls-key", "flag.key", "--listen=127.0.0.1:2")
	file := "file " + path
	for _, want := range []setting{
		{"listen", "127.0.0.1:2", "flag"},
		{"tls-key", "flag.key", "flag"},
		{"tls-cert", "env.pem", "env FAIRLEAD_TLS_CERT"},
		{"insecure-http", "true", file},
		{"log-level", "debug", file},
		{"stun-listen", "", file},
		{"state-dir", "/state/fairlead/server", "default"},
		{"behind-proxy", "false", "default"},
	} {
		require.Equal(t, want, got[want.Name])
	}
	for _, command := range []string{"config", "print-config", "help"} {
		require.NotContains(t, got, command)
	}

	t.Setenv("FAIRLEAD_CONFIG", path)
	require.Equal(t, setting{"listen", "127.0.0.1:1", file}, effective(t, "server")["listen"], "the file may come from a variable too")
}

// TestPrintedConfigurationIsOne feeds --print-config back.
func TestPrintedConfigurationIsOne(t *testing.T) {
	_, out, _ := runCLI(t, "agent", "http://127.0.0.1:9", "--print-config", "--outage-limit", "90s", "--token-file", "a: b # c")
	path := writeConfig(t, out)
	got := effective(t, "agent", "--config", path)
	require.Equal(t, setting{"outage-limit", "1m30s", "file " + path}, got["outage-limit"])
	require.Equal(t, setting{"token-file", "a: b # c", "file " + path}, got["token-file"])
	require.Equal(t, setting{"url", "http://127.0.0.1:9", "file " + path}, got["url"])
}

func TestSecretsAreHidden(t *testing.T) {
	t.Setenv("FAIRLEAD_AGENT_TOKEN", "fla_secretsecret")
	t.Setenv("FAIRLEAD_URL", "http://127.0.0.1:9")
	for _, format := range []string{"yaml", "json"} {
		code, out, errOut := runCLI(t, "agent", "--print-config="+format)
		require.Zero(t, code, errOut)
		require.NotContains(t, out+errOut, "secretsecret")
	}
	got := effective(t, "agent")
	require.Equal(t, setting{"agent-token", "(hidden)", "env FAIRLEAD_AGENT_TOKEN"}, got["agent-token"])
	require.Equal(t, setting{"url", "http://127.0.0.1:9", "env FAIRLEAD_URL"}, got["url"])
	require.Equal(t, setting{"url", "http://127.0.0.1:8", "argument"}, effective(t, "agent", "http://127.0.0.1:8")["url"])

	path := writeConfig(t, "agent-token: fla_secretsecret\n")
	require.Equal(t, 0, func() int { code, _, _ := runCLI(t, "agent", "--config", path, "--print-config"); return code }())
	require.NoError(t, os.Chmod(path, 0o640))
	code, _, errOut := runCLI(t, "agent", "--config", path, "--print-config")
	require.Equal(t, exitUsage, code)
	require.Equal(t, "fairlead: "+path+":1: agent-token is a secret, and others may read this file: chmod 600 it\n", errOut)
	code, _, errOut = runCLI(t, "agent", "--agent-token", "fla_secretsecret")
	require.Equal(t, exitUsage, code, "a secret has no flag")
	require.NotContains(t, errOut, "secretsecret")
}

func TestBadConfigurationIsOneSentence(t *testing.T) {
	for text, want := range map[string]string{
		"lisen: x\n":             `:1: "lisen" is not an option of fairlead server`,
		"listen: a\nlisten: b\n": ":2: listen stands here twice",
		"listen: [a, b]\n":       ":1: listen takes one value, not a list",
		"listen:\n":              ":1: listen wants a value",
		"listen: {a: b}\n":       ":1: listen wants a value",
		"\ninsecure-http: 7x\n":  `:2: insecure-http: "7x" is not valid`,
		"- listen\n":             ":1: want lines of `option: value`",
		"a: b: c\n":              " is not YAML",
		"config: x.yaml\n":       `:1: "config" is not an option of fairlead server`,
	} {
		path := writeConfig(t, text)
		code, out, errOut := runCLI(t, "server", "--config", path)
		require.Equal(t, exitUsage, code, text)
		require.Contains(t, errOut, "fairlead: "+path+want, text)
		require.Equal(t, 1, strings.Count(errOut, "\n"), errOut)
		require.Empty(t, out)
	}
	code, _, errOut := runCLI(t, "server", "--config", "/nowhere.yaml")
	require.Equal(t, exitUsage, code)
	require.Equal(t, "fairlead: read configuration: open /nowhere.yaml: no such file or directory\n", errOut)
	code, _, errOut = runCLI(t, "server", "--print-config=xml")
	require.Equal(t, exitUsage, code)
	require.Equal(t, "fairlead: --print-config=xml is not known; use yaml, json or markdown\n", errOut)
}

var update = flag.Bool("update", false, "write docs/options.md instead of comparing it")

const optionsPage = "../docs/options.md"

// TestOptionsPage compares docs/options.md with the option tables.
func TestOptionsPage(t *testing.T) {
	t.Setenv("XDG_STATE_HOME", "/state")
	page := new(bytes.Buffer)
	page.WriteString(`# Options

<!-- Generated by "go generate ./cli"; do not edit. -->

An option of ` + "`fairlead server`, `agent`, `relay` and `up`" + ` has one name. It may be given as flag, as variable
or as key of the YAML file that ` + "`--config`" + ` (` + "`FAIRLEAD_CONFIG`" + `) names; a flag goes before a variable,
a variable before the file, the file before the default.

    fairlead server --state-dir /var/lib/fairlead
    FAIRLEAD_STATE_DIR=/var/lib/fairlead fairlead server
    echo 'state-dir: /var/lib/fairlead' > server.yaml; fairlead server --config server.yaml

` + "`--print-config`" + ` prints each option's value and where it came from, as a file that ` + "`--config`" + ` takes,
and exits; ` + "`--print-config=json`" + ` prints the same for programs. Secrets are hidden there, have no
flag (others on the machine can read those), and stand only in a file that nobody else may read.
`)
	for _, command := range []string{"server", "agent", "relay", "up"} {
		code, table, errOut := runCLI(t, command, "--print-config=markdown")
		require.Zero(t, code, errOut)
		page.WriteString("\n## fairlead " + command + "\n\n" + table)
	}
	if *update {
		require.NoError(t, os.WriteFile(optionsPage, page.Bytes(), 0o644))
	}
	have, err := os.ReadFile(optionsPage)
	require.NoError(t, err)
	require.Equal(t, page.String(), string(have), "docs/options.md is stale: run go generate ./cli")
}

// TestOptionsThatNeverWork: their exit code keeps a service manager from trying again.
func TestOptionsThatNeverWork(t *testing.T) {
	for want, args := range map[string][]string{
		"trusted proxies:":                    {"server", "--trusted-proxies", "10.0.0.0/33"},
		"must be given together":              {"server", "--tls-cert", "cert.pem"},
		"load TLS certificate:":               {"server", "--tls-cert", "nowhere.pem", "--tls-key", "nowhere.key", "--listen", "127.0.0.1:0", "--stun-listen", ""},
		"access URL:":                         {"server", "--access-url", "fairlead"},
		"refusing to serve 0.0.0.0:0 without": {"server", "--listen", "0.0.0.0:0", "--stun-listen", ""},
	} {
		code, out, errOut := runCLI(t, append(args, "--state-dir", t.TempDir())...)
		require.Equal(t, exitUsage, code, errOut)
		require.Contains(t, errOut, want)
		require.Empty(t, out)
	}
}
