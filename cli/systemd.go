package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"sync"
	"time"
)

// Variables of systemd's protocols, sd_notify(3) and sd_listen_fds(3).
const (
	envNotifySocket = "NOTIFY_SOCKET"
	envWatchdogTime = "WATCHDOG_USEC"
	envWatchdogPID  = "WATCHDOG_PID"
	envListenPID    = "LISTEN_PID"
	envListenFDs    = "LISTEN_FDS"
	envListenNames  = "LISTEN_FDNAMES"

	firstListenFD = 3
)

// serviceManager is systemd, if it started this process; otherwise nobody hears.
type serviceManager struct {
	socket   string
	watchdog time.Duration // 0: off
	logger   *slog.Logger
	watching sync.WaitGroup
}

// takeServiceManager reads the environment, and takes out of it what no process of a
// session may speak for us with.
func takeServiceManager(logger *slog.Logger) *serviceManager {
	m := &serviceManager{socket: os.Getenv(envNotifySocket), logger: logger}
	if pid := os.Getenv(envWatchdogPID); pid == "" || pid == strconv.Itoa(os.Getpid()) {
		if us, err := strconv.ParseInt(os.Getenv(envWatchdogTime), 10, 64); err == nil && us > 0 {
			m.watchdog = time.Duration(us) * time.Microsecond
		}
	}
	for _, name := range []string{envNotifySocket, envWatchdogTime, envWatchdogPID} {
		_ = os.Unsetenv(name) // fails only for an invalid name
	}
	return m
}

// tell sends one state. That it cannot be sent is worth a warning and no more.
func (m *serviceManager) tell(state string) {
	if m.socket == "" {
		return
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: m.socket, Net: "unixgram"})
	if err == nil {
		_, err = conn.Write([]byte(state))
		err = errors.Join(err, conn.Close())
	}
	if err != nil {
		m.logger.Warn("cannot tell the service manager", "state", state, "error", err)
	}
}

// run says that the service is ready, feeds the watchdog for as long as healthy says
// so, and says when ctx ends that the service stops. wait returns when all is told.
func (m *serviceManager) run(ctx context.Context, healthy func(context.Context) error) (wait func()) {
	m.tell("READY=1")
	m.watching.Go(func() {
		m.feed(ctx, healthy)
		m.tell("STOPPING=1")
	})
	return m.watching.Wait
}

// feed returns when ctx ends. During the stop nobody feeds: systemd has its own limit
// for that.
func (m *serviceManager) feed(ctx context.Context, healthy func(context.Context) error) {
	if m.watchdog == 0 || m.socket == "" {
		<-ctx.Done()
		return
	}
	tick := time.NewTicker(m.watchdog / 3)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		check, cancel := context.WithTimeout(ctx, m.watchdog/3)
		err := healthy(check)
		cancel()
		switch {
		case err == nil:
			m.tell("WATCHDOG=1")
		case ctx.Err() == nil:
			m.logger.Warn("not healthy: the service manager's watchdog is not fed", "error", err)
		}
	}
}

// inheritedListener returns the socket that systemd opened for us; nil if it did not.
func inheritedListener() (net.Listener, error) {
	pid, fds := os.Getenv(envListenPID), os.Getenv(envListenFDs)
	for _, name := range []string{envListenPID, envListenFDs, envListenNames} {
		_ = os.Unsetenv(name) // fails only for an invalid name
	}
	if fds == "" || pid != strconv.Itoa(os.Getpid()) {
		return nil, nil
	}
	if fds != "1" {
		return nil, fmt.Errorf("the socket unit passes %s sockets, want one", fds)
	}
	file := os.NewFile(firstListenFD, "socket unit")
	ln, err := net.FileListener(file)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("the socket unit's socket cannot be used: %w", err), file.Close())
	}
	if _, ok := ln.Addr().(*net.TCPAddr); !ok {
		return nil, errors.Join(errors.New("the socket unit's socket is not TCP"), ln.Close(), file.Close())
	}
	return ln, file.Close() // ln has a copy
}
