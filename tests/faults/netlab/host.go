package netlab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Host is one machine of a lab.
type Host struct {
	Name string     // client, nat, router, switch, agent, server or relay
	NS   string     // the network namespace, for "ip netns exec"
	Addr netip.Addr // where others reach it; the client only reaches out; none for the switch

	lab    *Lab
	netns  *os.File // the network namespace
	inode  uint64   // of netns, which is what /proc shows of those inside
	holder *exec.Cmd
	open   io.Closer // the holder lives as long as this is open
}

// holderScript is the life of a namespace: files of the host's own over those of the
// machine, one line when that is done, and then nothing until the builder closes or dies.
const holderScript = `set -e
hostname "$1"
f=$(readlink -f /etc/resolv.conf)
mkdir -p "${f%/*}"
[ -e "$f" ] || : >"$f"
mount --bind "$2" "$f"
echo held
exec cat`

// hold makes the namespaces and their names.
func (h *Host) hold(ctx context.Context) error {
	resolv := h.lab.path(h.Name + ".resolv.conf")
	if err := os.WriteFile(resolv, []byte("nameserver "+routerAddr.String()+"\noptions timeout:1 attempts:2\n"), 0o644); err != nil {
		return err
	}
	h.holder = exec.Command("unshare", "--net", "--mount", "--uts", "--propagation", "slave",
		"sh", "-c", holderScript, "sh", h.Name, resolv)
	var complaint strings.Builder
	h.holder.Stderr = &complaint
	stdin, err := h.holder.StdinPipe()
	if err != nil {
		return err
	}
	stdout, err := h.holder.StdoutPipe()
	if err != nil {
		return err
	}
	if err := h.holder.Start(); err != nil {
		h.holder = nil
		return err
	}
	h.open = stdin
	if _, err := io.ReadFull(stdout, make([]byte, len("held\n"))); err != nil {
		_ = h.holder.Wait() // which also ends the writing to complaint
		h.holder, h.open = nil, nil
		return fmt.Errorf("make its namespaces: %s", strings.TrimSpace(complaint.String()))
	}
	pid := strconv.Itoa(h.holder.Process.Pid)
	if h.netns, err = os.Open("/proc/" + pid + "/ns/net"); err != nil {
		return err
	}
	var stat unix.Stat_t
	if err := unix.Fstat(int(h.netns.Fd()), &stat); err != nil {
		return err
	}
	h.inode = stat.Ino
	return run(ctx, "", "ip", "netns", "attach", h.NS, pid)
}

// release ends what hold made, as far as it came.
func (h *Host) release() error {
	var errs []error
	if h.netns != nil {
		errs = append(errs, h.netns.Close())
	}
	if h.open != nil {
		errs = append(errs, h.open.Close())
	}
	if h.holder != nil {
		if err := h.holder.Wait(); err != nil && !killed(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, removeName(h.NS))...)
}

func killed(err error) bool {
	exit, ok := errors.AsType[*exec.ExitError](err)
	return ok && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL
}

// Command returns a command that runs inside the host, not yet started. Env, Dir and the
// standard files may be set as for any other; the process's id is that of the program
// itself. It leads a session and process group of its own, so that -pid reaches all of
// it, and is killed whole when ctx ends, and alone when this process dies.
func (h *Host) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	// The first shell knows the working directory; nsenter would lose it with the old mounts.
	script := []string{"-c", `exec nsenter --target "$0" --net --mount --uts --wdns="$PWD" -- "$@"`,
		strconv.Itoa(h.holder.Process.Pid), name}
	cmd := exec.CommandContext(ctx, "sh", append(script, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error {
		if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL); !errors.Is(err, syscall.ESRCH) {
			return err
		}
		return os.ErrProcessDone
	}
	return cmd
}

// Run executes a program inside to its end and returns what it wrote on standard output;
// what it complained about is in the error.
func (h *Host) Run(ctx context.Context, name string, args ...string) (string, error) {
	return h.RunWith(ctx, "", name, args...)
}

// RunWith is Run with something to read on standard input.
func (h *Host) RunWith(ctx context.Context, stdin string, name string, args ...string) (string, error) {
	cmd := h.Command(ctx, name, args...)
	var out, complaint strings.Builder
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &complaint
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("on %s: %s %s: %w: %s", h.Name, name, strings.Join(args, " "), err, strings.TrimSpace(complaint.String()))
	}
	return out.String(), nil
}

// Do calls f on a thread inside the host's network namespace: the sockets that f opens
// belong to the host for good, wherever they are used later. It holds for f's own
// goroutine only, so f must not resolve names nor dial more than one address; files and
// mounts are the machine's.
func (h *Host) Do(f func() error) error {
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer home.Close()
	if err := unix.Setns(int(h.netns.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter the namespace of %s: %w", h.Name, err)
	}
	defer func() {
		// A thread that cannot go home stays locked, and ends with this goroutine.
		if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
	}()
	return f()
}

// Processes returns the ids of all that runs inside, the holder not among them.
func (h *Host) Processes() ([]int, error) {
	all, err := inside([]uint64{h.inode})
	var pids []int
	for _, pid := range all {
		if pid != h.holder.Process.Pid {
			pids = append(pids, pid)
		}
	}
	return pids, err
}

// Dial connects to a literal address from inside.
func (h *Host) Dial(ctx context.Context, network, address string) (c net.Conn, err error) {
	err = h.Do(func() (err error) {
		c, err = new(net.Dialer).DialContext(ctx, network, address)
		return err
	})
	return c, err
}

// Listen listens inside, on a TCP address as "10.77.2.3:7080" or ":0". What is accepted
// belongs to the host, and may be served anywhere.
func (h *Host) Listen(address string) (l net.Listener, err error) {
	err = h.Do(func() (err error) {
		l, err = net.Listen("tcp4", address)
		return err
	})
	return l, err
}
