package score_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/tests/faults/scenario"
	"fairlead.dev/fairlead/tests/faults/score"
)

// must returns a scenario of the table.
func must(t *testing.T, name string) scenario.Scenario {
	t.Helper()
	s, ok := scenario.ByName(name)
	require.True(t, ok, name)
	return s
}

// word is a testimony of who about its session, or another leg.
func word(who scenario.Party, reason string, by scenario.Party, expected bool) score.Testimony {
	return score.Testimony{
		Party: who, Kind: scenario.Ending, Leg: scenario.AC, Connection: "c", Seconds: 1,
		Words: scenario.Words{Reason: reason, By: by, Expected: expected},
	}
}

func on(leg scenario.Leg, t score.Testimony) score.Testimony {
	t.Leg, t.Connection = leg, string(leg)
	return t
}

func TestMarks(t *testing.T) {
	for _, c := range []struct {
		name, scenario string
		said           []score.Testimony
		lived          bool
		want           score.Mark
	}{
		{"true", "shell-killed", []score.Testimony{word("client", "process_signaled", "agent", false)}, false, score.Right},
		{"true, but called normal", "shell-killed", []score.Testimony{word("client", "process_signaled", "agent", true)}, false, score.Graceful},
		{"graceful", "shell-killed", []score.Testimony{word("client", "graceful", "agent", true)}, false, score.Graceful},
		{"unknown", "shell-killed", []score.Testimony{word("client", "unknown", "unknown", false)}, false, score.Unknown},
		{"another did it", "shell-killed", []score.Testimony{word("client", "process_signaled", "client", false)}, false, score.Blames},
		{"the network", "shell-killed", []score.Testimony{word("client", "network_error", "network", false)}, false, score.Wrong},
		{"nothing", "shell-killed", nil, false, score.Silent},
		{"others speak", "shell-killed", []score.Testimony{word("agent", "process_signaled", "agent", false)}, false, score.Silent},
		{"the last word counts", "shell-killed", []score.Testimony{word("client", "network_error", "network", false), word("client", "process_signaled", "agent", false)}, false, score.Right},
		{"one leg of two", "terminal-closed", []score.Testimony{word("client", "client_closed", "client", true)}, false, score.Silent},
		{"both legs", "terminal-closed", []score.Testimony{word("client", "client_closed", "client", true), on(scenario.CS, word("client", "client_closed", "client", true))}, false, score.Right},
		{"of a link its first ending", "terminal-closed", []score.Testimony{
			word("client", "client_closed", "client", true), on(scenario.CS, word("client", "client_closed", "client", true)),
			func() score.Testimony {
				later := on(scenario.CS, word("client", "network_error", "network", false))
				later.Connection = "another"
				return later
			}(),
		}, false, score.Right},
		{"words that are as true", "agent-stopped-direct-long", []score.Testimony{word("client", "peer_unresponsive", "agent", false)}, false, score.Right},
		{"an ending for an interruption", "client-link-down-direct-short", []score.Testimony{word("client", "network_unreachable", "network", false)}, false, score.Alarm},
		{"silence that is right", "outage-of-5s", nil, true, score.Quiet},
		{"an ending where nothing ends", "outage-of-5s", []score.Testimony{on(scenario.CS, word("client", "network_timeout", "network", false))}, true, score.Alarm},
		{"silence that may be", "nat-rebinding", nil, true, score.Quiet},
	} {
		t.Run(c.name, func(t *testing.T) {
			row := score.Judge(must(t, c.scenario), score.Outcome{Said: c.said, Lived: c.lived})
			failed := score.Judge(must(t, c.scenario), score.Outcome{Said: c.said, Lived: c.lived, Error: "no network"})
			require.Equal(t, score.Unrun, failed.Cells[scenario.Client].Mark)
			require.Equal(t, c.want, row.Cells[scenario.Client].Mark)
		})
	}
}

// TestLegs: each leg has a mark of its own, and the cell the worst of them.
func TestLegs(t *testing.T) {
	row := score.Judge(must(t, "terminal-closed"), score.Outcome{Said: []score.Testimony{
		word("client", "client_closed", "client", true), on(scenario.CS, word("client", "network_error", "network", false)),
	}})
	cell := row.Cells[scenario.Client]
	require.Equal(t, score.Wrong, cell.Mark)
	require.Len(t, cell.Legs, 2)
	require.Equal(t, score.Right, cell.Legs[0].Mark)
	require.Equal(t, score.Wrong, cell.Legs[1].Mark)
	require.Equal(t, scenario.CS, cell.Legs[1].Leg)
	var page strings.Builder
	require.NoError(t, score.Page{Ours: score.Finish("test", "1", []score.Row{row})}.Markdown(&page))
	require.Contains(t, page.String(), "**wrong** (AC right, CS wrong): AC client_closed/client, CS network_error/network")
}

