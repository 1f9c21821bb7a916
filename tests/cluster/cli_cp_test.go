package cluster

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/tests/site"
)

// TestCp: files and trees both ways, a run that is stopped and one that goes on, and what
// a program reads of it.
func TestCp(t *testing.T) {
	t.Parallel()
	s := site.New(t)
	from, to := s.Path("from"), s.Path("to")
	require.NoError(t, os.MkdirAll(filepath.Join(from, "sub"), 0o755))
	require.NoError(t, os.Mkdir(to, 0o755))
	big := bytes.Repeat([]byte("0123456789abcdef"), 64<<16)
	require.NoError(t, os.WriteFile(filepath.Join(from, "big"), big, 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(from, "sub", "line\nbreak"), []byte("x"), 0o600))

	r := s.Run("cp", from, "dev:"+to+"/")
	require.Equal(t, 0, r.Code, r.Stderr)
	require.Empty(t, r.Stderr)
	require.Contains(t, r.Stdout, from+"/big: 64.0 MiB\n")
	require.Contains(t, r.Stdout, from+"/sub/line break: 1 B\n")
	require.Regexp(t, `(?m)^2 of 2 files, 64.0 MiB of 64.0 MiB in [\d.]+ s\n$`, r.Stdout)
	got, err := os.ReadFile(filepath.Join(to, "from", "big"))
	require.NoError(t, err)
	require.True(t, bytes.Equal(big, got))
	r = s.Run("cp", from, "dev:"+to+"/")
	require.Equal(t, 0, r.Code, r.Stderr)
	require.Contains(t, r.Stdout, "; 2 were there already")

	// Down, by a path from the home directory, and stopped in the middle.
	down := s.Start("cp", "-q", "dev:from/big", s.Path("down"))
	part := func() int64 {
		all, _ := filepath.Glob(s.Path(".fairlead-part-*"))
		if len(all) != 1 {
			return 0
		}
		info, err := os.Stat(all[0])
		if err != nil {
			return 0
		}
		return info.Size()
	}
	site.Eventually(t, "a part that grows", func() bool { return part() > 6<<20 })
	down.Signal(syscall.SIGINT)
	code := down.Wait()
	if code != 0 { // else it was faster than the signal
		require.Equal(t, 1, code)
		require.Equal(t, "fairlead: stopped; run the same command again to go on\n", down.Stderr.String())
		require.NoFileExists(t, s.Path("down"))
		r = s.Run("cp", "dev:from/big", s.Path("down"))
		require.Equal(t, 0, r.Code, r.Stderr)
		require.Contains(t, r.Stdout, " of an earlier run")
	}
	got, err = os.ReadFile(s.Path("down"))
	require.NoError(t, err)
	require.True(t, bytes.Equal(big, got))
	require.Zero(t, part(), "nothing is left beside it")

	term := s.OnTerminal("cp", "dev:from/big", s.Path("again"))
	require.Equal(t, 0, term.Wait())
	require.Contains(t, term.Out.String(), "/s")
	require.Contains(t, term.Out.String(), "1 of 1 files, 64.0 MiB of 64.0 MiB")

	lost := s.Start("cp", "dev:from/big", s.Path("lost"))
	site.Eventually(t, "another part that grows", func() bool { return part() > 1<<20 })
	s.Agent.Stop()
	require.Equal(t, 255, lost.Wait(), lost.Stderr)
	require.Regexp(t, `^fairlead: the connection to dev ended: reason=server_shutdown initiator=agent .*; run the same command again to go on\n$`, lost.Stderr.String())
	require.NoFileExists(t, s.Path("lost"))
}

// TestCpBadInput: one clear sentence each.
func TestCpBadInput(t *testing.T) {
	t.Parallel()
	h := site.NewHome(t)
	up, _ := site.StartUp(h)
	h.Write("file", "x")
	for _, tc := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{}, 2, "name what to copy, and where to"},
		{[]string{"file"}, 2, "name what to copy, and where to"},
		{[]string{"file", "other"}, 2, "neither side is a workspace's"},
		{[]string{"local:a", "local:b"}, 2, "copy between workspaces in two steps"},
		{[]string{"a:x", "b:y", "."}, 2, "all sources must be of one workspace"},
		{[]string{"file", "Bad Name:x"}, 2, "cannot be a workspace"},
		{[]string{"file", "local:no/such/"}, 1, "copy to no/such/: it is no directory"},
		{[]string{"file", "local:no/such"}, 1, "no/such"},
		{[]string{"missing", "local:"}, 1, "copy missing: there is no such file, or it vanished"},
		{[]string{"local:missing", "."}, 1, "copy local:missing: there is no such file, or it vanished"},
		{[]string{"local:file", "no/such"}, 1, "copy to no/such: "},
		{[]string{"file", "nowhere:"}, 255, "there is no workspace nowhere"},
	} {
		r := h.Run(append([]string{"cp"}, tc.args...)...)
		require.Equal(t, tc.code, r.Code, "%q: %s", tc.args, r.Stderr)
		require.Contains(t, r.Stderr, tc.want, "%q", tc.args)
		require.LessOrEqual(t, strings.Count(r.Stderr, "\n"), 2, r.Stderr)
		require.LessOrEqual(t, strings.Count(r.Stdout, "\n"), 1, r.Stdout)
	}
	up.Stop()
}

// TestCpIntoAFullDisk: the part is named, and the next run goes on when there is room.
func TestCpIntoAFullDisk(t *testing.T) {
	t.Parallel()
	h := site.NewHome(t)
	up, _ := site.StartUp(h)
	require.NoError(t, os.Mkdir(h.Path("small"), 0o755))
	require.NoError(t, os.WriteFile(h.Path("big"), make([]byte, 8<<20), 0o644))
	script := fmt.Sprintf(`mount -t tmpfs -o size=4m,mode=700 tmpfs %[1]s || exit 97; %[2]s cp local:big %[1]s/; code=$?; ls -A %[1]s; exit $code`, h.Path("small"), site.Binary)
	r := h.Execute(nil, "unshare", "--mount", "sh", "-c", script)
	if r.Code == 97 || strings.Contains(r.Stderr, "unshare failed") {
		t.Skip("this needs a mount namespace of its own")
	}
	require.Equal(t, 1, r.Code, r.Stderr)
	require.Contains(t, r.Stderr, "no space left on device; what is copied is in "+h.Path("small")+"/.fairlead-part-")
	require.Contains(t, r.Stdout, ".fairlead-part-")
	up.Stop()
}
