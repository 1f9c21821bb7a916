// Package site starts Fairlead as its users do, for the tests and measurements under
// tests/: the real binary as separate processes on loopback, each user's files in a
// directory of its own, and waits that end with what the process said. Whatever was
// started ends with the test that started it.
//
// It is not a place for tests, nor for servers, agents or nodes inside the test's own
// process; recorders of log lines for those are in testutil.
package site

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Patience bounds anything that should happen soon on a loaded machine.
const Patience = 60 * time.Second

// Binary is the program under test. Main sets it; who does without Main sets it before
// anything starts.
var Binary string

// T is what this package needs of a *testing.T.
type T interface {
	require.TestingT
	Helper()
	Failed() bool
	Logf(format string, args ...any)
	TempDir() string
	Context() context.Context
	Cleanup(func())
}

// Main builds the program under test with the race detector, runs the tests, and ends
// the process.
func Main(m *testing.M) {
	code, err := buildAndRun(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "build the program under test:", err)
		code = 1
	}
	os.Exit(code)
}

func buildAndRun(m *testing.M) (int, error) {
	dir, err := os.MkdirTemp("", "fairlead-tests-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	Binary = filepath.Join(dir, "fairlead")
	build := exec.Command("go", "build", "-race", "-tags", "grpcnotrace", "-o", Binary, "fairlead.dev/fairlead/cmd/fairlead")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return 0, err
	}
	return m.Run(), nil
}
