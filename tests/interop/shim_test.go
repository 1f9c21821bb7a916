package interop

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"

	"golang.org/x/crypto/ssh"

	"fairlead.dev/fairlead/agent/agentssh"
	"fairlead.dev/fairlead/disconnect"
)

// shimVariable makes the test binary stand in sshd's place: it takes sshd's options and
// configuration, as far as they concern an agent's SSH server, and serves with that.
const shimVariable = "FAIRLEAD_INTEROP_SSHD"

// shimDaemon as the variable's value is the process that listens.
const shimDaemon = "daemon"

// shimConfig is what the shim understands of an sshd_config.
type shimConfig struct {
	hostKeys  []string
	port, pid string
	acceptEnv []string
}

// shim is sshd, as far as OpenSSH's tests need it.
func shim(args []string) error {
	var file, log string
	inetd, dump, check := false, false, false
	for i := 0; i < len(args); i++ {
		switch a := args[i]; {
		case a == "-i":
			inetd = true
		case a == "-t":
			check = true
		case a == "-T":
			dump = true
		case strings.HasPrefix(a, "-f"), strings.HasPrefix(a, "-o"), strings.HasPrefix(a, "-E"):
			value := a[2:]
			if value == "" && i+1 < len(args) {
				i++
				value = args[i]
			}
			switch a[1] {
			case 'f':
				file = value
			case 'E':
				log = value
			}
		}
	}
	config, err := readShimConfig(file)
	switch {
	case err != nil || check:
		return err
	case dump:
		return fmt.Errorf("the shim has no configuration to show")
	case !inetd && os.Getenv(shimVariable) != shimDaemon:
		return daemonize(args)
	}
	server, err := config.server(log)
	if err != nil {
		return err
	}
	if inetd {
		return serveStdio(server)
	}
	return config.listen(server)
}

func readShimConfig(file string) (shimConfig, error) {
	var c shimConfig
	text, err := os.ReadFile(file)
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		if len(words) < 2 {
			continue
		}
		switch strings.ToLower(words[0]) {
		case "hostkey":
			c.hostKeys = append(c.hostKeys, words[1])
		case "port":
			c.port = words[1]
		case "pidfile":
			c.pid = words[1]
		case "acceptenv":
			c.acceptEnv = append(c.acceptEnv, words[1:]...)
		}
	}
	return c, err
}

// server is an agent's SSH server with the Ed25519 key of the configuration.
func (c shimConfig) server(log string) (*agentssh.Server, error) {
	out := io.Discard
	if log != "" {
		file, err := os.OpenFile(log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return nil, err
		}
		out = file // until the process ends
	}
	for _, file := range c.hostKeys {
		pem, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		key, err := ssh.ParsePrivateKey(pem)
		if err != nil || key.PublicKey().Type() != ssh.KeyAlgoED25519 {
			continue
		}
		server := agentssh.New(agentssh.Config{HostKey: key, Logger: slog.New(slog.NewTextHandler(out, nil)), StripEnv: []string{shimVariable}})
		server.SetPolicy(agentssh.Policy{AcceptEnv: strings.Join(c.acceptEnv, ",")})
		return server, nil
	}
	return nil, fmt.Errorf("no Ed25519 host key")
}

// daemonize starts the process that listens. It lives until it is told to end, as sshd.
func daemonize(args []string) error {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), shimVariable+"="+shimDaemon)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return cmd.Start()
}

func (c shimConfig) listen(server *agentssh.Server) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer stop()
	l, err := net.Listen("tcp", "127.0.0.1:"+c.port)
	if err != nil {
		return err
	}
	if err := os.WriteFile(c.pid, []byte(fmt.Sprintln(os.Getpid())), 0o600); err != nil {
		return err
	}
	defer os.Remove(c.pid)
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	<-ctx.Done()
	err = server.Close(context.Background(), disconnect.Goodbye{Reason: disconnect.ServerShutdown, Initiator: disconnect.Agent, Detail: "told to"})
	<-served
	return err
}

// serveStdio serves the connection that standard input and output are.
func serveStdio(server *agentssh.Server) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	ours, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return err
	}
	theirs, err := l.Accept()
	if err != nil {
		return err
	}
	_ = l.Close()
	go func() {
		_, _ = io.Copy(ours, os.Stdin)
		_ = ours.(*net.TCPConn).CloseWrite()
	}()
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		_, _ = io.Copy(os.Stdout, ours)
		_ = os.Stdout.Close()
	}()
	server.ServeConn(theirs)
	<-sent
	return nil
}
