package cluster

import (
	"testing"

	"fairlead.dev/fairlead/tests/site"
)

func TestMain(m *testing.M) { site.Main(m) }
