package inject

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// goBuild builds a program of the module, and returns where it is.
func goBuild(t *testing.T, tags, pkg string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "program")
	build := exec.CommandContext(t.Context(), "go", "build", "-tags", tags, "-o", out, pkg)
	said, err := build.CombinedOutput()
	require.NoError(t, err, string(said))
	return out
}

// readClocks asks the program in testdata/clocks for what the product's clocks say.
func readClocks(t *testing.T, p *program) (boot, monotonic, wall time.Duration) {
	t.Helper()
	_, err := fmt.Fprintln(p.in)
	require.NoError(t, err)
	select {
	case line := <-p.lines:
		_, err := fmt.Sscanf(line, "%d %d %d", &boot, &monotonic, &wall)
		require.NoError(t, err, line)
	case <-time.After(patience):
		t.Fatal("it does not say")
	}
	return boot, monotonic, wall
}

// TestClockJumps: the tagged build believes the file, before and after a sleep.
func TestClockJumps(t *testing.T) {
	t.Parallel()
	lab := build(t, "clock")
	clock, err := NewClock(t.TempDir())
	require.NoError(t, err)
	const pkg = "./testdata/clocks"
	p := run(t, lab.Agent, "env", clock.Env(), goBuild(t, "faultclock", pkg))
	near := func(want, got time.Duration) {
		t.Helper()
		require.InDelta(t, want.Seconds(), got.Seconds(), 20)
	}
	boot, monotonic, wall := readClocks(t, p)
	gap := boot - monotonic
	near(0, wall)

	skewed := done[*Injection](t)(SkewWall(t.Context(), lab.Agent, clock, -time.Hour))
	_, _, wall = readClocks(t, p)
	near(-time.Hour, wall)
	undo(t, skewed)
	_, _, wall = readClocks(t, p)
	near(0, wall)

	asleep := done[*Injection](t)(Suspend(t.Context(), lab.Agent, clock, 5*time.Minute))
	require.True(t, asleep.Truth().Simulated)
	_, err = fmt.Fprintln(p.in)
	require.NoError(t, err)
	select {
	case line := <-p.lines:
		t.Fatal("it speaks in its sleep: " + line)
	case <-time.After(300 * time.Millisecond):
	}
	undo(t, asleep)
	<-p.lines // to the question that was asked in its sleep
	boot, monotonic, _ = readClocks(t, p)
	require.InDelta(t, (5 * time.Minute).Seconds(), (boot - monotonic - gap).Seconds(), 0.1)

	// Without the tag there is nothing to believe.
	deaf := run(t, lab.Server, "env", clock.Env(), goBuild(t, "grpcnotrace", pkg))
	boot, monotonic, _ = readClocks(t, deaf)
	require.InDelta(t, gap.Seconds(), (boot - monotonic).Seconds(), 0.1)
}

// TestReleaseHasNoFaultClock: what users run has neither the file nor the name of the hook.
func TestReleaseHasNoFaultClock(t *testing.T) {
	t.Parallel()
	files := func(tags string) string {
		out, err := exec.CommandContext(t.Context(), "go", "list", "-tags", tags, "-f", "{{.GoFiles}}", "fairlead.dev/fairlead/clock").Output()
		require.NoError(t, err)
		return string(out)
	}
	require.NotContains(t, files("grpcnotrace"), "fault.go")
	require.Contains(t, files("grpcnotrace,faultclock"), "fault.go")

	const hook = "FAIRLEAD_FAULT_CLOCK"
	require.True(t, strings.HasPrefix((&Clock{}).Env(), hook+"="))
	has := func(tags string) bool {
		program, err := os.ReadFile(goBuild(t, tags, "fairlead.dev/fairlead/cmd/fairlead"))
		require.NoError(t, err)
		require.True(t, bytes.Contains(program, []byte("FAIRLEAD_CONFIG_DIR")), "names are in it as they are")
		return bytes.Contains(program, []byte(hook))
	}
	require.False(t, has("grpcnotrace"))
	require.True(t, has("grpcnotrace,faultclock"))
}
