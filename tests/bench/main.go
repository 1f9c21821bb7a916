// Command bench measures Fairlead beside its peers, in one run on one machine, and
// prints the figures as the tables of docs/performance.md. It starts the release
// binary and stock OpenSSH as processes on loopback, takes turns between them so that
// both see the same noise, and bounds every load. It asserts nothing: a figure is
// read by a person.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) > 1 {
		if run := commands[os.Args[1]]; run != nil {
			if err := run(os.Args[2:]); err != nil {
				fmt.Fprintf(os.Stderr, "bench %s: %v\n", os.Args[1], err)
				os.Exit(1)
			}
			return
		}
	}
	binary := flag.String("binary", "bin/fairlead", "release binary to measure")
	rounds := flag.Int("rounds", 20, "cold starts of each peer")
	firsts := flag.Int("firsts", 200, "first bytes of each peer")
	streams := flag.Int("streams", 5, "bulk transfers of each peer")
	megabytes := flag.Int("megabytes", 256, "size of a bulk transfer")
	agents := flag.Int("agents", 1000, "agents of the fleet")
	settle := flag.Duration("settle", 30*time.Second, "how long the fleet's server is left alone before its memory is read")
	profiles := flag.String("profiles", "", "directory for profiles of the fleet's server and of both ends of the raw streams; empty: none are made")
	only := flag.String("only", "", "sections to measure, with commas: "+sectionNames()+"; empty: all")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	b := &bench{
		ctx: ctx, binary: *binary, rounds: *rounds, firsts: *firsts, streams: *streams, bytes: int64(*megabytes) << 20,
		agents: *agents, settle: *settle, profiles: *profiles, sections: chosen(*only),
	}
	if err := measure(ctx, b.run); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// commands are the other processes of the bench, which it starts itself, and what is
// measured apart.
var commands = map[string]func(args []string) error{nodeCommand: runNode, fleetCommand: runFleet, reportersCommand: runReporters, resumeCommand: runResume, idleCommand: runIdle, speedCommand: runSpeed}

func sectionNames() string {
	names := make([]string, len(sections))
	for i, s := range sections {
		names[i] = s.name
	}
	return strings.Join(names, ", ")
}

// chosen reads the list of sections; nil means all of them.
func chosen(list string) map[string]bool {
	if list == "" {
		return nil
	}
	names := map[string]bool{}
	for name := range strings.SplitSeq(list, ",") {
		names[strings.TrimSpace(name)] = true
	}
	return names
}
