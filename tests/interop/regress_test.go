package interop

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/disconnect"
)

// Where Debian's package openssh-tests puts OpenSSH's own tests.
const regressDir = "/usr/lib/openssh/regress"

const (
	// regressLimit ends a test that hangs; the longest takes 75 s.
	regressLimit = 3 * time.Minute
	// regressAtOnce: most of them mostly sleep.
	regressAtOnce = 3
)

// regressResult is a row of the page.
type regressResult struct{ name, result, note string }

// TestOpenSSHTests runs those of OpenSSH's own tests that fit against our SSH server, with
// the shim in sshd's place. That it is each of the package's tests, or has its reason, is
// checked.
func TestOpenSSHTests(t *testing.T) {
	if !*regress {
		t.Skip("it takes some minutes: make interop")
	}
	if _, err := os.Stat(regressDir); err != nil {
		skip(t, "openssh-tests")
	}
	makefile, err := os.ReadFile(filepath.Join(regressDir, "Makefile"))
	require.NoError(t, err)
	require.NoError(t, allJudged(string(makefile)))
	version, err := exec.Command("dpkg-query", "-W", "-f", "${Version}", "openssh-tests").Output()
	require.NoError(t, err)
	collected.regressVersion = string(version)
	results := make([]regressResult, len(regressTests))
	slots := make(chan struct{}, regressAtOnce)
	var running sync.WaitGroup
	dirs, ports := make([]string, len(regressTests)), make([]int, len(regressTests))
	for i, r := range regressTests { // all before any runs: it may stop the test
		dirs[i], ports[i] = regressCopy(t, r), freePorts(t)
	}
	for i, r := range regressTests {
		if *only != "" && *only != r.name {
			continue
		}
		running.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			results[i] = regressResult{r.name, works, r.note}
			if err := r.run(t.Context(), dirs[i], ports[i]); err != nil {
				results[i].result = fails
				t.Errorf("OpenSSH's test %s: %v", r.name, err)
			}
		})
	}
	running.Wait()
	collected.regress = results
}

var regressNames = regexp.MustCompile(`(?m)^(?:LTESTS|INTEROP_TESTS|EXTRA_TESTS)=((?:.*\\\n)*.*)$`)

// allJudged fails for a test of the package that is neither run nor has a reason why not.
func allJudged(makefile string) error {
	var unknown, all []string
	for _, names := range regressNames.FindAllStringSubmatch(makefile, -1) {
		all = append(all, strings.Fields(strings.ReplaceAll(names[1], `\`, " "))...)
	}
	for _, name := range all {
		runs := slices.ContainsFunc(regressTests, func(r regressTest) bool { return r.name == name })
		skipped := 0
		for _, s := range regressSkipped {
			if slices.Contains(strings.Fields(s.names), name) {
				skipped++
			}
		}
		if (runs && skipped > 0) || (!runs && skipped != 1) {
			unknown = append(unknown, name)
		}
	}
	if len(all) < 80 {
		return fmt.Errorf("the Makefile names %d tests only: %q", len(all), all)
	}
	if len(unknown) > 0 {
		return fmt.Errorf("say in regresstable_test.go of these tests whether they run: %q", unknown)
	}
	return nil
}

// regressCopy is a directory with all that the test needs, and is what it spoils.
func regressCopy(t *testing.T, r regressTest) string {
	dir, err := os.MkdirTemp("", "r") // short: sockets are there
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	out, err := exec.Command("bash", "-c", `cd "$0" && cp -a $(ls | grep -vx unittests) "$1"`, regressDir, dir).CombinedOutput()
	require.NoError(t, err, string(out))
	exe, err := os.Executable()
	require.NoError(t, err)
	for name, script := range map[string]string{
		"sshd": `exec env -i PATH="$PATH" ` + shimVariable + `=1 ` + exe + ` "$@"`,
		// The tests of sftp and scp run a server beside them; here it is ours, through ssh.
		"sftp-server": `exec ssh -q -E /dev/null -F ` + dir + `/ssh_proxy -s somehost sftp`,
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script+"\n"), 0o700))
	}
	edit(t, filepath.Join(dir, "scp-ssh-wrapper.sh"), `set -- \$arg\n\tshift\n\texec \$SCP "\$@"`, `exec ssh -q -E /dev/null -F `+dir+`/ssh_proxy somehost "$$arg"`)
	for _, e := range r.edits {
		edit(t, filepath.Join(dir, r.name+".sh"), e[0], e[1])
	}
	return dir
}

// edit replaces what must be there.
func edit(t *testing.T, file, pattern, with string) {
	t.Helper()
	re := regexp.MustCompile(pattern)
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Regexp(t, re, string(text))
	require.NoError(t, os.WriteFile(file, re.ReplaceAll(text, []byte(with)), 0o700))
}

// freePorts returns the first of three ports that nobody listens on.
func freePorts(t *testing.T) int {
	t.Helper()
search:
	for {
		regressPort += 3
		require.Less(t, regressPort, 32000)
		for i := range 3 {
			l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(regressPort+i))
			if err != nil {
				continue search
			}
			require.NoError(t, l.Close())
		}
		return regressPort
	}
}

var regressPort = 24000

// run runs the test as the package's run-tests does.
func (r regressTest) run(ctx context.Context, dir string, port int) error {
	ctx, cancel := context.WithTimeout(ctx, regressLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", filepath.Join(dir, "test-exec.sh"), dir, filepath.Join(dir, r.name+".sh"))
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "TEST_SHELL=sh", "BUILDDIR="+dir, "OBJ="+dir, "TEST_SSH_SSH=ssh", "TEST_SSH_SSHD="+dir+"/sshd",
		"TEST_SSH_SFTPSERVER="+dir+"/sftp-server", "TEST_SSH_UNSAFE_PERMISSIONS=1", "TEST_SSH_PORT="+strconv.Itoa(port))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		return err
	}
	err := cmd.Wait()
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	if pid, perr := os.ReadFile(filepath.Join(dir, "pidfile")); perr == nil {
		if n, nerr := strconv.Atoi(strings.TrimSpace(string(pid))); nerr == nil {
			_ = syscall.Kill(n, syscall.SIGTERM)
		}
	}
	if err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		var said []string
		for line := range strings.Lines(out.String()) {
			said = append(said, disconnect.Scrub(line))
		}
		return fmt.Errorf("%w\n%s", err, strings.Join(said, "\n"))
	}
	return nil
}

func (r *report) regressMarkdown(b *bytes.Buffer) {
	if r.regress == nil {
		return
	}
	fmt.Fprintf(b, `
## OpenSSH's own tests

OpenSSH's tests (openssh-tests %s) with a program in sshd's place that is our SSH server.
The server that tests of sftp and scp run beside them is ours, too.

| test | works | what is changed |
|---|---|---|
`, r.regressVersion)
	for _, row := range r.regress {
		fmt.Fprintf(b, "| %s | %s | %s |\n", row.name, row.result, row.note)
	}
	b.WriteString("\nNot run:\n\n| tests | why |\n|---|---|\n")
	for _, s := range regressSkipped {
		fmt.Fprintf(b, "| %s | %s |\n", strings.ReplaceAll(s.names, " ", ", "), s.why)
	}
}
