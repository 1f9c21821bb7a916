package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"slices"
	"strings"

	"fairlead.dev/fairlead/tests/site"
)

// lab is everything that runs while the bench measures: a Fairlead server and agent
// as two processes, and a stock sshd.
type lab struct {
	*site.Site
	ctx  context.Context
	port string // of the sshd
}

func startLab(t *run) (*lab, error) {
	l := &lab{Site: site.Empty(t), ctx: t.ctx}
	if err := l.startSSHD(); err != nil {
		return nil, fmt.Errorf("start sshd: %w", err)
	}
	l.StartServer()
	l.Settle()
	l.StartAgent("--log-level", "error")
	return l, nil
}

// ssh returns a run of the stock client; options come before what is to be run.
func (l *lab) ssh(args ...string) *exec.Cmd {
	common := []string{"-F", "none", "-p", l.port, "-i", l.Path("user_key"),
		"-o", "IdentitiesOnly=yes", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=" + l.Path("known_hosts"),
		"-o", "LogLevel=ERROR", "-o", "Hostname=127.0.0.1"}
	remote := len(args) - 1
	return exec.CommandContext(l.ctx, "ssh", slices.Concat(common, args[:remote], []string{"bench"}, args[remote:])...)
}

func (l *lab) peers() []peer {
	fairlead := func(args ...string) *exec.Cmd { return l.Command(l.ctx, args...) }
	return []peer{
		{
			name:    "OpenSSH, plain loopback",
			command: func(remote string) *exec.Cmd { return l.ssh(remote) },
			banner: func() *exec.Cmd {
				return exec.CommandContext(l.ctx, "bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/"+l.port+"; exec cat <&3")
			},
		},
		{
			name:    "fairlead ssh, direct",
			command: func(remote string) *exec.Cmd { return fairlead("ssh", "dev", "--", remote) },
			banner:  func() *exec.Cmd { return fairlead("ssh", "--stdio", "dev") },
		},
		{
			name:    "fairlead ssh, relayed",
			command: func(remote string) *exec.Cmd { return fairlead("ssh", "--force-relay", "dev", "--", remote) },
			banner:  func() *exec.Cmd { return fairlead("ssh", "--force-relay", "--stdio", "dev") },
		},
	}
}

// startSSHD runs a stock sshd of this user on a free port, with keys of its own.
func (l *lab) startSSHD() error {
	addr := site.FreeAddress(l.T)
	_, l.port, _ = net.SplitHostPort(addr)
	return startSSHD(l.Home, addr, exec.Command)
}

// startSSHD runs a stock sshd at addr, started with command, and waits until it listens. Its
// keys are in home.
func startSSHD(home *site.Home, addr string, command func(name string, args ...string) *exec.Cmd) error {
	for _, name := range []string{"host_key", "user_key"} {
		if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", home.Path(name)).CombinedOutput(); err != nil {
			return fmt.Errorf("ssh-keygen: %w: %s", err, out)
		}
	}
	public, err := os.ReadFile(home.Path("user_key.pub"))
	if err != nil {
		return err
	}
	me, err := user.Current()
	if err != nil {
		return err
	}
	config := strings.Join([]string{
		"ListenAddress " + addr, "HostKey " + home.Path("host_key"), "AuthorizedKeysFile " + home.Path("authorized_keys"),
		"AllowUsers " + me.Username, "UsePAM no", "StrictModes no", "PidFile none", "PermitRootLogin prohibit-password",
		"MaxSessions 1000", "MaxStartups 1000", "Subsystem sftp internal-sftp",
	}, "\n")
	if err := errors.Join(os.WriteFile(home.Path("authorized_keys"), public, 0o600),
		os.WriteFile(home.Path("sshd_config"), []byte(config+"\n"), 0o600), runSSHDir()); err != nil {
		return err
	}
	p := home.StartCommand(command("/usr/sbin/sshd", "-D", "-e", "-f", home.Path("sshd_config")))
	p.Stderr.AwaitText(home.T, "Server listening on")
	return nil
}

// runSSHDir makes the directory in which a root sshd separates its privileges.
func runSSHDir() error {
	if os.Geteuid() != 0 {
		return nil
	}
	return os.MkdirAll("/run/sshd", 0o755)
}
