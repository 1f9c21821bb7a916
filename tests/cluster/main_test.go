package cluster

import (
	"os"
	"testing"

	"fairlead.dev/fairlead/tests/site"
)

func TestMain(m *testing.M) {
	if at := os.Getenv(listenVariable); at != "" {
		listenForTest(at)
		return
	}
	site.Main(m)
}
