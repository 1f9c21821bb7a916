package agentssh

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

const (
	// appVariable is how a client program says what it is.
	appVariable = "FAIRLEAD_APP"
	// nameVariable is how a client names a session.
	nameVariable = "FAIRLEAD_SESSION"

	maxClientEnv   = 256      // variables
	maxClientValue = 32 << 10 // bytes of one value
	maxMOTD        = 64 << 10 // bytes
	defaultPath    = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	fallbackShell  = "/bin/sh" // when nothing else is known
)

// account is the agent's own user, as the children see it.
type account struct {
	name, home, shell string
}

// currentAccount reads the password file: a shell is not to be had from os/user.
// A user without an entry, as containers have them, is described by the environment.
func currentAccount() account {
	a := account{name: os.Getenv("USER"), home: os.Getenv("HOME")}
	passwd, _ := os.ReadFile("/etc/passwd")
	if entry, ok := findAccount(passwd, os.Getuid()); ok {
		a.name, a.shell = entry.name, entry.shell
		if a.home == "" {
			a.home = entry.home
		}
	}
	if !usableShell(a.shell) {
		a.shell = os.Getenv("SHELL")
	}
	if !usableShell(a.shell) {
		a.shell = fallbackShell
	}
	if a.home == "" {
		a.home = "/"
	}
	return a
}

