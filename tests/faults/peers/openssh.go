package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"fairlead.dev/fairlead/tests/faults/scenario"
)

// product is what is put through the scenarios.
type product struct {
	name, file, pkg string
	// client begins the session from a stage's terminal.
	client func(*stage) (name string, args []string)
	// service is what the program of a session is called on the host, for signals.
	service string
	// The rules for what the client says when it ends, and for what the host's log says.
	ofClient, ofHost []rule
}

// version is that of the package.
func (p product) version(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "dpkg-query", "-W", "-f", "${Version}", p.pkg).Output()
	if err != nil {
		return "", fmt.Errorf("%s is not installed: %w", p.pkg, err)
	}
	return string(out), nil
}

var products = []product{openSSH, mosh}

var openSSH = product{
	name: "OpenSSH", file: "openssh.json", pkg: "openssh-server", service: "sshd",
	client: func(s *stage) (string, []string) {
		return "ssh", append(s.sshOptions(), "-tt", "root@"+s.lab.Agent.Addr.String(), "exec sh")
	},
	ofClient: []rule{
		means(`Timeout, server .* not responding`, says("peer_unresponsive", scenario.Agent, false), says("network_timeout", scenario.Network, false)),
		means(`Corrupted MAC|message authentication code incorrect`, says("protocol_error", scenario.Agent, false)),
		means(`Connection reset by`, says("connection_reset", scenario.Network, false)),
		means(`Network is unreachable|No route to host`, says("network_unreachable", scenario.Network, false)),
		means(`Broken pipe`, says("network_error", scenario.Network, false)),
		means(`timed out`, says("network_timeout", scenario.Network, false)),
		means(`closed by remote host`, unknown(scenario.Agent)),
		means(`Connection to .* closed`, says("graceful", scenario.Agent, true)).withCode(func(code int) bool { return code == 0 }),
		means(`Connection to .* closed`, says("process_exited", scenario.Agent, true)).withCode(func(code int) bool { return code != 255 }),
		means(`Connection to .* closed`, unknown("")),
	},
	ofHost: []rule{
		means(`Timeout, client not responding`, says("peer_unresponsive", scenario.Client, false), says("network_timeout", scenario.Network, false)),
		means(`Corrupted MAC|message authentication code incorrect`, says("protocol_error", scenario.Client, false)),
		means(`Received signal 15; terminating`, says("server_shutdown", scenario.Agent, true)),
		means(`timed out`, says("network_timeout", scenario.Network, false)),
		means(`Connection reset by peer`, says("connection_reset", scenario.Network, false)),
		means(`Broken pipe|connection abort|unreachable|No route to host`, says("network_error", scenario.Network, false)),
		means(`disconnected by user|Disconnected from user`, says("client_closed", scenario.Client, true), says("graceful", scenario.Agent, true)),
		means(`Connection closed by`, unknown(scenario.Client)),
	},
}

// sshOptions make ssh keep a session for as long as Fairlead's limit is in the scenario:
// it gives up after three keepalives without an answer.
func (s *stage) sshOptions() []string {
	var args []string
	for _, option := range []string{
		"ServerAliveInterval=" + s.alive(), "ServerAliveCountMax=3", "ConnectTimeout=20", "IdentitiesOnly=yes",
		"IdentityFile=" + s.path("user"), "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null",
	} {
		args = append(args, "-o", option)
	}
	return append([]string{"-F", "none"}, args...)
}

// alive is the interval of keepalives in seconds.
func (s *stage) alive() string { return fmt.Sprint(max(1, int(s.Limit/time.Second)/4)) }

// startSSHD runs the host's service, with keys of its own.
func (s *stage) startSSHD() error {
	config := strings.Join([]string{
		"ListenAddress " + s.lab.Agent.Addr.String(), "HostKey " + s.path("host"), "AuthorizedKeysFile " + s.path("user.pub"),
		"PermitRootLogin prohibit-password", "StrictModes no", "UsePAM no", "PidFile none", "LogLevel VERBOSE",
		"ClientAliveInterval " + s.alive(), "ClientAliveCountMax 3", "PrintMotd no", "PrintLastLog no", "",
	}, "\n")
	if err := os.WriteFile(s.path("sshd_config"), []byte(config), 0o600); err != nil {
		return err
	}
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil { // privilege separation
		return err
	}
	sshd := s.lab.Agent.Command(s.ctx, "/usr/sbin/sshd", "-D", "-e", "-f", s.path("sshd_config"))
	sshd.Stderr, sshd.WaitDelay = s.log, time.Second // the session's own may hold it longer
	if err := sshd.Start(); err != nil {
		return err
	}
	s.cleanup(func() {
		_ = sshd.Process.Kill()
		_ = sshd.Wait() // what it says is in the log
	})
	return s.log.await(s.ctx, "Server listening")
}

// makeKeys makes the keys of host and user.
func (s *stage) makeKeys() error {
	for _, name := range []string{"host", "user"} {
		out, err := exec.CommandContext(s.ctx, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", s.path(name)).CombinedOutput()
		if err != nil {
			return fmt.Errorf("make keys: %w: %s", err, out)
		}
	}
	return nil
}
