package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"fairlead.dev/fairlead/agent"
	"fairlead.dev/fairlead/sdk"
)

// fleetCommand makes this program the fleet: a process full of agents, so that none of
// what they hold is counted as the server's.
const fleetCommand = "fleet"

// fleetStarted is what the fleet says when all of its agents have been started.
const fleetStarted = "fleet started"

// starters is how many agents of a fleet start at once.
const starters = 8

// runFleet runs one whole agent for each token on standard input, each with keys, a
// control link and a relay connection of its own: what `fairlead agent` runs, but in
// one process. It ends when its standard input does, without a word to the server.
func runFleet(args []string) error {
	if len(args) != 2 {
		return errors.New("want the server's URL and a directory")
	}
	u, err := sdk.ParseURL(args[0])
	if err != nil {
		return err
	}
	level := slog.LevelError
	if os.Getenv("FAIRLEAD_LOG_LEVEL") != "" {
		_ = level.UnmarshalText([]byte(os.Getenv("FAIRLEAD_LOG_LEVEL"))) // keeps the default
	}
	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	in := bufio.NewScanner(os.Stdin)
	var wg sync.WaitGroup
	slots := make(chan struct{}, starters)
	for i := 0; in.Scan() && in.Text() != ""; i++ {
		opts := agent.Options{
			AccessURL: u, Token: in.Text(), StateDir: filepath.Join(args[1], fmt.Sprint(i)),
			Logger: logger.With("agent", i), Version: "bench",
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if _, err := agent.New(opts); err != nil {
				logger.Error("agent did not start", "error", err)
			}
		})
	}
	wg.Wait()
	fmt.Println(fleetStarted)
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}
