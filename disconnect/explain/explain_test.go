package explain

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	d "fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/verdict"
)

var update = flag.Bool("update", false, "write testdata")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	now  = time.Date(2026, 11, 23, 17, 0, 0, 0, time.UTC)
	mine = Viewer{Mine: true, Workspace: "dev", Device: "laptop"}
	ops  = Viewer{User: "ada", Workspace: "ada/dev"}
)

// TestMatrix reads the cases of the fault matrix and compares what a person is told of
// each with its file: at first, in the end, with a terminal to attach to, and as an operator.
func TestMatrix(t *testing.T) {
	files, err := filepath.Glob("../verdict/testdata/matrix/*.json")
	require.NoError(t, err)
	require.Greater(t, len(files), 80)
	seen := map[string]bool{}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".json")
		t.Run(name, func(t *testing.T) {
			b, err := os.ReadFile(file)
			require.NoError(t, err)
			cases, err := verdict.Read(strings.NewReader(string(b)))
			require.NoError(t, err)
			require.Len(t, cases, 1)
			golden := filepath.Join("testdata", name+".txt")
			seen[golden] = true
			got := told(cases[0])
			if *update {
				require.NoError(t, os.MkdirAll("testdata", 0o755))
				require.NoError(t, os.WriteFile(golden, []byte(got), 0o644))
			}
			want, err := os.ReadFile(golden)
			require.NoError(t, err, "run go test -update ./disconnect/explain")
			require.Equal(t, string(want), got)
		})
	}
	kept, err := filepath.Glob("testdata/*.txt")
	require.NoError(t, err)
	for _, golden := range kept {
		require.True(t, seen[golden], "%s has no case any more", golden)
	}
}

func told(c verdict.Case) string {
	v := verdict.Judge(c.Testimonies, c.Context)
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s by %s", v.Kind, v.Reason, v.Initiator)
	if v.Locus != "" {
		fmt.Fprintf(&b, ", at %s", v.Locus)
	}
	b.WriteString("\n")
	first := verdict.Judge(c.Testimonies[:1], c.Context)
	if first.Attribution != v.Attribution {
		fmt.Fprintf(&b, "\nat first:\n%s\n", Explain(first, mine, now))
	}
	s := Explain(v, mine, now)
	fmt.Fprintf(&b, "\nwho: %s\n\nto the user:\n%s\n", s.Who, s)
	if v.ConnectType == d.AgentToClient {
		with := mine
		with.Terminal = true
		if again := Explain(v, with, now); again != s {
			fmt.Fprintf(&b, "\nwith a terminal that was kept:\n%s\n", again)
		}
	}
	fmt.Fprintf(&b, "\nto an operator:\n%s\n", Explain(v, ops, now))
	return b.String()
}

func readCase(t *testing.T, name string) verdict.Case {
	t.Helper()
	b, err := os.ReadFile("../verdict/testdata/matrix/" + name + ".json")
	require.NoError(t, err)
	cases, err := verdict.Read(strings.NewReader(string(b)))
	require.NoError(t, err)
	return cases[0]
}

func TestTheSleepingLaptop(t *testing.T) {
	v := verdict.Judge(readCase(t, "11-laptop-sleep-past-the-limit-agent_to_client").Testimonies, verdict.Context{})
	with := mine
	with.Terminal = true
	require.Equal(t, "Your laptop slept from 14:02 to 14:52; the terminal on dev is still there. This is normal. "+
		"Attach to it: fairlead attach dev.", Explain(v, with, now).String())

	tomorrow := Explain(v, with, now.Add(24*time.Hour))
	require.Contains(t, tomorrow.What, "from 2026-11-23 14:02 to 2026-11-23 14:52")
	with.Zone = time.FixedZone("CET", 3600)
	require.Contains(t, Explain(v, with, now).What, "from 15:02 to 15:52")
	with.Program = "bin/fairlead"
	require.Equal(t, "Attach to it: bin/fairlead attach dev.", Explain(v, with, now).Next)
}

var (
	jargon  = regexp.MustCompile(`[a-z]_[a-z]|unknown|%!|EOF|RST|\bnil\b`)
	oddness = regexp.MustCompile(`  | ,|\.\.|\(\)| \.|,,| the the | of of |\n`)
)

// TestEveryCombinationIsASentence walks reasons, initiators, places, legs and kinds, also
// those that no rule makes: a newer server may.
func TestEveryCombinationIsASentence(t *testing.T) {
	n, viewers := 0, []Viewer{mine, ops, {}, {Mine: true, Terminal: true}, {User: "bob"}}
	for _, reason := range append(d.Reasons(), 99) {
		for _, initiator := range d.Initiators() {
			for _, leg := range d.ConnectTypes() {
				for _, kind := range []verdict.Kind{verdict.Ending, verdict.Interruption, verdict.Attempt} {
					for _, locus := range []string{"", "client", "agent", "server", "relay", "client_net", "agent_net", "path", "moon"} {
						v := verdict.Verdict{Kind: kind, Locus: locus, Rule: verdict.R10, Confidence: d.ConfidenceLow,
							Attribution: d.Attribution{ConnectType: leg, Reason: reason, Initiator: initiator}, Waiting: []d.Initiator{d.Client}}
						n++
						if n%3 == 0 { // each meets each; the full walk is slow under the race detector
							whole(t, Explain(v, viewers[n/3%len(viewers)], now))
						}
					}
				}
			}
		}
	}
}

func whole(t *testing.T, s Sentence) {
	t.Helper()
	for _, part := range []string{s.What, s.Normal, s.Sure, s.Next} {
		if part == "" {
			continue
		}
		require.Regexp(t, `^[A-Z].*\.$`, part)
		require.NotRegexp(t, oddness, part)
		require.NotRegexp(t, jargon, part)
	}
	require.NotEmpty(t, s.What)
	require.NotEmpty(t, s.Normal)
	require.NotEmpty(t, s.Who)
}