// TestLate: what is right is late after the scenario's time, which for who is stopped, and
// for what is known only when it is over, begins at the last step.
func TestLate(t *testing.T) {
	at := func(seconds float64, w score.Testimony) score.Testimony {
		w.Seconds = seconds
		return w
	}
	for _, c := range []struct {
		name, scenario string
		who            scenario.Party
		said           []score.Testimony
		late           bool
	}{
		{"in time", "exit-3", "client", []score.Testimony{at(9, word("client", "process_exited", "agent", true))}, false},
		{"late", "exit-3", "client", []score.Testimony{at(11, word("client", "process_exited", "agent", true))}, true},
		{"first word late", "behind-the-switch", "log", []score.Testimony{
			at(16, word("log", "network_timeout", "network", false)), at(16, on(scenario.SA, word("log", "network_timeout", "network", false))),
		}, true},
		{"of one leg", "behind-the-switch", "log", []score.Testimony{
			at(9, word("log", "network_timeout", "network", false)), at(16, on(scenario.SA, word("log", "network_timeout", "network", false))),
		}, true},
		{"who was stopped", "client-stopped-long", "client", []score.Testimony{
			at(27, word("client", "suspended", "client", true)), at(27, on(scenario.CS, word("client", "suspended", "client", true))),
		}, false},
		{"wrong is not late", "exit-3", "client", []score.Testimony{at(11, word("client", "network_error", "network", false))}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			row := score.Judge(must(t, c.scenario), score.Outcome{Said: c.said})
			require.Equal(t, c.late, row.Cells[c.who].Late)
			totals := score.Finish("test", "1", []score.Row{row}).Totals[c.who]
			require.Equal(t, c.late, totals.Late == 1)
			require.Equal(t, row.Cells[c.who].Mark == score.Right, totals.Provisional != nil)
		})
	}
}

// TestRepeatsAreFolded: the same attempt fourteen times is one line, with its number.
func TestRepeatsAreFolded(t *testing.T) {
	try := on(scenario.SA, word("agent", "network_unreachable", "", false))
	try.Kind, try.Connection = scenario.Attempt, ""
	var said []score.Testimony
	for range 14 {
		said = append(said, try)
	}
	row := score.Judge(must(t, "agent-link-down-direct-long"), score.Outcome{Said: said})
	require.Equal(t, []string{"SA network_unreachable/nobody named, attempt x14"}, row.Cells[scenario.Agent].Said)
}

// everybody says the same in each of the scenarios.
func everybody(t *testing.T, words score.Testimony, names ...string) score.Result {
	t.Helper()
	var rows []score.Row
	for _, name := range names {
		var said []score.Testimony
		for _, w := range scenario.Witnesses {
			for _, leg := range []scenario.Leg{scenario.AC, scenario.SA, scenario.CS} {
				words.Party = w
				said = append(said, on(leg, words))
			}
		}
		rows = append(rows, score.Judge(must(t, name), score.Outcome{Said: said}))
	}
	return score.Finish("test", "1", rows)
}

// TestStrict: right is not enough when something else looks the same.
func TestStrict(t *testing.T) {
	alone := everybody(t, word("", "process_exited", "agent", true), "exit-3")
	require.Equal(t, 1, alone.Totals[scenario.Client].Strict)
	both := everybody(t, word("", "process_exited", "agent", true), "exit-3", "shell-killed")
	require.Equal(t, 1, both.Totals[scenario.Client].Right)
	require.Zero(t, both.Totals[scenario.Client].Strict)
	same := everybody(t, word("", "process_exited", "agent", true), "exit-3", "exit-137")
	require.Equal(t, 2, same.Totals[scenario.Client].Strict, "one truth may look the same twice")
}

