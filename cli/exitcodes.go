package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// exitCodes is what docs/cli.md and `fairlead help exit-codes` tell of each.
var exitCodes = []struct {
	code    string
	meaning string
}{
	{"0", "all is well; for `ping`: it was answered"},
	{"1", "something failed; one line on standard error says what"},
	{"2", "the command line, a variable or an option is not valid"},
	{"3", "`agent`, `relay`: the server will never accept this one; do not restart it"},
	{"4", "log in first, or the login is no longer valid"},
	{"5", "`ping`, `speedtest`: the workspace does not answer, or its agent is offline"},
	{"6", "`ping --until-direct`: it answers, but only over the relay"},
	{"7", "`ssh`, `cp`: the workspace is stopped and lets no session in"},
	{"255", "`ssh`, `port-forward`, `cp`: the connection was lost or could not be made, or somebody else ended it on purpose; `ping`, `speedtest`: the server could not be reached"},
	{"any", "`ssh`: the remote command's own status; 128+n when signal n ended it"},
}

// newExitCodes is a topic of the help, not a command.
func newExitCodes() *cobra.Command {
	var b strings.Builder
	b.WriteString("Exit codes:\n\n")
	for _, e := range exitCodes {
		fmt.Fprintf(&b, "  %-4s %s\n", e.code, strings.ReplaceAll(e.meaning, "`", ""))
	}
	return &cobra.Command{Use: "exit-codes", Short: "What the exit codes mean", Long: strings.TrimSpace(b.String())}
}