// TestNoControlCharacters: details and names come from other machines.
func TestNoControlCharacters(t *testing.T) {
	hostile := "a\x1b]0;x\x07\u202e b"
	for _, reason := range d.Reasons() {
		for _, i := range d.Initiators() {
			v := verdict.Verdict{Kind: verdict.Ending, Attribution: d.Attribution{ConnectType: d.AgentToClient, Reason: reason, Initiator: i, Detail: hostile}, ExitSignal: hostile}
			s := Explain(v, Viewer{User: hostile, Workspace: hostile, Device: hostile}, now)
			require.Equal(t, d.ScrubTo(s.String(), 4096), s.String())
		}
	}
}

// TestWhatCannotComeBackIsNotOffered: a stop during the silence ends the terminal too.
func TestWhatCannotComeBackIsNotOffered(t *testing.T) {
	v := verdict.Judge(readCase(t, "11-laptop-sleep-past-the-limit-agent_to_client").Testimonies, verdict.Context{})
	v.Kept = append(v.Kept, verdict.Item{Source: d.Agent, Role: verdict.Consequence,
		Fact: verdict.Fact{Kind: verdict.StopOrder, Cause: d.Attribution{Reason: d.WorkspaceStopped, Initiator: d.Server}}})
	with := mine
	with.Terminal = true
	s := Explain(v, with, now)
	require.Equal(t, "Your laptop slept from 14:02 to 14:52; meanwhile the workspace was stopped.", s.What)
	require.NotContains(t, s.Next, "attach")
}

// TestEveryFactHasWords: whatever a witness may say is told in plain words, by a sentence
// that its name begins.
func TestEveryFactHasWords(t *testing.T) {
	code := int32(3)
	for _, kind := range verdict.FactKinds() {
		for _, source := range []d.Initiator{d.Client, d.Agent, d.Server, d.Relay} {
			for _, outcome := range append(verdict.Outcomes(), "") {
				for _, reason := range []d.Reason{d.NetworkTimeout, d.Graceful, d.AdminTerminated} {
					v := verdict.Verdict{Kind: verdict.Ending, Attribution: d.Attribution{ConnectType: d.AgentToClient}}
					v.Used = []verdict.Item{{Source: source, Role: verdict.Decided, At: now, Until: now.Add(time.Hour), Bound: time.Second, Fact: verdict.Fact{
						Kind: kind, About: d.Agent, Leg: d.ServerToAgent, Outcome: outcome, ExitCode: &code,
						Cause: d.Attribution{Reason: reason, Initiator: d.Server},
					}}}
					told := Tell(v, Frame{}, mine, now)
					require.Len(t, told.Timeline, 1)
					e := told.Timeline[0]
					if outcome == "" && (kind == verdict.Obituary || kind == verdict.Supervisor) {
						continue // it is not valid
					}
					require.NotContains(t, e.Says, "this version", "%s %s", kind, outcome)
					line := e.Who + " " + e.Says
					require.Regexp(t, `^[a-z].*[a-z0-9]$`, line)
					require.NotRegexp(t, oddness, line)
					require.NotRegexp(t, jargon, line)
				}
			}
		}
	}
}

// TestTimeline: all parties in one order of time, with what is not dated last.
func TestTimeline(t *testing.T) {
	c := readCase(t, "11-laptop-sleep-past-the-limit-agent_to_client")
	v := verdict.Judge(c.Testimonies, c.Context)
	v.Kept = append(v.Kept, verdict.Item{Source: d.Server, Role: verdict.Hearsay, Fact: verdict.Fact{Kind: verdict.StatusOK}})
	opened := now.Add(-10 * time.Hour)
	told := Tell(v, Frame{Opened: opened, Ended: now, Path: "relay"}, mine, now)
	require.Equal(t, "your session on dev began on a relay path", told.Timeline[0].Who+" "+told.Timeline[0].Says)
	last := told.Timeline[len(told.Timeline)-1]
	require.Nil(t, last.At)
	require.Equal(t, "at second hand", RoleInWords(last.Role))
	var slept bool
	for i, e := range told.Timeline[1:] {
		slept = slept || e.Says == "slept until 14:52:00" && e.Who == "your laptop" && e.Role == "decided"
		if e.At != nil {
			require.False(t, e.At.Before(*told.Timeline[i].At), "%+v", told.Timeline)
		}
	}
	require.True(t, slept, "%+v", told.Timeline)
	require.Equal(t, "Your laptop slept from 14:02 to 14:52.", told.Sentence)
	require.Equal(t, "Connect again: fairlead ssh dev.", told.NextStep)
	require.NotEmpty(t, told.Confidence)

	v.Final, v.Waiting = false, []d.Initiator{d.Client, d.Agent}
	require.Equal(t, "Fairlead on your laptop and the agent of dev may still say more.", Tell(v, Frame{}, mine, now).Waiting)
}

// TestConfidenceInWords: each way to be sure has its own.
func TestConfidenceInWords(t *testing.T) {
	seen := map[string]bool{}
	for _, evidence := range d.Evidences() {
		for _, confidence := range []d.Confidence{d.ConfidenceLow, d.ConfidenceHigh, d.ConfidenceCertain} {
			text := Tell(verdict.Verdict{Kind: verdict.Ending, Rule: verdict.R5, Evidence: evidence, Confidence: confidence}, Frame{}, mine, now).Confidence
			require.Regexp(t, `^This is .*\.$`, text)
			seen[text] = true
		}
	}
	require.GreaterOrEqual(t, len(seen), 5)
}
