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
	"syscall"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == nodeCommand {
		if err := runNode(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, "bench node:", err)
			os.Exit(1)
		}
		return
	}
	binary := flag.String("binary", "bin/fairlead", "release binary to measure")
	rounds := flag.Int("rounds", 20, "cold starts of each peer")
	streams := flag.Int("streams", 5, "bulk transfers of each peer")
	megabytes := flag.Int("megabytes", 256, "size of a bulk transfer")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	b := &bench{ctx: ctx, binary: *binary, rounds: *rounds, streams: *streams, bytes: int64(*megabytes) << 20}
	if err := measure(ctx, b.run); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}
