package threat

import (
	"strings"
	"testing"

	"fairlead.dev/fairlead/testutil"
)

// TestSecurityPageNamesItsTests: every sentence of docs/security.md that promises
// something, each of them a list item, names tests, and every test named exists.
func TestSecurityPageNamesItsTests(t *testing.T) {
	testutil.PageNamesItsTests(t, "../..", "docs/security.md", func(line string) bool {
		return strings.HasPrefix(line, "- ") && !strings.Contains(line, "there is no protection")
	})
}