// usableShell leaves out the shells that mean "no login". The agent runs as this user
// already, so that they would protect nothing here.
func usableShell(path string) bool {
	switch filepath.Base(path) {
	case "nologin", "false", "true", "sync":
		return false
	}
	if !filepath.IsAbs(path) {
		return false
	}
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// findAccount returns the first entry of uid in a file like /etc/passwd.
func findAccount(passwd []byte, uid int) (account, bool) {
	want := strconv.Itoa(uid)
	for line := range bytes.Lines(passwd) {
		f := strings.Split(strings.TrimRight(string(line), "\r\n"), ":")
		if len(f) == 7 && f[2] == want && !strings.HasPrefix(f[0], "#") {
			return account{name: f[0], home: f[5], shell: f[6]}, true
		}
	}
	return account{}, false
}

// command returns the command for the session: a login shell, or the shell with the
// client's command line, as sshd does both.
func (s *session) command(line string) *exec.Cmd {
	who := currentAccount()
	cmd := &exec.Cmd{Path: who.shell, Dir: s.directory(who.home)}
	name := filepath.Base(who.shell)
	if s.kind == KindShell || (s.kind == KindAttach && line == "") {
		cmd.Args = []string{"-" + name}
	} else {
		cmd.Args = []string{name, "-c", line}
	}
	cmd.Env = s.environment(who)
	return cmd
}

// Directory returns where sessions start with the setting dir ("": at home), as an
// absolute path that need not exist.
func Directory(dir string) string { return directoryIn(currentAccount().home, dir) }

func directoryIn(home, dir string) string {
	switch {
	case dir == "" || dir == "~":
		return home
	case strings.HasPrefix(dir, "~/"):
		return filepath.Join(home, dir[2:])
	case !filepath.IsAbs(dir):
		return filepath.Join(home, dir)
	}
	return dir
}

// directory returns where the session starts.
func (s *session) directory(home string) string {
	dir := directoryIn(home, s.settings.Directory)
	// The dot makes this fail too when the directory must not be entered.
	if info, err := os.Stat(dir + "/."); err != nil || !info.IsDir() {
		s.c.srv.logger.Warn("ssh session directory is missing", "directory", dir, "error", err)
		return "/"
	}
	return dir
}

// environment is, later ones winning: the agent's own, the user's, the workspace's,
// the client's, and what describes the connection.
func (s *session) environment(who account) []string {
	env := newEnvironment(s.c.srv.cfg.StripEnv)
	env.set("PATH", defaultPath)
	env.add(os.Environ()...)
	env.set("HOME", who.home)
	env.set("SHELL", who.shell)
	if who.name != "" {
		env.set("USER", who.name)
		env.set("LOGNAME", who.name)
	}
	for _, name := range []string{"TERM", "SSH_TTY", "SSH_CLIENT", "SSH_CONNECTION"} {
		env.unset(name) // they would describe how the agent was started
	}
	for name, value := range s.settings.Environment {
		env.set(name, value)
	}
	env.add(s.env...)
	if s.pty != nil {
		if s.term != "" {
			env.set("TERM", s.term)
		}
		env.set("SSH_TTY", s.pty.Name())
	}
	if s.agent != nil {
		env.set(agentVariable, s.agent.path)
	}
	if s.x11 != nil {
		env.set("DISPLAY", s.x11.name)
		env.set("XAUTHORITY", s.x11.cookieFile())
	}
	remoteHost, remotePort, rerr := splitAddr(s.c.nc.RemoteAddr())
	localHost, localPort, lerr := splitAddr(s.c.nc.LocalAddr())
	if rerr == nil && lerr == nil {
		env.set("SSH_CLIENT", remoteHost+" "+remotePort+" "+localPort)
		env.set("SSH_CONNECTION", remoteHost+" "+remotePort+" "+localHost+" "+localPort)
	}
	return env.list()
}

func splitAddr(a net.Addr) (host, port string, err error) {
	if a == nil {
		return "", "", fmt.Errorf("no address")
	}
	return net.SplitHostPort(a.String())
}

// environment collects variables, the last of one name winning.
type environment struct {
	strip  []string
	values map[string]string
}

func newEnvironment(strip []string) *environment {
	return &environment{strip: strip, values: make(map[string]string)}
}

func (e *environment) set(name, value string) {
	if name == "" || strings.ContainsAny(name, "=\x00") || strings.Contains(value, "\x00") || e.stripped(name) {
		return
	}
	e.values[name] = value
}

func (e *environment) add(pairs ...string) {
	for _, pair := range pairs {
		name, value, _ := strings.Cut(pair, "=")
		e.set(name, value)
	}
}

func (e *environment) unset(name string) { delete(e.values, name) }

func (e *environment) stripped(name string) bool {
	return slices.ContainsFunc(e.strip, func(s string) bool {
		prefix, star := strings.CutSuffix(s, "*")
		if star || strings.HasSuffix(s, "_") {
			return strings.HasPrefix(name, prefix)
		}
		return name == s
	})
}

func (e *environment) list() []string {
	all := make([]string, 0, len(e.values))
	for name, value := range e.values {
		all = append(all, name+"="+value)
	}
	slices.Sort(all)
	return all
}

// deniedNames are what would change how the shell itself starts, or what describes
// the session and is ours to say.
var deniedNames = []string{
	"BASH_ENV", "ENV", "IFS", "SHELLOPTS", "BASHOPTS", "PS4", "HOME", "SHELL", "USER", "LOGNAME",
	"SSH_TTY", "SSH_CLIENT", "SSH_CONNECTION",
}

var deniedPrefixes = []string{"LD_", "DYLD_", "BASH_FUNC_"}

// clientMaySet guards against accidents, not against the client: it may run anything.
func clientMaySet(name, value string) bool {
	if name == "" || len(value) > maxClientValue || slices.Contains(deniedNames, name) {
		return false
	}
	for i, r := range name {
		letter := r == '_' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z'
		if !letter && (i == 0 || r < '0' || r > '9') {
			return false
		}
	}
	return !strings.Contains(value, "\x00") &&
		!slices.ContainsFunc(deniedPrefixes, func(p string) bool { return strings.HasPrefix(name, p) })
}

// motd returns the message of the day for a login shell on a terminal, unless the
// user does not want to see it.
func (s *session) motd() []byte {
	if s.settings.MOTDFile == "" || s.kind != KindShell {
		return nil
	}
	if _, err := os.Stat(filepath.Join(currentAccount().home, ".hushlogin")); err == nil {
		return nil
	}
	// A named pipe would wait for who writes to it.
	if info, err := os.Stat(s.settings.MOTDFile); err != nil || !info.Mode().IsRegular() {
		return nil
	}
	f, err := os.Open(s.settings.MOTDFile)
	if err != nil {
		return nil
	}
	defer f.Close()
	text, _ := io.ReadAll(io.LimitReader(f, maxMOTD))
	return bytes.ReplaceAll(bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n")), []byte("\n"), []byte("\r\n"))
}
