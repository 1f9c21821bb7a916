package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"syscall"

	"fairlead.dev/fairlead/disconnect"
)

// forwardListener takes the connections of one forward on this machine.
type forwardListener struct {
	net.Listener
	forward Forward // with the address in truth
}

// listenForward opens one listener. An error is one sentence.
func listenForward(ctx context.Context, f Forward) (*forwardListener, error) {
	if f.Listen.Network == "unix" {
		if err := checkSocketPath(f.Listen.Address); err != nil {
			return nil, fmt.Errorf("listen on %s: %w", f.Listen, err)
		}
		removeDeadSocket(ctx, f.Listen.Address)
	}
	l, err := new(net.ListenConfig).Listen(ctx, f.Listen.Network, f.Listen.Address)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %s", f.Listen, listenReason(f.Listen, err))
	}
	if f.Listen.Network == "unix" {
		if err := os.Chmod(f.Listen.Address, 0o600); err != nil { // others may not pass through it
			_ = l.Close()
			return nil, fmt.Errorf("listen on %s: %w", f.Listen, err)
		}
	}
	f.Listen.Address = l.Addr().String()
	return &forwardListener{Listener: l, forward: f}, nil
}

// listenReason says why there is no listener, without the words that net adds.
func listenReason(e Endpoint, err error) string {
	var dns *net.DNSError
	switch {
	case errors.Is(err, syscall.EADDRINUSE) && e.Network == "unix":
		return "this file exists already, and is in use or is no socket"
	case errors.Is(err, syscall.EADDRINUSE):
		return "the port is in use by another program"
	case errors.Is(err, syscall.EACCES) && e.Network == "tcp":
		return "this port is only for privileged users; take one above 1023"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return "this machine does not have this address"
	case errors.As(err, &dns):
		return "the name does not resolve"
	}
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err
	}
	return disconnect.Scrub(err.Error())
}

// checkSocketPath refuses a path that no socket can have.
func checkSocketPath(path string) error {
	limit := 107
	if runtime.GOOS != "linux" {
		limit = 103
	}
	if len(path) > limit {
		return fmt.Errorf("the path of a socket has at most %d bytes, and this one has %d", limit, len(path))
	}
	return nil
}

// removeDeadSocket removes a socket that a process left behind that did not end in
// order: nobody can ever listen on it again.
func removeDeadSocket(ctx context.Context, path string) {
	info, err := os.Lstat(path)
	if err != nil || info.Mode().Type() != os.ModeSocket {
		return
	}
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if err == nil {
		_ = conn.Close()
	} else if errors.Is(err, syscall.ECONNREFUSED) {
		_ = os.Remove(path)
	}
}
