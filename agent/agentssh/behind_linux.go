package agentssh

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

const (
	maxSocketLines = 64 << 10  // of one file of /proc/net
	maxCommandLine = 256 << 10 // bytes; an IDE's class path is long
	stateListen    = "0A"
	acceptsFlag    = 0x10000 // of a unix socket that listens
)

// listeningInode finds the socket of this host, owned by the agent's own user, that has
// accepted or will accept the other end of peer.
func listeningInode(peer net.Conn) (inode uint64, ok bool) {
	switch remote := peer.RemoteAddr().(type) {
	case *net.TCPAddr:
		if !onThisHost(peer) {
			return 0, false
		}
		to := remote.AddrPort()
		to = netip.AddrPortFrom(to.Addr().Unmap().WithZone(""), to.Port())
		for _, file := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
			if inode, ok = find(file, func(f []string) (string, bool) { return tcpListener(f, to) }); ok {
				return inode, true
			}
		}
	case *net.UnixAddr:
		return find("/proc/net/unix", func(f []string) (string, bool) { return unixListener(f, remote.Name) })
	}
	return 0, false
}

// find returns the inode that match finds in one of the file's lines.
func find(file string, match func(fields []string) (inode string, ok bool)) (uint64, bool) {
	f, err := os.Open(file)
	if err != nil {
		return 0, false
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for n := 0; n < maxSocketLines && lines.Scan(); n++ {
		if text, ok := match(strings.Fields(lines.Text())); ok {
			inode, err := strconv.ParseUint(text, 10, 64)
			return inode, err == nil && inode != 0
		}
	}
	return 0, false
}

// tcpListener reads a line of /proc/net/tcp: number, local and remote address, state,
// queues, timer, retransmits, user, timeout, inode, …
func tcpListener(f []string, to netip.AddrPort) (inode string, ok bool) {
	if len(f) < 10 || f[3] != stateListen || f[7] != strconv.Itoa(os.Getuid()) {
		return "", false
	}
	at, ok := parseSocketAddr(f[1])
	if !ok || at.Port() != to.Port() || (at.Addr() != to.Addr() && !at.Addr().IsUnspecified()) {
		return "", false
	}
	return f[9], true
}

// parseSocketAddr reads an address as the kernel prints it: words of 32 bits in the
// order of the machine's bytes, and the port.
func parseSocketAddr(s string) (netip.AddrPort, bool) {
	host, port, _ := strings.Cut(s, ":")
	number, err := strconv.ParseUint(port, 16, 16)
	raw, herr := hex.DecodeString(host)
	if err != nil || herr != nil || len(raw)%4 != 0 {
		return netip.AddrPort{}, false
	}
	for word := range slices.Chunk(raw, 4) {
		binary.NativeEndian.PutUint32(word, binary.BigEndian.Uint32(word))
	}
	addr, ok := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(addr.Unmap(), uint16(number)), ok
}

// unixListener reads a line of /proc/net/unix: number, references, protocol, flags,
// type, state, inode, path.
func unixListener(f []string, name string) (inode string, ok bool) {
	if len(f) < 8 || strings.Join(f[7:], " ") != name {
		return "", false
	}
	flags, err := strconv.ParseUint(f[3], 16, 32)
	return f[6], err == nil && flags&acceptsFlag != 0
}

// holders returns the command lines of the processes that have the socket open. Only
// processes of the agent's own user are looked at.
func holders(inode uint64) (all [][]string) {
	proc, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer proc.Close()
	names, _ := proc.Readdirnames(-1)
	want := "socket:[" + strconv.FormatUint(inode, 10) + "]"
	for _, name := range names {
		if _, err := strconv.Atoi(name); err != nil {
			continue
		}
		dir := "/proc/" + name
		if ownProcess(dir) && holds(dir+"/fd", want) {
			all = append(all, commandLine(dir+"/cmdline"))
		}
	}
	return all
}

func ownProcess(dir string) bool {
	info, err := os.Stat(dir)
	if err != nil {
		return false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == os.Getuid()
}

func holds(fds, want string) bool {
	dir, err := os.Open(fds)
	if err != nil {
		return false
	}
	defer dir.Close()
	for {
		names, err := dir.Readdirnames(256)
		for _, name := range names {
			if link, err := os.Readlink(fds + "/" + name); err == nil && link == want {
				return true
			}
		}
		if err != nil {
			return false
		}
	}
}

func commandLine(file string) []string {
	f, err := os.Open(file)
	if err != nil {
		return nil
	}
	defer f.Close()
	raw, _ := io.ReadAll(io.LimitReader(f, maxCommandLine))
	var args []string
	for arg := range bytes.SplitSeq(bytes.TrimSuffix(raw, []byte{0}), []byte{0}) {
		args = append(args, string(arg))
	}
	return args
}
