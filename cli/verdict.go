package cli

import (
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/explain"
	"fairlead.dev/fairlead/disconnect/verdict"
)

func newVerdict(s streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "verdict",
		Short: "Look at how the end of a connection is judged",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newVerdictReplay(s))
	return cmd
}

func newVerdictReplay(s streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "replay FILE",
		Short: "Judge testimonies from a file, and show the rule and the evidence",
		Long: "Judge testimonies from a file, by the same function that the server uses, and show for each\n" +
			"connection what ended it, which rule decided, and on which evidence. FILE is JSON or JSON\n" +
			"lines; - is standard input. It needs no login and no server.\n\n" +
			"The exit code is 1 if the file cannot be read or holds something else; the message names the\n" +
			"line. It is 0 whatever the verdict is.",
		Example: "  fairlead verdict replay testimonies.json\n  fairlead verdict replay --output json - < testimonies.jsonl",
		Args:    cobra.ExactArgs(1),
	}
	now := cmd.Flags().String("now", "", "judge as of this time, or as of so long ago; without it nothing becomes final by age")
	output := outputFlag(cmd)
	cmd.RunE = run(func(_ *cobra.Command, args []string) error {
		asJSON, err := output()
		if err != nil {
			return err
		}
		asOf, err := moment("--now", *now, time.Now())
		if err != nil {
			return err
		}
		cases, err := readTestimonies(s, args[0])
		if err != nil {
			return err
		}
		all := replay(cases, asOf)
		if asJSON {
			return printJSON(s.out, map[string]any{"verdicts": all})
		}
		for i := range all {
			if i > 0 {
				fmt.Fprintln(s.out)
			}
			if err := all[i].print(s.out); err != nil {
				return err
			}
		}
		return nil
	})
	return cmd
}

// readTestimonies reads a file, or standard input.
func readTestimonies(s streams, name string) ([]verdict.Case, error) {
	in := s.in
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	cases, err := verdict.Read(in)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", plain(name), err)
	}
	return cases, nil
}

// replayed is a verdict with what it means.
type replayed struct {
	Verdict     verdict.Verdict  `json:"verdict"`
	Explanation explain.Sentence `json:"explanation"`
}

// replay judges each connection: its interruptions, and then its end if it has one.
func replay(cases []verdict.Case, asOf time.Time) (all []replayed) {
	for _, c := range cases {
		if !asOf.IsZero() {
			c.Context.Now = asOf
		}
		verdicts := verdict.Interruptions(c.Testimonies, c.Context)
		if last := verdict.Judge(c.Testimonies, c.Context); last.Kind != verdict.Interruption || len(verdicts) == 0 {
			verdicts = append(verdicts, last)
		}
		for _, v := range verdicts {
			reader := explain.Viewer{Program: programName(), Zone: time.Local}
			all = append(all, replayed{v, explain.Explain(v, reader, time.Now())})
		}
	}
	return all
}

func (r *replayed) print(w io.Writer) error {
	v := &r.Verdict
	id := v.ConnectionID
	if id == "" {
		id = "without an id"
	}
	fmt.Fprintf(w, "%s of connection %s, %s\n", v.Kind, plain(id), v.ConnectType)
	fmt.Fprintf(w, "  %s\n\n", disconnect.ScrubTo(r.Explanation.String(), 2048))
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "  verdict\t%s\n", plain(v.Attribution.String()))
	fmt.Fprintf(t, "  rule\t%s: %s\n", v.Rule, v.Rule.Says())
	fmt.Fprintf(t, "  evidence\t%s, %s\n", v.Evidence, v.Confidence)
	fmt.Fprintf(t, "  state\t%s\n", stateOf(v))
	for _, field := range [...]struct{ name, value string }{
		{"place", v.Locus}, {"phase", v.Phase}, {"caused by", v.CausedBy}, {"began", between(v.Began, v.Noticed)},
	} {
		if field.value != "" {
			fmt.Fprintf(t, "  %s\t%s\n", field.name, plain(field.value))
		}
	}
	if v.ExitCode != nil {
		fmt.Fprintf(t, "  exit code\t%d\n", *v.ExitCode)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, list := range [...][]verdict.Item{v.Used, v.Kept} {
		if len(list) > 0 {
			fmt.Fprintln(w)
		}
		for i := range list {
			item := &list[i]
			says := disconnect.ScrubTo(item.Says(), 1024)
			if !item.Until.IsZero() {
				says += " until=" + clockOf(item.Until)
			}
			fmt.Fprintf(t, "  %s\t%s\t%s\t%s\n", clockOf(item.At), item.Source, item.Role, says)
		}
		if err := t.Flush(); err != nil {
			return err
		}
	}
	return nil
}

func stateOf(v *verdict.Verdict) string {
	var missing []string
	for _, i := range v.Waiting {
		missing = append(missing, i.String())
	}
	who := strings.Join(missing, ", ")
	switch {
	case v.Final && who == "":
		return "final"
	case v.Final:
		return "final; not heard: " + who
	}
	return "provisional; not heard yet: " + who
}

// between is the time in which something began.
func between(from, to time.Time) string {
	switch {
	case to.IsZero():
		return ""
	case from.IsZero():
		return "before " + clockOf(to)
	}
	return from.Local().Format("2006-01-02 ") + clockOf(from) + " to " + clockOf(to)
}

func clockOf(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format("15:04:05.000")
}
