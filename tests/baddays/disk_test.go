package baddays

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/tests/site"
)

// disk is a small file system that one process, and nobody else, sees at a path.
type disk struct {
	t    *testing.T
	path string // as the process sees it
	p    *site.Process
}

// onDisk starts fairlead with a file system of its own at path, with what is at from
// copied to it; "" copies nothing.
func onDisk(t *testing.T, h *site.Home, path, from, size string, args ...string) *disk {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a small file system needs root: what happens on a full disk is not tested")
	}
	require.NoError(t, os.MkdirAll(path, 0o700))
	script := `mount -t tmpfs -o size="$1",mode=700 tmpfs "$2" || exit 97
		if [ -n "$3" ]; then cp -a "$3"/. "$2" 2>/dev/null; fi
		shift 3; exec "$@"`
	cmd := exec.Command("unshare", append([]string{"--mount", "sh", "-c", script, "sh", size, path, from, site.Binary}, args...)...)
	return &disk{t, path, h.StartCommand(cmd)}
}

// file is where this process finds a file of the disk.
func (d *disk) file(name string) string {
	return filepath.Join("/proc", fmt.Sprint(d.p.Cmd.Process.Pid), "root", d.path, name)
}

// fill leaves no byte free.
func (d *disk) fill() {
	d.t.Helper()
	f, err := os.OpenFile(d.file("ballast"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	require.NoError(d.t, err)
	defer f.Close()
	for _, size := range []int{1 << 16, 1 << 12, 1} {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, size))
		}
		require.True(d.t, errors.Is(err, syscall.ENOSPC), err)
	}
}

func (d *disk) free() {
	d.t.Helper()
	require.NoError(d.t, os.Remove(d.file("ballast")))
}

// TestServerDiskFull: sessions live on and new ones begin; what would have to be written
// is refused with a sentence that says why; with space again all is as before.
func TestServerDiskFull(t *testing.T) {
	t.Parallel()
	s := site.Empty(t)
	d := onDisk(t, s.Home, s.Path("server"), "", "4m", "server", "--listen", s.Address, "--state-dir", s.Path("server"),
		"--stun-listen", "", "--log-format", "json")
	s.Server = d.p
	s.Settle()
	s.StartAgent()
	sh := s.OpenShell("dev")

	d.fill()
	var refused site.Result
	for i := 0; refused.Code == 0; i++ { // the log of the database has some room left
		require.Less(t, i, 200, "the disk is not full")
		refused = s.Run("workspace", "create", fmt.Sprintf("more%d", i), "--token-file", s.Path(fmt.Sprintf("token%d", i)))
	}
	require.Equal(t, 1, refused.Code, refused.Stderr)
	require.Contains(t, refused.Stderr, "the server's disk is full")
	require.Equal(t, 1, strings.Count(refused.Stderr, "\n"), refused.Stderr)
	sh.Echo("lives-on")
	require.Equal(t, "new\n", s.Must("ssh", "dev", "--", "echo new"))
	s.Must("ls")
	agent := s.Agent
	agent.Kill()
	s.LaunchAgent()
	s.Agent.Stderr.AwaitText(t, `"connected to server"`)
	require.Equal(t, "again\n", s.Must("ssh", "dev", "--", "echo again"))
	require.Less(t, strings.Count(s.Server.Stderr.String(), "\n"), 400, "no storm in the log")

	d.free()
	s.Must("workspace", "create", "after", "--token-file", s.Path("token-after"))
	require.Contains(t, s.Must("ls"), "after")
	// A backup reads all of the database through, from inside.
	r := s.Execute(nil, "nsenter", "--mount", "--target", fmt.Sprint(d.p.Cmd.Process.Pid),
		site.Binary, "server", "backup", s.Path("copy.db"), "--state-dir", s.Path("server"))
	require.Equal(t, 0, r.Code, r.Stderr)
	require.NotContains(t, s.Server.Stderr.String(), "panic")
	d.p.Stop()
}

