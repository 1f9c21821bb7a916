package disconnect

import (
	"io"
	"log"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// quietLog is for servers that would otherwise print the errors a test provokes.
func quietLog() *log.Logger { return log.New(io.Discard, "", 0) }
