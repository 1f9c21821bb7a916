//go:build unix

package pty

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

type unixPTY struct {
	master *os.File
	name   string

	mu  sync.Mutex // guards tty
	tty *os.File   // nil once a command has it, or after Close
}

// Open opens a new pseudo-terminal. The caller closes it.
func Open() (PTY, error) {
	master, tty, err := pty.Open()
	if err != nil {
		return nil, fmt.Errorf("open terminal: %w", err)
	}
	pollable, err := nonblocking(master)
	if err != nil {
		_ = tty.Close()
		return nil, fmt.Errorf("open terminal: %w", err)
	}
	return &unixPTY{master: pollable, tty: tty, name: tty.Name()}, nil
}

// nonblocking returns f as a file of the runtime's poller, and closes f. creack/pty
// leaves the master in blocking mode, where Close would not unblock a Read.
func nonblocking(f *os.File) (*os.File, error) {
	defer f.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return nil, os.NewSyscallError("set nonblock", err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

func (p *unixPTY) Name() string { return p.name }

// Read hides EIO, which is how Linux says that the other side hung up.
func (p *unixPTY) Read(b []byte) (int, error) {
	n, err := p.master.Read(b)
	if errors.Is(err, syscall.EIO) {
		err = io.EOF
	}
	return n, err
}

func (p *unixPTY) Write(b []byte) (int, error) { return p.master.Write(b) }

func (p *unixPTY) SetReadDeadline(t time.Time) error { return p.master.SetReadDeadline(t) }

func (p *unixPTY) Close() error {
	p.mu.Lock()
	if p.tty != nil {
		_ = p.tty.Close()
		p.tty = nil
	}
	p.mu.Unlock()
	return p.master.Close()
}

func (p *unixPTY) Resize(s Size) error {
	ws := &unix.Winsize{Row: s.Rows, Col: s.Cols, Xpixel: s.XPixels, Ypixel: s.YPixels}
	err := control(p.master, func(fd int) error { return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, ws) })
	if err != nil {
		return fmt.Errorf("resize terminal: %w", err)
	}
	return nil
}

func (p *unixPTY) Size() (s Size, err error) {
	err = control(p.master, func(fd int) error {
		ws, err := unix.IoctlGetWinsize(fd, unix.TIOCGWINSZ)
		if err == nil {
			s = Size{Rows: ws.Row, Cols: ws.Col, XPixels: ws.Xpixel, YPixels: ws.Ypixel}
		}
		return err
	})
	if err != nil {
		return Size{}, fmt.Errorf("read terminal size: %w", err)
	}
	return s, nil
}

func (p *unixPTY) SetModes(modes map[uint8]uint32) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.tty == nil {
		return errors.New("set terminal modes: terminal is already in use")
	}
	if err := control(p.tty, func(fd int) error { return setModes(fd, modes) }); err != nil {
		return fmt.Errorf("set terminal modes: %w", err)
	}
	return nil
}

func (p *unixPTY) Start(cmd *exec.Cmd) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.tty == nil {
		return errors.New("start on terminal: terminal is already in use")
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = p.tty, p.tty, p.tty
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setsid = true
	cmd.SysProcAttr.Setctty = true // the terminal is descriptor 0 in the child
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start on terminal: %w", err)
	}
	// Only the command may keep it open, or the master never sees the hangup.
	_ = p.tty.Close()
	p.tty = nil
	return nil
}

// control runs f with f's descriptor, without racing Close and without leaving
// non-blocking mode as Fd would.
func control(file *os.File, f func(fd int) error) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := raw.Control(func(fd uintptr) { inner = f(int(fd)) }); err != nil {
		return err
	}
	return inner
}
