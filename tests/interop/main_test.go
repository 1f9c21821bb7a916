package interop

import (
	"flag"
	"os"
	"testing"

	"fairlead.dev/fairlead/tests/site"
)

var (
	binary = flag.String("interop.binary", "", "program under test; empty: it is built, with the race detector")
	page   = flag.String("interop.page", "", "file that the table is written to; empty: none")
	size   = flag.Int("interop.mib", 4, "how much is copied each way, in MiB")
	all    = flag.Bool("interop.all", false, "a client that is not installed fails the test")
)

func TestMain(m *testing.M) {
	flag.Parse()
	if *binary == "" {
		site.Main(m)
	}
	site.Binary = *binary
	os.Exit(m.Run())
}
