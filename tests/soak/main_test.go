package soak

import (
	"flag"
	"os"
	"testing"

	"fairlead.dev/fairlead/tests/site"
)

var (
	binary      = flag.String("soak.binary", "", "program under test; empty: it is built, with the race detector")
	agentKills  = flag.Int("soak.agents", 5, "how often the agent is killed")
	serverKills = flag.Int("soak.servers", 2, "how often the server is killed")
	workers     = flag.Int("soak.clients", 4, "how many clients are there at a time")
	seed        = flag.Uint64("soak.seed", 0, "of the schedule; 0: a new one, which the test prints")
)

func TestMain(m *testing.M) {
	flag.Parse()
	if *binary == "" {
		site.Main(m)
	}
	site.Binary = *binary
	os.Exit(m.Run())
}
