package main

import (
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/tests/faults/linkem"
	"fairlead.dev/fairlead/tests/faults/scenario"
	"fairlead.dev/fairlead/tests/faults/score"
)

func needsRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root: what is said of faults is not tested")
	}
}

// TestSubset: what is said of the commonest faults is no worse than testdata/expect.json
// says. A mark that has become better is printed: update the file by
// go run -tags grpcnotrace ./tests/faults -subset ci -expect tests/faults/testdata/expect.json -update.
func TestSubset(t *testing.T) {
	needsRoot(t)
	var out strings.Builder
	err := command([]string{"-subset", "ci", "-expect", "testdata/expect.json", "-keep", t.TempDir()}, &out)
	t.Log(out.String())
	require.NoError(t, err)
}

// TestConstantScoresNothing: a program that says the same of every ending is right of none,
// so the lab measures.
func TestConstantScoresNothing(t *testing.T) {
	needsRoot(t)
	result := filepath.Join(t.TempDir(), "result.json")
	require.NoError(t, command([]string{
		"-run", "exit-0|exit-3|shell-killed|terminal-closed|client-terminated|agent-terminated-direct|ended-by-admin|revoked",
		"-overlay", constant(t), "-json", result,
	}, io.Discard))
	r, err := score.Read(result)
	require.NoError(t, err)
	for _, row := range r.Rows {
		require.Empty(t, row.Error)
		require.True(t, row.FateRight(), "%s: the session still ends", row.Name)
	}
	for _, who := range scenario.Witnesses {
		require.Equal(t, 8, r.Totals[who].Of)
		require.Zero(t, r.Totals[who].Right, who)
		require.Zero(t, r.Totals[who].Silent, who)
	}
}

// constant makes an overlay of package disconnect in which every reason is called
// network_error, and every initiator the network.
func constant(t *testing.T) (overlay string) {
	t.Helper()
	path, err := writeOverlay(t.TempDir(), "", []change{ // what follows is not reached, and still compiled
		always("reason.go", "func (r Reason) String() string {", `return "network_error"`),
		always("reason.go", "func (r Reason) Expected() bool {", "return false"),
		always("words.go", "func (i Initiator) String() string {", `return "network"`),
	})
	require.NoError(t, err)
	return path
}

func always(file, method, constant string) change {
	return change{filepath.Join("disconnect", file), method, method + "\nif true { " + constant + " }\n"}
}

// TestVariants: what is changed is still there to be changed.
func TestVariants(t *testing.T) {
	for v, changes := range variants {
		path, err := writeOverlay(t.TempDir(), constant(t), changes)
		require.NoError(t, err, v)
		replace, err := readOverlay(path)
		require.NoError(t, err)
		require.Len(t, replace, 2+len(changes), v)
	}
	_, err := writeOverlay(t.TempDir(), "", []change{{"go.mod", "no such line", ""}})
	require.ErrorContains(t, err, `go.mod has no "no such line" to change`)
}

// TestWhatIsKept: a run leaves the packets of every host, and one timeline in which what
// was done and what each party wrote are in the order of one clock.
func TestWhatIsKept(t *testing.T) {
	needsRoot(t)
	if _, err := exec.LookPath("tcpdump"); err != nil {
		t.Skip("captures need tcpdump")
	}
	dir := t.TempDir()
	require.NoError(t, os.Chmod(dir, 0o700), "a directory that only root may enter")
	result := filepath.Join(dir, "result.json")
	require.NoError(t, command([]string{"-run", "agent-panics", "-pcap", "-keep", dir, "-json", result}, io.Discard))
	r, err := score.Read(result)
	require.NoError(t, err)
	require.Empty(t, r.Rows[0].Error)
	for _, who := range scenario.Witnesses {
		require.Equal(t, score.Right, r.Rows[0].Cells[who].Mark, who)
	}
	for _, host := range []string{"client", "nat", "router", "switch", "agent", "server"} {
		packets, err := exec.CommandContext(t.Context(), "tcpdump", "-n", "-r", filepath.Join(dir, "agent-panics", host+".pcap")).Output()
		require.NoError(t, err, host)
		require.Contains(t, string(packets), " IP ", host)
	}
	text, err := os.ReadFile(filepath.Join(dir, "agent-panics", "timeline.txt"))
	require.NoError(t, err)
	at, former := map[string]int{}, -1e9
	for i, line := range strings.Split(strings.TrimSpace(string(text)), "\n") {
		fields := strings.Fields(line)
		seconds, err := strconv.ParseFloat(fields[0], 64)
		require.NoError(t, err, line)
		require.GreaterOrEqual(t, seconds, former, line)
		former = seconds
		for _, mark := range []string{"lab signal agent USR2", "agent WARN ssh session closed", "client WARN session ended", "server WARN connection ended"} {
			if strings.Contains(strings.Join(fields[1:], " "), mark) {
				at[mark] = i
			}
		}
	}
	require.Len(t, at, 4, string(text))
	for mark, line := range at {
		require.GreaterOrEqual(t, line, at["lab signal agent USR2"], mark)
	}
}

func TestOptions(t *testing.T) {
	for _, c := range []struct{ says, args string }{
		{`no scenario is called "exit"`, "-run exit -list"},
		{"there is no subset", "-subset all"},
		{"-parallel must be 1", "-parallel 0"},
		{"-pcap needs -keep", "-pcap"},
		{`"exit-3" is no flag`, "exit-3"},
		{"-run: ", "-run ("},
	} {
		require.ErrorContains(t, command(strings.Fields(c.args), io.Discard), c.says)
	}
	var out strings.Builder
	require.NoError(t, command([]string{"-run", "exit-[03]", "-list"}, &out))
	require.Equal(t, 2, strings.Count(out.String(), "\n"))
}

