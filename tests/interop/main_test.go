package interop

import (
	"flag"
	"fmt"
	"os"
	"testing"

	"fairlead.dev/fairlead/tests/site"
)

var (
	binary  = flag.String("interop.binary", "", "program under test; empty: it is built, with the race detector")
	page    = flag.String("interop.page", "", "file that the table is written to; empty: none")
	size    = flag.Int("interop.mib", 4, "how much is copied each way, in MiB")
	regress = flag.Bool("interop.regress", false, "run OpenSSH's own tests, too")
	only    = flag.String("interop.only", "", "run this of OpenSSH's own tests alone")
	all     = flag.Bool("interop.all", false, "a client that is not installed fails the test")
)

func TestMain(m *testing.M) {
	if os.Getenv(shimVariable) != "" {
		if err := shim(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, "sshd shim:", err)
			os.Exit(1)
		}
		return
	}
	flag.Parse()
	if *binary == "" {
		site.Main(m)
	}
	site.Binary = *binary
	code := m.Run()
	if *page != "" {
		if err := os.WriteFile(*page, collected.markdown(), 0o644); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}
