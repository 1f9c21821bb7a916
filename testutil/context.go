package testutil

import (
	"context"
	"fmt"
	"testing"
	"time"
)

// Context returns a context that ends when the test does or after d, whichever
// comes first; the cause then says that the test took too long.
func Context(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), d, fmt.Errorf("test step took longer than %v", d))
	t.Cleanup(cancel)
	return ctx
}