// TestAgentDiskFull: an agent that has its keys needs no space, nor does its log; one that
// has none yet says that it cannot make them, and leaves no half ones.
func TestAgentDiskFull(t *testing.T) {
	t.Parallel()
	s := site.New(t)
	s.Agent.Stop()
	t.Run("with its keys", func(t *testing.T) {
		h := s.With(t)
		state := h.Path("full")
		d := onDisk(t, h, state, h.Path("agent"), "1m", "agent", s.URL, "--token-file", s.AgentToken, "--state-dir", state,
			"--log-format", "json", "--log-file", filepath.Join(state, "agent.log"), "--log-level", "debug")
		s.AwaitAgent("online")
		d.fill()
		for range 3 {
			require.Equal(t, "works\n", h.Must("ssh", "dev", "--", "echo works"))
		}
		keys := read(t, filepath.Join(h.Path("agent"), "ssh_host_ed25519_key"))
		require.Equal(t, keys, read(t, d.file("ssh_host_ed25519_key")))
		d.free()
		require.Equal(t, "works\n", h.Must("ssh", "dev", "--", "echo works"))
		site.Eventually(t, "the log to go on", func() bool { return strings.Contains(tail(t, d.file("agent.log")), "ssh session closed") })
		d.p.Stop()
	})
	t.Run("its record", func(t *testing.T) {
		h := s.With(t)
		state := h.Path("record")
		d := onDisk(t, h, state, h.Path("agent"), "1m", "agent", s.URL, "--token-file", s.AgentToken, "--state-dir", state, "--log-format", "json")
		s.AwaitAgent("online")
		sessions := 0
		degrade := func(times int) {
			d.fill()
			for strings.Count(d.p.Stderr.String(), `"journal holds records in memory only, the disk does not take them"`) < times {
				require.Less(t, sessions, 60, "the journal's file has room for them all")
				require.Equal(t, "works\n", h.Must("ssh", "dev", "--env", fmt.Sprintf("FAIRLEAD_APP=full%d", sessions), "--", "echo works"))
				sessions++
			}
		}
		degrade(1)
		site.Eventually(t, "an ending of each", func() bool {
			return strings.Count(h.Must("connections", "--status", "closed", "--output", "csv"), ",full") == sessions
		})
		d.free()
		d.p.Stderr.AwaitText(t, `"journal is on the disk again"`)
		require.Equal(t, 2, strings.Count(d.p.Stderr.String(), `"journal `), "told once, and once that it is over")
		degrade(2)
		site.Eventually(t, "the last ending", func() bool {
			return strings.Count(h.Must("connections", "--status", "closed", "--output", "csv"), ",full") == sessions
		})
		d.p.Stop() // the server has everything: nothing is lost
	})
	t.Run("without keys", func(t *testing.T) {
		h := s.With(t)
		state := h.Path("bare")
		require.NoError(t, os.Mkdir(h.Path("ballast"), 0o700))
		require.NoError(t, os.WriteFile(h.Path("ballast/ballast"), make([]byte, 1<<20), 0o600)) // more than fits
		d := onDisk(t, h, state, h.Path("ballast"), "64k", "agent", s.URL, "--token-file", s.AgentToken, "--state-dir", state, "--log-level", "error")
		require.Equal(t, 1, d.p.Wait(), d.p.Stderr)
		require.Contains(t, d.p.Stderr.String(), "no space left on device")
		require.Contains(t, d.p.Stderr.String(), state)
		require.Equal(t, 1, strings.Count(strings.TrimSpace(d.p.Stderr.String()), "fairlead: "), d.p.Stderr)
	})
}

// tail is the end of a file.
func tail(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() > 4096 {
		_, err = f.Seek(-4096, io.SeekEnd)
		require.NoError(t, err)
	}
	data, err := io.ReadAll(f)
	require.NoError(t, err)
	return string(data)
}