// TestConstantScoresNothing: whoever always says one thing is never strictly right.
func TestConstantScoresNothing(t *testing.T) {
	var names []string
	for _, s := range scenario.All() {
		names = append(names, s.Name)
	}
	for _, w := range []score.Testimony{
		word("", "network_error", "network", false), word("", "graceful", "agent", true), word("", "peer_crashed", "agent", false),
	} {
		r := everybody(t, w, names...)
		for _, who := range scenario.Witnesses {
			require.Zero(t, r.Totals[who].Strict, w.Reason)
			require.LessOrEqual(t, 10*r.Totals[who].Right, r.Totals[who].Of, w.Reason)
		}
	}
}

// TestFigures: what is promised is counted of the rows, the log's first and last words,
// and of what several parties say of one connection.
func TestFigures(t *testing.T) {
	say := func(who scenario.Party, seconds float64, reason string, by scenario.Party, expected bool) score.Testimony {
		w := word("", reason, by, expected)
		w.Party, w.Seconds, w.Connection = who, seconds, "c1"
		return w
	}
	row := func(name string, said ...score.Testimony) score.Row {
		return score.Judge(must(t, name), score.Outcome{Said: said})
	}
	r := score.Finish("test", "1", []score.Row{
		row("exit-3", say(scenario.Agent, 1, "process_exited", "agent", true), say(scenario.Log, 1.5, "process_exited", "agent", true)),
		row("shell-killed", say(scenario.Agent, 1, "process_signaled", "agent", false), say(scenario.Log, 2.5, "process_exited", "agent", true)),
		row("exit-0", say(scenario.Agent, 1, "network_error", "network", false), say(scenario.Log, 1, "network_error", "network", false),
			say(scenario.Log, 2, "graceful", "agent", true)),
	})
	require.Equal(t, score.Rate{Are: 2, Of: 3}, r.Figures.Direct)
	require.Equal(t, score.Rate{Are: 2, Of: 3}, r.Figures.Declared)
	require.Zero(t, r.Figures.Relayed)
	require.Equal(t, score.Rate{Are: 1, Of: 3}, r.Figures.Provisional)
	require.Equal(t, score.Rate{Are: 2, Of: 3}, r.Figures.Settled)
	require.Equal(t, 1, r.Figures.Graceful.Are)
	require.Equal(t, score.Rate{Are: 1, Of: 3}, r.Figures.Equal)
}

func TestResultIsKept(t *testing.T) {
	r := everybody(t, word("", "process_exited", "agent", true), "exit-3", "shell-killed")
	path := filepath.Join(t.TempDir(), "result.json")
	require.NoError(t, r.Write(path))
	again, err := score.Read(path)
	require.NoError(t, err)
	require.Equal(t, r.Totals, again.Totals)
	require.Empty(t, score.Compare(r, again))
	require.Equal(t, r, again.Again())

	require.NoError(t, r.Expect().Write(path))
	e, err := score.ReadExpectation(path)
	require.NoError(t, err)
	worse, better := r.Against(e)
	require.Empty(t, worse)
	require.Empty(t, better)
	e["shell-killed"][scenario.Client], e["exit-3"][scenario.Client] = score.Right, score.Silent
	worse, better = r.Against(e)
	require.Equal(t, []string{"shell-killed: client was right and is graceful"}, worse)
	require.Equal(t, []string{"exit-3: client was silent and is right"}, better)
	delete(e, "exit-3")
	worse, _ = r.Against(e)
	require.Len(t, worse, 2)
}

func TestPage(t *testing.T) {
	ours := everybody(t, word("", "process_exited", "agent", true), "exit-3", "shell-killed", "outage-of-5s")
	ours.Rows[1].Cannot = "no reason"
	former := everybody(t, word("", "process_exited", "agent", true), "exit-3", "outage-of-5s")
	peer := ours
	peer.Product, peer.Version = "OpenSSH", "9.2"
	var page strings.Builder
	require.NoError(t, score.Page{Ours: ours, Former: &former, Peers: []score.Result{peer}, Flaky: map[string]string{"exit-3": "the moon"}}.Markdown(&page))
	for _, part := range []string{"| OpenSSH 9.2 | client | 1 of 2 (50 %)", "| 2 | exit-3 |", "**graceful**: ", "cannot be injected", "the moon", "nothing ends", "| in the run before |", "- shell-killed: only one of both ran it",
		"## The same faults elsewhere", " OpenSSH client | OpenSSH agent |", "| 1.0 / 1.0 |", "| shell-killed | AC process_signaled/agent | graceful | graceful |"} {
		require.Contains(t, page.String(), part)
	}
}
