package main

import (
	"regexp"
	"slices"
	"strings"

	"fairlead.dev/fairlead/tests/faults/scenario"
)

// rule says how a record is understood. The first rule that fits counts.
type rule struct {
	text *regexp.Regexp
	code func(int) bool // of the exit code; nil: any, and what has none
	// readings are what the words may mean, the plainest first.
	readings []scenario.Words
}

// means makes a rule for a text and any exit code.
func means(text string, readings ...scenario.Words) rule {
	return rule{text: regexp.MustCompile(text), readings: readings}
}

// withCode narrows a rule to some exit codes.
func (r rule) withCode(ok func(int) bool) rule {
	r.code = ok
	return r
}

// says is one meaning. By is "" when the text names nobody.
func says(reason string, by scenario.Party, expected bool) scenario.Words {
	return scenario.Words{Reason: reason, By: by, Expected: expected}
}

// unknown is what a text says that tells of an end and of nothing else.
func unknown(by scenario.Party) scenario.Words { return says("unknown", by, false) }

// read understands a record in favour of whoever wrote it: of several meanings it takes the
// one that is true, or else one that blames who did it. It reports whether there is any.
func read(rules []rule, text string, code int, must []scenario.Say) (scenario.Words, bool) {
	for _, r := range rules {
		if !r.text.MatchString(text) || r.code != nil && !r.code(code) {
			continue
		}
		for _, near := range []func(scenario.Say, scenario.Words) bool{
			scenario.Say.Accepts,
			func(s scenario.Say, w scenario.Words) bool { return s.By == w.By && s.Expected == w.Expected },
		} {
			for _, words := range r.readings {
				if slices.ContainsFunc(must, func(s scenario.Say) bool { return s.Kind == scenario.Ending && near(s, words) }) {
					return words, true
				}
			}
		}
		return r.readings[0], true
	}
	return scenario.Words{}, false
}

// alwaysOther is what differs between two runs of the same: ports, ids of processes and
// names of terminals.
var alwaysOther = regexp.MustCompile(`port [0-9]+|pid [0-9]+|pts/[0-9]+|lab-[0-9]+`)

// plain is a text as far as it is the same in every run: its lines without what always
// differs, in an order of their own, for two processes write into one log. That there is no
// list of logins in the lab is not about the session.
func plain(text string) string {
	var lines []string
	for line := range strings.Lines(strings.ReplaceAll(text, "\r", "")) {
		line = strings.TrimSpace(alwaysOther.ReplaceAllString(line, "*"))
		if line != "" && !strings.HasPrefix(line, "syslogin_perform_logout") {
			lines = append(lines, line)
		}
	}
	slices.Sort(lines)
	return strings.Join(slices.Compact(lines), "\n")
}
