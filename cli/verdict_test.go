package cli

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/verdict"
)

// inUTC shows times as they are in the files.
func inUTC(t *testing.T) {
	local := time.Local
	time.Local = time.UTC
	t.Cleanup(func() { time.Local = local })
}

func caseFile(t *testing.T, name string) string {
	t.Helper()
	file := filepath.Join("..", "disconnect", "verdict", "testdata", "matrix", name+".json")
	_, err := os.Stat(file)
	require.NoError(t, err)
	return file
}

func TestVerdictReplay(t *testing.T) {
	inUTC(t)
	code, out, errOut := runCLI(t, "verdict", "replay", caseFile(t, "16-sigkill-agent-agent_to_client"))
	require.Equal(t, exitOK, code, errOut)
	require.Empty(t, errOut)
	out = strings.Join(strings.Fields(out), " ")
	for _, want := range []string{
		"ending of connection c1, agent_to_client The agent",
		"The agent of the workspace was killed or crashed at ",
		"verdict reason=peer_crashed initiator=agent expected=false",
		"rule R3: the record of a former life, or those who saw it die",
		"evidence correlated, high",
		"state final place agent",
		"14:01:57.000 agent decided",
		"obituary outcome=\"crashed\"",
		"heartbeat_silence about=agent",
	} {
		require.Contains(t, out, want)
	}

	code, out, _ = runCLI(t, "verdict", "replay", "--output", "json", caseFile(t, "11-laptop-sleep-agent_to_client"))
	require.Equal(t, exitOK, code)
	require.Equal(t, 1, strings.Count(out, "\n"))
	var told struct {
		Verdicts []struct {
			Verdict     verdict.Verdict
			Explanation struct{ What string }
		}
	}
	require.NoError(t, json.Unmarshal([]byte(out), &told))
	require.Len(t, told.Verdicts, 1)
	v := told.Verdicts[0].Verdict
	require.Equal(t, verdict.Interruption, v.Kind)
	require.Equal(t, disconnect.Suspended, v.Reason)
	require.Equal(t, verdict.R4, v.Rule)
	require.Contains(t, told.Verdicts[0].Explanation.What, "slept")
	require.Contains(t, out, `"disconnect_expected":true`)
}

// TestVerdictReplayOfEveryCase: each case is readable by a person and by a program.
func TestVerdictReplayOfEveryCase(t *testing.T) {
	files, err := filepath.Glob("../disconnect/verdict/testdata/matrix/*.json")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		code, out, errOut := runCLI(t, "verdict", "replay", file)
		require.Equal(t, exitOK, code, errOut)
		require.Regexp(t, `rule +R\d+: `, out)
	}
}

func TestVerdictReplayReadsLinesFromStandardInput(t *testing.T) {
	line := func(id string) string {
		return `{"observer":"agent","connection_id":"` + id + `","connect_type":"agent_to_client","kind":"ending",` +
			`"first_noticed":{"wall":"2026-11-23T14:02:00Z"},"account":{"disconnect_reason":"network_timeout","disconnect_initiator":"network"},"evidence":"inferred"}` + "\n"
	}
	var out, errOut bytes.Buffer
	code := Run(t.Context(), []string{"verdict", "replay", "-"}, strings.NewReader(line("a")+line("b")), &out, &errOut)
	require.Equal(t, exitOK, code, errOut.String())
	require.Contains(t, out.String(), "ending of connection a, ")
	require.Contains(t, out.String(), "\n\nending of connection b, ")
	require.Contains(t, out.String(), "provisional; not heard yet: client")

	out.Reset()
	code = Run(t.Context(), []string{"verdict", "replay", "--now", "2026-11-25T00:00:00Z", "-"}, strings.NewReader(line("a")), &out, &errOut)
	require.Equal(t, exitOK, code, errOut.String())
	require.Contains(t, out.String(), "final; not heard: client")
}

func TestVerdictReplayRefusesInOneLine(t *testing.T) {
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad.jsonl")
	require.NoError(t, os.WriteFile(bad, []byte("\n{\"observer\":\"ghost\"}\n"), 0o600))
	for _, tc := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{bad}, exitError, `bad.jsonl: line 2: parse initiator: "ghost" is not a known initiator`},
		{[]string{filepath.Join(dir, "none")}, exitError, "no such file"},
		{[]string{dir}, exitError, "is a directory"},
		{[]string{"-"}, exitError, "-: there are no testimonies in it"},
		{[]string{}, exitUsage, "accepts 1 arg"},
		{[]string{"--output", "yaml", bad}, exitUsage, "yaml"},
		{[]string{"--now", "soon", bad}, exitUsage, "soon"},
	} {
		code, out, errOut := runCLI(t, append([]string{"verdict", "replay"}, tc.args...)...)
		require.Equal(t, tc.code, code, errOut)
		require.Contains(t, errOut, tc.want)
		require.Equal(t, 1, strings.Count(errOut, "\n"), errOut)
		require.Empty(t, out)
	}
}

// TestVerdictReplayShowsNothingThatATerminalObeys: the file may come from anywhere.
func TestVerdictReplayShowsNothingThatATerminalObeys(t *testing.T) {
	hostile := `{"observer":"agent","connection_id":"a\u001b[2J","connect_type":"agent_to_client","kind":"ending",` +
		`"facts":[{"kind":"process_exit","signal":"KILL\u001b[2J","text":"x\u001b]0;y\u0007","ref":"\u202e"}]}`
	var out, errOut bytes.Buffer
	code := Run(t.Context(), []string{"verdict", "replay", "-"}, strings.NewReader(hostile), &out, &errOut)
	require.Equal(t, exitOK, code, errOut.String())
	require.NotContains(t, out.String(), "\x1b")
	require.NotContains(t, out.String(), "\x07")
	require.NotContains(t, out.String(), "\u202e")
}