// TestEveryDeedIsKnown: the lab can do what the scenarios say.
func TestEveryDeedIsKnown(t *testing.T) {
	for _, s := range scenario.All() {
		acts := s.Before
		for _, step := range s.Steps {
			acts = append(acts, step.Act)
		}
		for _, a := range acts {
			require.Contains(t, deeds, a.Verb, s.Name)
			if a.Verb == scenario.Impairs {
				_, err := linkem.Parse(a.Arg)
				require.NoError(t, err, s.Name)
			}
		}
	}
}

// TestTestimonies: of a log, what is said of what was open when the fault came.
func TestTestimonies(t *testing.T) {
	zero := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	s := &stage{zero: zero, connection: "ours"}
	line := func(second int, text string) map[string]any {
		var r map[string]any
		require.NoError(t, json.Unmarshal([]byte(`{"time":"`+zero.Add(time.Duration(second)*time.Second).Format(time.RFC3339Nano)+`",`+text+"}"), &r))
		return r
	}
	const five = `"connect_type":"agent_to_client","disconnect_reason":"process_exited","disconnect_initiator":"agent","disconnect_expected":true,"disconnect_detail":"3"`
	const failed = `"connect_type":"agent_to_client","disconnect_reason":"process_signaled","disconnect_initiator":"agent","disconnect_expected":false,"disconnect_detail":"9"`
	got := s.said(scenario.Agent, []map[string]any{
		line(-1, `"msg":"ssh session closed","connection_id":"ours",`+five),    // before the fault
		line(1, `"msg":"coordination closed",`+five),                           // a part of a link
		line(1, `"msg":"agent control link ended","duration":500000000,`+five), // opened later
		line(1, `"msg":"ssh session closed","connection_id":"theirs",`+five),   // came later, and worked
		line(2, `"msg":"ssh session closed","connection_id":"ours",`+five),     // 0
		line(3, `"msg":"ssh session closed","connection_id":"theirs",`+failed), // 1
		line(4, `"msg":"could not reach the server","reason":"dns_failure"`),   // 2
		line(5, `"msg":"connection interrupted","connection_id":"ours",`+five), // 3
		line(6, `"msg":"hello"`),
	}, false)
	require.Len(t, got, 4)
	require.Equal(t, score.Testimony{
		Party: scenario.Agent, Kind: scenario.Ending, Leg: scenario.AC, Connection: "ours", Seconds: 2, Detail: "3",
		Words: scenario.Words{Reason: "process_exited", By: scenario.Agent, Expected: true},
	}, got[0])
	require.Equal(t, scenario.Attempt, got[1].Kind)
	require.Equal(t, scenario.Words{Reason: "dns_failure"}, got[2].Words)
	require.Equal(t, scenario.SA, got[2].Leg)
	require.Equal(t, scenario.Interruption, got[3].Kind)
}

// TestNormal: two runs of one scenario give the same text, and two answers do not.
func TestNormal(t *testing.T) {
	answer := func(at, program, id, sentence, order string) string {
		return "exit code 0\n" + sentence + "\n\n  who  you\n\nBy the server's clock:\n" +
			"  " + at + " ±2s  your computer slept until 14:31:02 (this decided)\n" + order +
			"\n  The row of the log: " + program + " connections show " + id + "\n"
	}
	first := normal(answer("14:02:11", "/tmp/x-1/fairlead", "0123abcd", "Your computer slept from 14:02 to 14:31.", "  14:40:00  the agent of dev heard it (agrees)\n"))
	second := normal(answer("Nov 23 23:59:59", "/tmp/y/fairlead", "ffffffff", "Your computer slept for 12.5s at 09:00.", ""))
	require.Equal(t, first, second)
	require.Contains(t, first, "\nYour computer slept from TIME to TIME.\n")
	require.Contains(t, first, "\n  TIME your computer slept until TIME (this decided)\n")
	require.Contains(t, first, "fairlead connections show ID\n")
	other := normal(answer("14:02:11", "fairlead", "0123abcd", "Your computer hung.", ""))
	require.NotEqual(t, first, other)
	require.Equal(t, "  - Your computer slept from TIME to TIME.\n  + Your computer hung.\n", differences(first, other))
}

// TestHoldWhy: a difference is a failure only where every change has to pass.
func TestHoldWhy(t *testing.T) {
	dir := t.TempDir()
	row := func(name, why string) score.Result {
		return score.Result{Rows: []score.Row{{Name: name, Outcome: score.Outcome{Why: why}}}}
	}
	o := options{why: dir, update: true}
	for _, name := range []string{"exit-3", "agent-panics"} {
		require.NoError(t, o.holdWhy(row(name, "so\n"), io.Discard))
	}
	o.update = false
	var out strings.Builder
	require.NoError(t, o.holdWhy(row("exit-3", "so\n"), &out))
	require.Empty(t, out.String())
	require.NoError(t, o.holdWhy(row("agent-panics", "otherwise\n"), &out))
	require.Contains(t, out.String(), "  - so\n  + otherwise\n")
	require.ErrorContains(t, o.holdWhy(row("exit-3", "otherwise\n"), &out), "1 answers")
	require.ErrorContains(t, o.holdWhy(row("exit-0", "so\n"), &out), "1 answers")
	require.Contains(t, out.String(), "exit-0 has no file")
}
