// Command faults is the fault lab: for each scenario of tests/faults/scenario it builds a
// small internet in network namespaces, starts the real program in it, opens a real
// session, does to it what the scenario says, and holds what client, agent, server and
// connection log finally say against what was done.
//
//	              do                     read
//	scenario ──▶ stage ──▶ netlab, inject      ──▶ testimonies ──▶ score ──▶ docs/faults.md
//	 (what is true) (processes, session)  (logs, rows)    └──▶ timeline
//
// It needs root. It asserts nothing about the program but in comparison with a file that
// says what to expect.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"syscall"

	"fairlead.dev/fairlead/tests/faults/netlab"
	"fairlead.dev/fairlead/tests/faults/scenario"
	"fairlead.dev/fairlead/tests/faults/score"
)

// options are the command line.
type options struct {
	run      string
	subset   string
	keep     string
	pcap     bool
	parallel int
	json     string
	page     string
	expect   string
	why      string
	update   bool
	compare  string
	overlay  string
	version  string
	binary   string
	list     bool
	from     string

	programs map[scenario.Variant]string // where each is that was built
}

func main() {
	if err := command(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "faults:", err)
		os.Exit(1)
	}
}

func command(args []string, out io.Writer) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	chosen, err := o.choose()
	if err != nil {
		return err
	}
	if o.list {
		for _, s := range chosen {
			fmt.Fprintf(out, "%-3d %-40s %s\n", s.Row, s.Name, s.Story)
		}
		return nil
	}
	if o.from != "" {
		result, err := score.Read(o.from)
		if err != nil {
			return err
		}
		return o.publish(result.Again(), out)
	}
	if err := netlab.Unshare(); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	result, err := o.measure(ctx, chosen, os.Stderr)
	if err != nil {
		return err
	}
	return o.publish(result, out)
}

func parse(args []string) (*options, error) {
	o := &options{}
	flags := flag.NewFlagSet("faults", flag.ContinueOnError)
	flags.StringVar(&o.run, "run", "", "only the scenarios whose whole name this regular expression matches")
	flags.StringVar(&o.subset, "subset", "", "ci: only what every change has to pass")
	flags.StringVar(&o.keep, "keep", "", "directory in which each scenario leaves its logs and its timeline")
	flags.BoolVar(&o.pcap, "pcap", false, "with -keep: capture the packets of every host")
	flags.IntVar(&o.parallel, "parallel", 6, "how many scenarios side by side")
	flags.StringVar(&o.json, "json", "", "write the result to this file")
	flags.StringVar(&o.page, "page", "", "write the result as a page to this file")
	flags.StringVar(&o.expect, "expect", "", "fail where a mark is worse than this file says")
	flags.StringVar(&o.why, "why", "", "hold what fairlead why answers against the files in this directory")
	flags.BoolVar(&o.update, "update", false, "with -expect and -why: write the files anew")
	flags.StringVar(&o.compare, "compare", "", "tell in which rows the result differs from this earlier one, also on the page")
	flags.StringVar(&o.overlay, "overlay", "", "build the program with this overlay (see go help build)")
	flags.StringVar(&o.version, "version", "", "what to call the program in the tables")
	flags.StringVar(&o.binary, "binary", "", "do not build, use this program")
	flags.StringVar(&o.from, "from", "", "run nothing, judge what was said in this earlier result")
	flags.BoolVar(&o.list, "list", false, "list the scenarios and run none")
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	switch {
	case flags.NArg() > 0:
		return nil, fmt.Errorf("%q is no flag", flags.Arg(0))
	case o.parallel < 1:
		return nil, errors.New("-parallel must be 1 at least")
	case o.pcap && o.keep == "":
		return nil, errors.New("-pcap needs -keep")
	case o.subset != "" && o.subset != "ci":
		return nil, fmt.Errorf("there is no subset %q but ci", o.subset)
	}
	return o, nil
}

// choose returns the scenarios that are asked for.
func (o *options) choose() (chosen []scenario.Scenario, err error) {
	match, err := regexp.Compile("^(?:" + o.run + ")$")
	if err != nil {
		return nil, fmt.Errorf("-run: %w", err)
	}
	for _, s := range scenario.All() {
		if (o.run == "" || match.MatchString(s.Name)) && (o.subset == "" || s.CI) {
			chosen = append(chosen, s)
		}
	}
	if len(chosen) == 0 {
		return nil, fmt.Errorf("no scenario is called %q", o.run)
	}
	return chosen, nil
}
