//go:build unix

package agentssh_test

import (
	"bytes"
	"encoding/binary"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pkg/sftp"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"fairlead.dev/fairlead/agent/agentssh"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/testutil"
)

// TestSFTPEndings: each way in which a file session ends.
func TestSFTPEndings(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name      string
		end       func(h *host, in io.WriteCloser, hangUp, cut func())
		reason    disconnect.Reason
		initiator disconnect.Initiator
		detail    string
		code      int
	}{
		{"client ends", func(_ *host, in io.WriteCloser, _, _ func()) { _ = in.Close() },
			disconnect.Graceful, disconnect.Client, "normal exit", 0},
		{"client closes", func(_ *host, _ io.WriteCloser, hangUp, _ func()) { hangUp() },
			disconnect.ClientClosed, disconnect.Client, "client closed the session", -1},
		{"network", func(_ *host, _ io.WriteCloser, _, cut func()) { cut() },
			disconnect.NetworkError, disconnect.Network, "EOF", -1},
		{"shutdown", func(h *host, _ io.WriteCloser, _, _ func()) {
			require.NoError(h.t, h.Close(testutil.Context(h.t, patience), goodbye))
		}, disconnect.ServerShutdown, disconnect.Agent, goodbye.Detail, -1},
		{"too long a packet", func(h *host, in io.WriteCloser, _, _ func()) {
			_, err := in.Write(binary.BigEndian.AppendUint32(nil, 1<<30))
			require.NoError(h.t, err)
		}, disconnect.ProtocolError, disconnect.Client, "sftp: packet too long", 1},
		{"half a packet", func(h *host, in io.WriteCloser, _, _ func()) {
			_, err := in.Write([]byte{0, 0, 0, 9, 1})
			require.NoError(h.t, err)
			require.NoError(h.t, in.Close())
		}, disconnect.ProtocolError, disconnect.Client, "unexpected EOF", 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t, nil)
			s, _, raw := h.session()
			in, err := s.StdinPipe()
			require.NoError(t, err)
			out, err := s.StdoutPipe()
			require.NoError(t, err)
			require.NoError(t, s.Setenv("FAIRLEAD_APP", "files"))
			require.NoError(t, s.RequestSubsystem("sftp"))
			_, err = in.Write([]byte{0, 0, 0, 5, 1, 0, 0, 0, 3}) // init, version 3
			require.NoError(t, err)
			_, err = io.ReadFull(out, make([]byte, 9))
			require.NoError(t, err)
			test.end(h, in, func() { _ = s.Close() }, func() { _ = raw.Close() })
			h.expect(test.reason, test.initiator, test.detail, test.code)
			line := h.rec.Endings()[0]
			require.Equal(t, "sftp", line.Attrs["kind"])
			require.Equal(t, "files", line.Attrs["app"])
			require.Equal(t, "declared", line.Attrs["app_source"])
		})
	}
}

// TestSFTP: files arrive as they were sent, relative paths begin where sessions do, and
// what passes is counted.
func TestSFTP(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	h := newHost(t, func(c *agentssh.Config) {
		c.Settings = func() agentssh.Settings { return agentssh.Settings{Directory: dir} }
	})
	client, _ := h.dial()
	files, err := sftp.NewClient(client)
	require.NoError(t, err)
	data := make([]byte, 5<<20)
	_, _ = io.ReadFull(&counter{}, data)
	f, err := files.Create("sent")
	require.NoError(t, err)
	_, err = f.ReadFrom(bytes.NewReader(data))
	require.NoError(t, err)
	require.NoError(t, f.Close())
	stored, err := os.ReadFile(filepath.Join(dir, "sent"))
	require.NoError(t, err)
	require.True(t, bytes.Equal(data, stored))
	back, err := files.Open(filepath.Join(dir, "sent"))
	require.NoError(t, err)
	got, err := io.ReadAll(back)
	require.NoError(t, err)
	require.True(t, bytes.Equal(data, got))
	_, err = files.Open("missing")
	require.ErrorIs(t, err, os.ErrNotExist)
	require.NoError(t, files.Close())
	h.ending()
}

// TestOpenSSHFiles: the stock sftp and scp, the latter in its newer protocol.
func TestOpenSSHFiles(t *testing.T) {
	t.Parallel()
	for _, program := range []string{"sftp", "scp"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skip("the stock client is not installed (package openssh-client)")
		}
		h := newHost(t, nil)
		dir := t.TempDir()
		local, remote := filepath.Join(dir, "local"), filepath.Join(dir, "remote")
		require.NoError(t, os.WriteFile(local, []byte("content"), 0o600))
		cmd := h.openSSH() // for its options
		args := cmd.Args[1:]
		for i, arg := range args {
			if arg == "-p" {
				args[i] = "-P"
			}
		}
		if program == "scp" {
			args = append(args, local, "127.0.0.1:"+remote)
		} else {
			args = append(args, "-b", "-", "127.0.0.1")
		}
		run := exec.CommandContext(testutil.Context(t, patience), program, args...)
		run.Stdin = strings.NewReader("put " + local + " " + remote + "\nls " + dir + "\n")
		out, err := run.CombinedOutput()
		require.NoError(t, err, "%s: %s", program, out)
		got, err := os.ReadFile(remote)
		require.NoError(t, err)
		require.Equal(t, "content", string(got))
		h.expect(disconnect.Graceful, disconnect.Client, "normal exit", 0)
	}
}

