package cli

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is set by the linker for a release build.
var version = ""

// softwareVersion is the release, or what the build recorded of the commit.
func softwareVersion() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	revision, dirty := "", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision" && len(s.Value) >= 12:
			revision = "-" + s.Value[:12]
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "-dirty"
		}
	}
	return "devel" + revision + dirty
}

func newVersion(s streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version of this program",
		Args:  cobra.NoArgs,
	}
	output := outputFlag(cmd)
	cmd.RunE = run(func(*cobra.Command, []string) error {
		asJSON, err := output()
		if err != nil {
			return err
		}
		v := struct {
			Version  string `json:"version"`
			Go       string `json:"go"`
			Platform string `json:"platform"`
		}{softwareVersion(), runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH}
		if asJSON {
			return printJSON(s.out, v)
		}
		_, err = fmt.Fprintf(s.out, "fairlead %s (%s, %s)\n", v.Version, v.Go, v.Platform)
		return err
	})
	return cmd
}
