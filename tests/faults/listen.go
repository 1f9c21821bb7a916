package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/tests/faults/scenario"
	"fairlead.dev/fairlead/tests/faults/score"
	"fairlead.dev/fairlead/tests/site"
)

// asksEvery is how often the user asks again why the session ended, while somebody's words
// are not true yet.
const asksEvery = 5 * time.Second

// settling is how long the words are watched once all are there: one may still change.
const settling = 2 * time.Second

// aftermath is how long a fault by which nothing ends is watched when it is over: both
// ends of a control link would miss it by then.
const aftermath = 14 * time.Second

// listen waits until everybody has said what is true, or the time for it is over, and
// returns what was said. It ends nothing.
func (s *stage) listen() score.Outcome {
	if s.Control {
		s.pause(aftermath)
	} else {
		s.until(time.After(s.Final), s.answeredWhoAsks())
		s.pause(settling)
	}
	o := score.Outcome{}
	if s.client != nil {
		o.Lived = !s.client.over() && (s.Truth.Fate == scenario.Ends || s.client.answers(10*time.Second))
		o.ExitCode = s.client.exitCode()
	}
	s.note(fmt.Sprintf("the session lives: %t", o.Lived))
	s.watch.list(s.ctx, s)
	o.Said = s.testimonies()
	return o
}

// until returns when ok says yes or due.
func (s *stage) until(due <-chan time.Time, ok func() bool) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-due:
			return
		case <-s.ctx.Done():
			return
		}
	}
}

// answered reports whether all that must be said was said and is true, and the session
// has the fate that it must have.
func (s *stage) answered() bool {
	if slices.ContainsFunc(s.Truth.Of(scenario.Log), func(say scenario.Say) bool { return say.Kind == scenario.Interruption }) {
		s.watch.list(s.ctx, s) // interruptions are not in what is followed
	}
	row := score.Judge(s.Scenario, score.Outcome{Said: s.testimonies()})
	for _, w := range scenario.Witnesses {
		if c := row.Cells[w]; c.Mark != score.Right && (c.Mark != score.Quiet || len(c.Must) > 0) {
			return false
		}
	}
	return s.Truth.Fate != scenario.Ends || s.client == nil || s.client.over()
}

// answeredWhoAsks is answered for a user who, once the client is over, asks now and then
// what became known since: a client learns it by the next command on its machine.
func (s *stage) answeredWhoAsks() func() bool {
	var asked time.Time
	return func() bool {
		if s.answered() {
			return true
		}
		if s.client != nil && s.client.over() && s.Truth.Fate == scenario.Ends && time.Since(asked) > asksEvery {
			s.asksWhy()
			asked = time.Now()
		}
		return false
	}
}

// asksWhy runs "fairlead why" on the client's machine.
func (s *stage) asksWhy() {
	log := s.user.Path(fmt.Sprintf("client-%d.log", len(s.others)+1))
	s.others = append(s.others, other{log: log, asks: true})
	s.user.Run("why", "--log-file", log, "--log-format", "json")
}

// testimonies is all that was said since the fault, of what was open when it came.
func (s *stage) testimonies() (all []score.Testimony) {
	for _, agent := range s.agents {
		all = append(all, s.said(scenario.Agent, agent.Stderr.Records(s), false)...)
	}
	for _, server := range s.servers {
		all = append(all, s.said(scenario.Server, server.Stderr.Records(s), false)...)
	}
	if s.client != nil {
		all = append(all, s.said(scenario.Client, records(s.client.log), false)...)
	}
	for _, o := range s.others {
		said := s.said(scenario.Client, records(o.log), true)
		if o.asks {
			said = slices.DeleteFunc(said, func(t score.Testimony) bool { return t.Kind == scenario.Attempt })
		}
		all = append(all, said...)
	}
	all = append(all, s.logged()...)
	slices.SortStableFunc(all, func(a, b score.Testimony) int { return cmp.Compare(a.Seconds, b.Seconds) })
	return all
}

// streams are messages about parts of a control link, of which the link's own is the
// testimony, and about what is nobody's connection.
var streams = []string{
	"disconnected from derp map RPC", "disconnected from coordination RPC", "timed out waiting for coordination RPC",
	"coordination stream ended", "coordination closed", "companion stream refused", "relay control link ended", "relay connection ended",
}