// TestSFTPLinks: a link leads where the client said, relative or not, and one that cannot
// be made is refused.
func TestSFTPLinks(t *testing.T) {
	t.Parallel()
	h := newHost(t, nil)
	client, _ := h.dial()
	files, err := sftp.NewClient(client)
	require.NoError(t, err)
	defer files.Close()
	dir := t.TempDir()
	for name, leads := range map[string]string{"relative": "a/b", "up": "..", "self": "self", "absolute": "/no/where", "odd": "x\n\xff y"} {
		require.NoError(t, files.Symlink(leads, filepath.Join(dir, name)))
		got, err := os.Readlink(filepath.Join(dir, name))
		require.NoError(t, err)
		require.Equal(t, leads, got)
		require.Error(t, files.Symlink("again", filepath.Join(dir, name)), "it is there")
	}
	require.Error(t, files.Symlink("x", filepath.Join(dir, "no", "such")))
	_, err = files.Lstat(dir)
	require.NoError(t, err, "the session goes on")
}

// TestSFTPFsync: what was written is on the disk when the answer comes, and what cannot be
// is refused in words.
func TestSFTPFsync(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	h := newHost(t, func(c *agentssh.Config) {
		c.Settings = func() agentssh.Settings { return agentssh.Settings{Directory: dir} }
	})
	client, _ := h.dial()
	files, err := sftp.NewClient(client)
	require.NoError(t, err)
	for _, extension := range []string{"fsync@openssh.com", "statvfs@openssh.com", "posix-rename@openssh.com", "hardlink@openssh.com"} {
		_, ok := files.HasExtension(extension)
		require.True(t, ok, extension)
	}
	f, err := files.Create("relative")
	require.NoError(t, err)
	_, err = f.Write(make([]byte, 1<<20))
	require.NoError(t, err)
	require.NoError(t, f.Sync())
	require.NoError(t, os.Chmod(filepath.Join(dir, "relative"), 0o200))
	require.NoError(t, f.Sync(), "a file that may not be read")

	require.NoError(t, os.Rename(filepath.Join(dir, "relative"), filepath.Join(dir, "elsewhere")))
	require.Error(t, f.Sync())
	require.NoError(t, os.WriteFile(filepath.Join(dir, "relative"), nil, 0o600))
	require.ErrorContains(t, f.Sync(), "the file was moved or replaced since it was opened")
	require.NoError(t, f.Close())
	require.ErrorContains(t, f.Sync(), "closed")

	require.NoError(t, files.PosixRename(filepath.Join(dir, "elsewhere"), filepath.Join(dir, "relative")))
	info, err := os.Stat(filepath.Join(dir, "relative"))
	require.NoError(t, err)
	require.EqualValues(t, 1<<20, info.Size(), "the other was replaced")
	vfs, err := files.StatVFS(dir)
	require.NoError(t, err)
	require.NotZero(t, vfs.TotalSpace())
	require.NoError(t, files.Close())
	h.expect(disconnect.Graceful, disconnect.Client, "normal exit", 0)
}

// TestSFTPFsyncPipelined: a client that does not wait for the answers to what it writes
// hears of fsync after those, and of a handle that is none as of one.
func TestSFTPFsyncPipelined(t *testing.T) {
	t.Parallel()
	h := newHost(t, nil)
	s, _, _ := h.session()
	in, err := s.StdinPipe()
	require.NoError(t, err)
	out, err := s.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, s.RequestSubsystem("sftp"))
	name := filepath.Join(t.TempDir(), "f")
	send := func(m any) {
		content := ssh.Marshal(m)
		_, err := in.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(content))), content...))
		require.NoError(t, err)
	}
	receive := func() []byte {
		var size [4]byte
		_, err := io.ReadFull(out, size[:])
		require.NoError(t, err)
		packet := make([]byte, binary.BigEndian.Uint32(size[:]))
		_, err = io.ReadFull(out, packet)
		require.NoError(t, err)
		return packet
	}
	send(struct {
		Kind    byte
		Version uint32
	}{1, 3})
	require.Contains(t, string(receive()), "fsync@openssh.com")
	send(struct {
		Kind         byte
		ID           uint32
		Path         string
		Flags, Attrs uint32
	}{3, 1, name, 2 | 8, 0})
	handle := string(receive()[9:])
	type write struct {
		Kind   byte
		ID     uint32
		Handle string
		Offset uint64
		Data   string
	}
	type fsync struct {
		Kind         byte
		ID           uint32
		Name, Handle string
	}
	block := strings.Repeat("x", 20_000)
	const writes = 50
	go func() {
		for i := range writes {
			send(write{6, uint32(10 + i), handle, uint64(i * len(block)), block})
		}
		send(fsync{200, 100, "fsync@openssh.com", handle})
		send(fsync{200, 101, "fsync@openssh.com", "nonsense"})
	}()
	for i := range writes {
		require.Equal(t, append([]byte{101, 0, 0, 0, byte(10 + i)}, 0, 0, 0, 0), receive()[:9])
	}
	require.Equal(t, []byte{101, 0, 0, 0, 100, 0, 0, 0, 0}, receive()[:9])
	info, err := os.Stat(name)
	require.NoError(t, err)
	require.EqualValues(t, writes*len(block), info.Size())
	refused := receive()
	require.Equal(t, []byte{101, 0, 0, 0, 101}, refused[:5])
	require.NotZero(t, refused[8])
	require.NoError(t, in.Close())
	h.expect(disconnect.Graceful, disconnect.Client, "normal exit", 0)
}
