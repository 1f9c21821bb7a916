package main

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"slices"
	"strings"
	"time"

	"fairlead.dev/fairlead/tests/faults/netlab"
	"fairlead.dev/fairlead/tests/site"
)

// sshdPort is where the stock sshd of the agent's host listens.
const sshdPort = "2222"

// workspace is the name of the agent's workspace to the user.
const workspace = "admin/dev"

// way is one way from the client's host to a shell on the agent's.
type way struct {
	name    string
	relayed bool
	// run runs a remote command line.
	run func(remote string) *exec.Cmd
	// stock is what the stock clients need to go this way, and the host to name; nil where
	// fairlead is the client.
	stock []string
	host  string
}

// speed is the lab of one run.
type speed struct {
	speedOptions
	t    *run
	net  *netSite
	ways []*way
}

func newSpeed(t *run, o speedOptions) (*speed, error) {
	net, err := startNetSite(t, "speed")
	if err != nil {
		return nil, err
	}
	s := &speed{speedOptions: o, t: t, net: net}
	err = startSSHD(net.host, "0.0.0.0:"+sshdPort, func(name string, args ...string) *exec.Cmd {
		return net.lab.Agent.Command(context.Background(), name, args...)
	})
	if err != nil {
		return nil, fmt.Errorf("start sshd: %w", err)
	}
	s.addStock("OpenSSH, plain link", net.lab.Agent.Addr.String(), "-p", sshdPort)
	if o.wireguard != "" {
		address, err := s.startWireGuard()
		if err != nil {
			return nil, fmt.Errorf("start wireguard-go: %w", err)
		}
		s.addStock("OpenSSH over wireguard-go", address, "-p", sshdPort)
	}
	s.addFairlead("fairlead ssh, direct")
	s.addStock("stock ssh, fairlead ssh --stdio", "dev", "-o", "ProxyCommand="+site.Binary+" ssh --stdio "+workspace)
	s.addFairlead("fairlead ssh, relayed", "--force-relay")
	s.ways[len(s.ways)-1].relayed = true
	return s, nil
}

// client returns a command of the client's host.
func (s *speed) client(name string, args ...string) *exec.Cmd {
	cmd := s.net.lab.Client.Command(s.t.ctx, name, args...)
	cmd.Env, cmd.Dir = s.net.user.Env, s.net.user.Dir
	return cmd
}

func (s *speed) addFairlead(name string, args ...string) {
	s.ways = append(s.ways, &way{name: name, run: func(remote string) *exec.Cmd {
		return s.net.user.Command(s.t.ctx, slices.Concat([]string{"ssh"}, args, []string{workspace, "--", remote})...)
	}})
}

func (s *speed) addStock(name, host string, options ...string) {
	if options[0] == "-p" {
		options = []string{"-o", "Port=" + options[1]} // as sftp takes it too
	}
	stock := slices.Concat([]string{
		"-F", "none", "-i", s.net.host.Path("user_key"), "-o", "IdentitiesOnly=yes", "-o", "StrictHostKeyChecking=no",
		"-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-o", "User=root",
	}, options)
	s.ways = append(s.ways, &way{name: name, stock: stock, host: host, run: func(remote string) *exec.Cmd {
		return s.client("ssh", slices.Concat(stock, []string{host, remote})...)
	}})
}

// startWireGuard connects the two hosts by wireguard-go with devices of the kernel, and
// returns the agent's address inside.
func (s *speed) startWireGuard() (address string, err error) {
	const port = "51820"
	ends := []struct {
		host          *netlab.Host
		device, inner string
		key           *ecdh.PrivateKey
	}{{s.net.lab.Client, "wgclient", "10.99.0.1", nil}, {s.net.lab.Agent, "wgagent", "10.99.0.2", nil}}
	for i := range ends {
		if ends[i].key, err = ecdh.X25519().GenerateKey(rand.Reader); err != nil {
			return "", err
		}
	}
	for i, end := range ends {
		other := ends[1-i]
		s.net.host.StartCommand(end.host.Command(context.Background(), s.wireguard, "-f", end.device))
		config := "set=1\nprivate_key=" + hex.EncodeToString(end.key.Bytes())
		if end.host == s.net.lab.Agent {
			config += "\nlisten_port=" + port
		}
		config += "\npublic_key=" + hex.EncodeToString(other.key.PublicKey().Bytes()) + "\nallowed_ip=" + other.inner + "/32"
		if other.host == s.net.lab.Agent {
			config += "\nendpoint=" + other.host.Addr.String() + ":" + port
		}
		if err := s.configure(end.device, config+"\n\n"); err != nil {
			return "", err
		}
		for _, command := range []string{"address add " + end.inner + "/24 dev " + end.device, "link set " + end.device + " mtu 1420 up"} {
			if _, err := end.host.Run(s.t.ctx, "ip", strings.Fields(command)...); err != nil {
				return "", err
			}
		}
	}
	return ends[1].inner, nil
}

// configure tells wireguard-go its configuration, once it listens.
func (s *speed) configure(device, config string) error {
	var conn net.Conn
	var err error
	for range 100 {
		if conn, err = net.Dial("unix", "/var/run/wireguard/"+device+".sock"); err == nil {
			break
		}
		select {
		case <-s.t.ctx.Done():
			return context.Cause(s.t.ctx)
		case <-time.After(50 * time.Millisecond):
		}
	}
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	if _, err := io.WriteString(conn, config); err != nil {
		return err
	}
	answer := make([]byte, 256)
	n, err := conn.Read(answer)
	if err != nil {
		return err
	}
	if text := string(answer[:n]); !strings.HasPrefix(text, "errno=0") {
		return errors.New("it answers " + text)
	}
	return nil
}
