package score

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"fairlead.dev/fairlead/tests/faults/scenario"
)

// finals is what stays of its words: of each connection the last.
func finals(its []Testimony) (last []Testimony) {
	for _, t := range its {
		i := slices.IndexFunc(last, func(o Testimony) bool {
			return t.Connection != "" && o.Connection == t.Connection && o.Leg == t.Leg && o.Kind == t.Kind
		})
		if i >= 0 {
			last[i] = t
		} else {
			last = append(last, t)
		}
	}
	return last
}

// folded is what was said as a table shows it: the same words once, and how often.
func folded(its []Testimony) []string {
	texts, times := []string{}, map[string]int{}
	for _, t := range its {
		text := t.short()
		if times[text]++; times[text] == 1 {
			texts = append(texts, text)
		}
	}
	for i, text := range texts {
		if n := times[text]; n > 1 {
			texts[i] = fmt.Sprintf("%s x%d", text, n)
		}
	}
	return texts
}

// short is the testimony in a table.
func (t Testimony) short() string {
	text := t.Leg.Short() + " " + t.Words.String()
	if t.By == "" {
		text += "nobody named"
	}
	if t.Kind != scenario.Ending {
		text += ", " + string(t.Kind)
	}
	if t.Provisional {
		text += ", provisional"
	}
	return text
}

var (
	hexadecimal = regexp.MustCompile(`\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b`)
	duration    = regexp.MustCompile(`\b[0-9]+(\.[0-9]+)?(ns|µs|ms|s|m|h)([0-9]+(\.[0-9]+)?(ms|s|m))*\b`)
	address     = regexp.MustCompile(`\b[0-9]{1,3}(\.[0-9]{1,3}){3}(:[0-9]+)?\b`)
	clockTime   = regexp.MustCompile(`\b[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9:.]+(Z|[+-][0-9:]+)?`)
)

// looks is what a reader has to go by: the words and the detail, without ids, times and
// addresses, which are other ones in every run. An exit status stays.
func looks(last []Testimony) string {
	var lines []string
	for _, t := range last {
		detail := t.Detail
		for _, r := range []*regexp.Regexp{clockTime, hexadecimal, duration, address} {
			detail = r.ReplaceAllString(detail, "*")
		}
		line := t.short() + " " + detail
		if !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}