// said reads a party's log: what has all five fields is about an ending, or about an
// interruption if it says so; what has a reason alone is about an attempt. Another client
// of the same user speaks of attempts of its own, and of the ending of ours where it names
// it.
func (s *stage) said(party scenario.Party, records []map[string]any, another bool) (its []score.Testimony) {
	for _, r := range records {
		at, err := time.Parse(time.RFC3339Nano, fmt.Sprint(r["time"]))
		id, _ := r["connection_id"].(string)
		msg := fmt.Sprint(r["msg"])
		switch {
		case err != nil, at.Before(s.zero), slices.Contains(streams, msg):
			continue
		case s.beganLater(r, at):
			continue
		}
		t := score.Testimony{Party: party, Connection: id, Seconds: at.Sub(s.zero).Seconds()}
		switch {
		case has(r, disconnect.KeyReason):
			t.Kind, t.Leg = scenario.Ending, scenario.Leg(fmt.Sprint(r[disconnect.KeyConnectType]))
			t.Words = words(r[disconnect.KeyReason], r[disconnect.KeyInitiator], r[disconnect.KeyExpected])
			t.Detail, _ = r[disconnect.KeyDetail].(string)
			if msg == "connection interrupted" {
				t.Kind = scenario.Interruption
			}
			if own := s.links[t.Leg]; own != "" && id != "" {
				if id != own {
					continue // a link that was opened after the fault
				}
			} else if id != s.connection && (id != "" || another) && !strings.Contains(msg, "former") {
				t.Kind = scenario.Attempt // of somebody who came later
			}
		case has(r, "reason"):
			t.Kind, t.Leg = scenario.Attempt, ownLink[party]
			if layer, ok := r["layer"].(string); ok {
				t.Leg = scenario.Leg(layer)
			}
			t.Words = words(r["reason"], r["initiator"], r["expected"])
			t.Detail, _ = r["error"].(string)
		default:
			continue
		}
		if t.Kind != scenario.Attempt {
			its = append(its, t)
		} else if !t.Expected { // else it worked
			t.Connection = ""
			its = append(its, t)
		}
	}
	return its
}

// beganLater reports whether a record is of a link that was opened after the fault.
func (s *stage) beganLater(record map[string]any, at time.Time) bool {
	lasted, ok := record["duration"].(float64)
	return ok && strings.HasSuffix(fmt.Sprint(record["msg"]), "control link ended") && at.Add(-time.Duration(lasted)).After(s.zero)
}

// ownLink is the control link that each party dials.
var ownLink = map[scenario.Party]scenario.Leg{scenario.Agent: scenario.SA, scenario.Client: scenario.CS, scenario.Server: scenario.CS}

func has(record map[string]any, key string) bool {
	_, ok := record[key]
	return ok
}

func words(reason, by, expected any) scenario.Words {
	w := scenario.Words{}
	w.Reason, _ = reason.(string)
	w.Expected, _ = expected.(bool)
	if text, ok := by.(string); ok {
		w.By = scenario.Party(text)
	}
	return w
}

// logged is what the connection log said of what was open when the fault came.
func (s *stage) logged() (its []score.Testimony) {
	for _, h := range s.watch.all() {
		row := h.row
		ours := row.ID == s.connection || row.ID == s.links[scenario.Leg(row.ConnectType)]
		if h.at.Before(s.zero) || !ours && (row.ConnectedAt.Before(s.zero) || row.Expected == nil || *row.Expected) {
			continue
		}
		t := score.Testimony{Party: scenario.Log, Leg: scenario.Leg(row.ConnectType), Connection: row.ID, Seconds: h.at.Sub(s.zero).Seconds()}
		for _, i := range row.Interruptions {
			t.Kind, t.Words, t.Detail = scenario.Interruption, words(i.Reason, i.Initiator, i.Expected), i.Detail
			its = append(its, t)
		}
		if row.Status != "closed" {
			continue
		}
		t.Kind, t.Provisional, t.Words = scenario.Ending, row.Provisional, words(deref(row.Reason), deref(row.Initiator), nil)
		if !ours {
			t.Kind, t.Connection = scenario.Attempt, "" // of somebody who came later
		}
		t.Expected, t.Detail = row.Expected != nil && *row.Expected, deref(row.Detail)
		its = append(its, t)
	}
	return its
}

func deref(text *string) string {
	if text == nil {
		return ""
	}
	return *text
}

// records reads a log of JSON; what is not there yet has none.
func records(path string) (all []map[string]any) {
	data, _ := os.ReadFile(path)
	for line := range bytes.Lines(data) {
		var r map[string]any
		if json.Unmarshal(line, &r) == nil {
			all = append(all, r)
		}
	}
	return all
}

var _ site.T = (*attempt)(nil)
