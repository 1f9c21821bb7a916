package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// lab is everything that runs while the bench measures: a Fairlead server and agent
// as two processes, and a stock sshd.
type lab struct {
	ctx    context.Context
	dir    string
	binary string
	url    string
	server *exec.Cmd
	agent  *exec.Cmd
	sshd   *exec.Cmd
	port   string
}

func startLab(ctx context.Context, dir, binary string) (_ *lab, err error) {
	l := &lab{ctx: ctx, dir: dir, binary: binary}
	defer func() {
		if err != nil {
			l.stop()
		}
	}()
	if err := l.startSSHD(); err != nil {
		return nil, fmt.Errorf("start sshd: %w", err)
	}
	if err := l.startFairlead(); err != nil {
		return nil, fmt.Errorf("start fairlead: %w", err)
	}
	return l, nil
}

func (l *lab) stop() {
	for _, cmd := range []*exec.Cmd{l.agent, l.server, l.sshd} {
		if cmd != nil && cmd.Process != nil {
			_ = cmd.Process.Signal(syscall.SIGTERM)
			_ = cmd.Wait()
		}
	}
}

func (l *lab) peers() []peer {
	ssh := func(args ...string) *exec.Cmd {
		return exec.CommandContext(l.ctx, "ssh", append([]string{"-F", "none", "-p", l.port, "-i", l.path("user_key"),
			"-o", "IdentitiesOnly=yes", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=" + l.path("known_hosts"),
			"-o", "LogLevel=ERROR", "127.0.0.1"}, args...)...)
	}
	fairlead := func(args ...string) *exec.Cmd { return l.fairlead(args...) }
	return []peer{
		{
			name:    "OpenSSH, plain loopback",
			command: func(remote string) *exec.Cmd { return ssh(remote) },
			banner: func() *exec.Cmd {
				return exec.CommandContext(l.ctx, "bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/"+l.port+"; exec cat <&3")
			},
		},
		{
			name:    "fairlead ssh, direct",
			command: func(remote string) *exec.Cmd { return fairlead("ssh", "bench", "--", remote) },
			banner:  func() *exec.Cmd { return fairlead("ssh", "--stdio", "bench") },
		},
		{
			name:    "fairlead ssh, relayed",
			command: func(remote string) *exec.Cmd { return fairlead("ssh", "--force-relay", "bench", "--", remote) },
			banner:  func() *exec.Cmd { return fairlead("ssh", "--force-relay", "--stdio", "bench") },
		},
	}
}

func (l *lab) path(name string) string { return filepath.Join(l.dir, name) }

func (l *lab) fairlead(args ...string) *exec.Cmd {
	cmd := exec.CommandContext(l.ctx, l.binary, args...)
	cmd.Env = append(os.Environ(), "HOME="+l.dir, "FAIRLEAD_CONFIG_DIR="+l.path("config"))
	cmd.Dir = l.dir
	return cmd
}

// startSSHD runs a stock sshd of this user on a free port, with keys of its own.
func (l *lab) startSSHD() error {
	for _, name := range []string{"host_key", "user_key"} {
		if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", l.path(name)).CombinedOutput(); err != nil {
			return fmt.Errorf("ssh-keygen: %w: %s", err, out)
		}
	}
	public, err := os.ReadFile(l.path("user_key.pub"))
	if err != nil {
		return err
	}
	me, err := user.Current()
	if err != nil {
		return err
	}
	addr, err := freeAddress()
	if err != nil {
		return err
	}
	_, l.port, _ = net.SplitHostPort(addr)
	config := strings.Join([]string{
		"ListenAddress " + addr, "HostKey " + l.path("host_key"), "AuthorizedKeysFile " + l.path("authorized_keys"),
		"AllowUsers " + me.Username, "UsePAM no", "StrictModes no", "PidFile none", "PermitRootLogin prohibit-password",
	}, "\n")
	if err := errors.Join(os.WriteFile(l.path("authorized_keys"), public, 0o600),
		os.WriteFile(l.path("sshd_config"), []byte(config+"\n"), 0o600)); err != nil {
		return err
	}
	if me.Uid == "0" {
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil { // privilege separation of a root sshd
			return err
		}
	}
	l.sshd = exec.CommandContext(l.ctx, "/usr/sbin/sshd", "-D", "-e", "-f", l.path("sshd_config"))
	if err := l.sshd.Start(); err != nil {
		return err
	}
	return waitFor(l.ctx, func() bool {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	})
}

// startFairlead runs server and agent as two processes, with one workspace.
func (l *lab) startFairlead() error {
	addr, err := freeAddress()
	if err != nil {
		return err
	}
	l.url = "http://" + addr
	var said bytes.Buffer
	l.server = l.fairlead("server", "--listen", addr, "--state-dir", l.path("server"), "--stun-listen", "127.0.0.1:0", "--log-level", "error")
	pipe, err := l.server.StdoutPipe()
	if err != nil {
		return err
	}
	if err := l.server.Start(); err != nil {
		return err
	}
	code := ""
	for buf := make([]byte, 1024); code == ""; {
		n, err := pipe.Read(buf)
		said.Write(buf[:n])
		if _, rest, ok := strings.Cut(said.String(), "--code "); ok && strings.Contains(rest, "\n") {
			code = strings.Fields(rest)[0]
		}
		if err != nil {
			return fmt.Errorf("the server said no one-time code: %w: %s", err, said.String())
		}
	}
	for _, args := range [][]string{
		{"login", l.url, "--code", code},
		{"workspace", "create", "bench", "--token-file", l.path("token")},
	} {
		if out, err := l.fairlead(args...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", args[0], err, out)
		}
	}
	l.agent = l.fairlead("agent", l.url, "--token-file", l.path("token"), "--state-dir", l.path("agent"), "--log-level", "error")
	if err := l.agent.Start(); err != nil {
		return err
	}
	return waitFor(l.ctx, func() bool {
		out, err := l.fairlead("ls", "--output", "json").Output()
		var list []struct {
			Agent struct {
				Status string `json:"status"`
			} `json:"agent"`
		}
		return err == nil && json.Unmarshal(out, &list) == nil && len(list) == 1 && list[0].Agent.Status == "online"
	})
}

func waitFor(ctx context.Context, ok func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			return errors.New("it did not come up in 30 s")
		case <-tick.C:
		}
	}
	return nil
}

func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}
