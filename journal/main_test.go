package journal

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// childVariable makes the test binary a child that a test starts, to be killed or to
// live in a mount namespace of its own. Its value says which.
const childVariable = "JOURNAL_TEST_CHILD"

func TestMain(m *testing.M) {
	name := os.Getenv(childVariable)
	if name == "" {
		goleak.VerifyTestMain(m)
		return
	}
	child, ok := children[name]
	if !ok {
		child = func(string) error { return fmt.Errorf("there is no child %q", name) }
	}
	if err := child(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
