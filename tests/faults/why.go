package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"fairlead.dev/fairlead/tests/faults/scenario"
	"fairlead.dev/fairlead/tests/faults/score"
)

// whyWait bounds how long the answer is waited for: longer than the program itself does.
const whyWait = 30 * time.Second

// tellWhy is what `fairlead why` answers at the client's host, to the session's user, when
// everything has been said; empty if there was no session. It is kept as it was.
func (s *stage) tellWhy() string {
	if s.connection == "" {
		return ""
	}
	ctx, cancel := context.WithTimeout(s.ctx, whyWait)
	defer cancel()
	cmd := s.user.Command(ctx, "why", s.connection)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		s.must("ask why", err)
	}
	text := fmt.Sprintf("exit code %d\n%s", cmd.ProcessState.ExitCode(), out.String())
	if s.options.keep != "" {
		s.must("keep the answer", os.WriteFile(filepath.Join(s.kept(), "why.txt"), []byte(text), 0o644))
	}
	return normal(text)
}

// masks are what differs from run to run, and what stands for it. "For 3s at 14:02" and
// "from 14:02 to 14:03" are the same.
var masks = []struct {
	pattern *regexp.Regexp
	by      string
}{
	{regexp.MustCompile(`(?:/[^\s/]+)+/fairlead\b`), "fairlead"},
	{regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`), "ID"},
	{regexp.MustCompile(`(connections show) [0-9a-f]{8}`), "$1 ID"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ`), "TIME"},
	{regexp.MustCompile(`(?:\d{4}-\d\d-\d\d |[A-Z][a-z]{2} \d\d )?\b\d\d:\d\d(?::\d\d)?\b(?: ±\d+s)?`), "TIME"},
	{regexp.MustCompile(`\b(?:\d+(?:\.\d+)?(?:h|ms|µs|m|s))+\b`), "SOMETIME"},
	{regexp.MustCompile(`for SOMETIME at TIME`), "from TIME to TIME"},
	{regexp.MustCompile(`\b\d+\.\d+\.\d+\.\d+(?::\d+)?\b`), "ADDRESS"},
	{regexp.MustCompile(`\[?fd[0-9a-f]*:[0-9a-f:]+\]?(?::\d+)?`), "ADDRESS"},
	{regexp.MustCompile(`\b(pid|process|port) \d+`), "$1 N"},
}

// normal is an answer without what differs from run to run: of the timeline only what
// decided, in the order of the words. Who else agrees, and in what order, differs.
func normal(text string) string {
	for _, m := range masks {
		text = m.pattern.ReplaceAllString(text, m.by)
	}
	var kept, decided []string
	inTimeline := false
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, " \n")
		switch {
		case strings.HasPrefix(line, "By the "):
			inTimeline = true
			kept = append(kept, line)
		case inTimeline && line == "":
			inTimeline = false
			slices.Sort(decided)
			kept = append(append(kept, slices.Compact(decided)...), line)
			decided = nil
		case !inTimeline:
			kept = append(kept, line)
		case strings.HasSuffix(line, "(this decided)"):
			decided = append(decided, "  "+strings.Join(strings.Fields(line), " "))
		}
	}
	slices.Sort(decided)
	return strings.TrimSpace(strings.Join(append(kept, slices.Compact(decided)...), "\n")) + "\n"
}

// holdWhy compares what was answered with the files in o.why, or writes them. A
// difference is told of; where every change has to pass, it is a failure.
func (o *options) holdWhy(r score.Result, out io.Writer) error {
	if o.why == "" {
		return nil
	}
	failed := 0
	for _, row := range r.Rows {
		if row.Why == "" || row.Error != "" {
			continue
		}
		file := filepath.Join(o.why, row.Name+".txt")
		if o.update {
			if err := os.WriteFile(file, []byte(row.Why), 0o644); err != nil {
				return err
			}
			continue
		}
		s, _ := scenario.ByName(row.Name)
		want, err := os.ReadFile(file)
		switch {
		case errors.Is(err, os.ErrNotExist) && !s.CI:
			continue
		case errors.Is(err, os.ErrNotExist):
			fmt.Fprintf(out, "why: %s has no file; write it by -update and read it\n", row.Name)
		case err != nil:
			return err
		case string(want) == row.Why:
			continue
		default:
			fmt.Fprintf(out, "why: %s is answered otherwise than %s has it\n%s", row.Name, file, differences(string(want), row.Why))
		}
		if s.CI {
			failed++
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d answers of fairlead why are others than in %s", failed, o.why)
	}
	return nil
}

// differences are the lines that only one of two texts has.
func differences(want, got string) string {
	var b strings.Builder
	only := func(mark, text, other string) {
		lines := strings.Split(other, "\n")
		for line := range strings.SplitSeq(strings.TrimSuffix(text, "\n"), "\n") {
			if !slices.Contains(lines, line) {
				fmt.Fprintf(&b, "  %s %s\n", mark, line)
			}
		}
	}
	only("-", want, got)
	only("+", got, want)
	if b.Len() == 0 {
		return "  the same lines in another order\n"
	}
	return b.String()
}
