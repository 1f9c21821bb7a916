// Package timeline lays what was done and what each party wrote side by side, in the
// order of one clock: all hosts of a scenario are on one machine. It reads the logs of
// any program whose lines are JSON with a time, and judges nothing.
package timeline

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

// Event is one line of a timeline.
type Event struct {
	At   time.Time
	Who  string
	Text string
}

// Line is where the lab and the parties write down what they do.
type Line struct {
	Events []Event
}

// Add notes something.
func (l *Line) Add(at time.Time, who, text string) {
	l.Events = append(l.Events, Event{at, who, text})
}

// Log notes each line of a log; a line that is no JSON has the time of the one before it.
func (l *Line) Log(who, text string, began time.Time) {
	at := began
	lines := bufio.NewScanner(strings.NewReader(text))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var record map[string]any
		if json.Unmarshal(lines.Bytes(), &record) != nil {
			l.Add(at, who, lines.Text())
			continue
		}
		if t, err := time.Parse(time.RFC3339Nano, fmt.Sprint(record["time"])); err == nil {
			at = t
		}
		l.Add(at, who, flat(record))
	}
}

// flat is a record as a person reads it.
func flat(record map[string]any) string {
	text := fmt.Sprintf("%-5v %v", record["level"], record["msg"])
	for _, key := range slices.Sorted(maps.Keys(record)) {
		switch key {
		case "time", "level", "msg":
		default:
			value := fmt.Sprint(record[key])
			if strings.ContainsAny(value, " \"") {
				value = fmt.Sprintf("%q", value)
			}
			text += " " + key + "=" + value
		}
	}
	return text
}

// Write writes all events in order, with seconds from zero.
func (l *Line) Write(out io.Writer, zero time.Time) error {
	events := slices.Clone(l.Events)
	slices.SortStableFunc(events, func(a, b Event) int { return cmp.Compare(a.At.UnixNano(), b.At.UnixNano()) })
	for _, e := range events {
		if _, err := fmt.Fprintf(out, "%+9.3f  %-7s %s\n", e.At.Sub(zero).Seconds(), e.Who, e.Text); err != nil {
			return err
		}
	}
	return nil
}
