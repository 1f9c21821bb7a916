package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"

	"github.com/spf13/cobra"
)

// outputFlag adds --output to a command and returns whether JSON was asked for.
func outputFlag(cmd *cobra.Command) func() (asJSON bool, err error) {
	format := cmd.Flags().StringP("output", "o", "table", "output format: table or json")
	return func() (bool, error) {
		switch *format {
		case "table":
			return false, nil
		case "json":
			return true, nil
		}
		return false, withCode(exitUsage, fmt.Errorf("--output %q is not known; use table or json", *format))
	}
}

// printJSON writes one value as one line.
func printJSON(w io.Writer, v any) error {
	return json.NewEncoder(w).Encode(v)
}

// logFlags adds the flags of commands that log, and returns the logger they choose.
func logFlags(cmd *cobra.Command, w io.Writer) func() (*slog.Logger, error) {
	level := cmd.Flags().String("log-level", "info", "lowest level to log: debug, info, warn, error or off")
	format := cmd.Flags().String("log-format", "text", "log format: text or json")
	return func() (*slog.Logger, error) {
		if *level == "off" {
			return slog.New(slog.DiscardHandler), nil
		}
		var l slog.Level
		if err := l.UnmarshalText([]byte(*level)); err != nil {
			return nil, withCode(exitUsage, fmt.Errorf("--log-level %q is not known; use debug, info, warn, error or off", *level))
		}
		opts := &slog.HandlerOptions{Level: l}
		switch *format {
		case "text":
			return slog.New(slog.NewTextHandler(w, opts)), nil
		case "json":
			return slog.New(slog.NewJSONHandler(w, opts)), nil
		}
		return nil, withCode(exitUsage, fmt.Errorf("--log-format %q is not known; use text or json", *format))
	}
}
