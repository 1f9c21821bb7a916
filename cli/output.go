package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

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
	file := cmd.Flags().String("log-file", "", "append the log to this file (made with mode 0600) instead of showing it")
	return func() (*slog.Logger, error) {
		chosen := *level
		if f := cmd.Flags().Lookup("log-level"); chosen == "off" && *file != "" && !f.Changed {
			chosen = "info" // whoever names a file wants something in it
		}
		if chosen == "off" {
			return slog.New(slog.DiscardHandler), nil
		}
		var l slog.Level
		if err := l.UnmarshalText([]byte(chosen)); err != nil {
			return nil, withCode(exitUsage, fmt.Errorf("--log-level %q is not known; use debug, info, warn, error or off", chosen))
		}
		if *format != "text" && *format != "json" {
			return nil, withCode(exitUsage, fmt.Errorf("--log-format %q is not known; use text or json", *format))
		}
		if *file != "" {
			f, err := openLogFile(*file)
			if err != nil {
				return nil, err
			}
			w = f
		}
		opts := &slog.HandlerOptions{Level: l}
		if *format == "json" {
			return slog.New(slog.NewJSONHandler(w, opts)), nil
		}
		return slog.New(slog.NewTextHandler(w, opts)), nil
	}
}

// quietLogFlags is logFlags for a command whose output belongs to somebody else: it logs
// only when it is told to.
func quietLogFlags(cmd *cobra.Command, w io.Writer) func() (*slog.Logger, error) {
	logger := logFlags(cmd, w)
	level := cmd.Flags().Lookup("log-level")
	_ = level.Value.Set("off") // any text can be set
	level.DefValue = "off"
	return logger
}

// openLogFile opens a log to append to, for as long as the process lives. Each line is
// one write, so that several processes may share the file.
func openLogFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open log file: %w", err)
	}
	return f, nil
}

// programName is how the person called this program, so that a command we show can be
// typed as it stands: bin/fairlead in a clone, fairlead where it is installed.
func programName() string {
	if name := os.Args[0]; strings.ContainsRune(name, filepath.Separator) && !strings.ContainsAny(name, " '\"$\\") {
		return plain(name)
	}
	return "fairlead"
}
