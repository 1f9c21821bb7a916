package cli

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// bindEnv sets each flag that the command line left alone from its variable:
// --state-dir from FAIRLEAD_STATE_DIR.
func bindEnv(cmd *cobra.Command) error {
	var failed error
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		value, set := os.LookupEnv(envName(f.Name))
		if f.Changed || !set || failed != nil || f.Name == "help" {
			return
		}
		if err := f.Value.Set(value); err != nil {
			failed = withCode(exitUsage, fmt.Errorf("%s=%q is not valid: %w", envName(f.Name), value, err))
			return
		}
		f.Changed = true
		note(f, "env "+envName(f.Name))
	})
	return failed
}

func envName(flag string) string {
	return "FAIRLEAD_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}
