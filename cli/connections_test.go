package cli

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/sdk"
)

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// rows are an open connection and one that ended badly.
func rows() []sdk.Connection {
	reason, initiator, detail, expected, code, end := "network_timeout", "network", "=cmd|'/c calc'!A1", false, 3, noon.Add(90*time.Minute)
	return []sdk.Connection{
		{ID: "aaaaaaaa-0000-4000-8000-000000000001", Workspace: "dev", Owner: "ada", User: "ada", Type: "ssh",
			ConnectType: "agent_to_client", Status: "open", ConnectedAt: noon, Path: "direct"},
		{ID: "bbbbbbbb-0000-4000-8000-000000000002", Workspace: "dev", Owner: "ada", User: "eve\x1b[2J", Type: "ssh",
			ConnectType: "agent_to_client", Status: "closed", ConnectedAt: noon, DisconnectedAt: &end, ObservedConnectedAt: &noon,
			Reason: &reason, Initiator: &initiator, Detail: &detail, Expected: &expected, ExitCode: &code, BytesSent: 7},
	}
}

func written(t *testing.T, format string, pages ...[]sdk.Connection) (stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	w, e := newConnectionWriter(streams{out: &out, err: &err}, format, func() time.Time { return noon.Add(time.Hour) })
	require.NoError(t, e)
	for _, page := range pages {
		require.NoError(t, w.write(page))
	}
	require.NoError(t, w.end())
	return out.String(), err.String()
}

// TestConnectionFormats: each format is one document however many pages there were,
// also of none.
func TestConnectionFormats(t *testing.T) {
	all := rows()
	pages := [][]sdk.Connection{all[:1], all[1:]}

	text, _ := written(t, "json", pages...)
	var array []map[string]any
	require.NoError(t, json.Unmarshal([]byte(text), &array))
	require.Len(t, array, 2)
	require.Nil(t, array[0]["disconnect_reason"], "open")
	require.Equal(t, "network_timeout", array[1]["disconnect_reason"])
	text, _ = written(t, "json")
	require.Equal(t, "[]\n", text)

	text, _ = written(t, "ndjson", pages...)
	require.Equal(t, 2, bytes.Count([]byte(text), []byte("\n")))

	text, _ = written(t, "csv", pages...)
	records, err := csv.NewReader(bytes.NewReader([]byte(text))).ReadAll()
	require.NoError(t, err)
	require.Len(t, records, 3)
	require.Equal(t, "id", records[0][0])
	for _, cell := range records[2] {
		require.NotContains(t, "=+-@", string(append([]byte(cell), ' ')[0]), "a spreadsheet would take it for a formula")
		require.NotContains(t, cell, "\x1b")
	}
	require.Contains(t, records[2], "'=cmd|'/c calc'!A1")
	text, _ = written(t, "csv")
	require.Equal(t, 1, bytes.Count([]byte(text), []byte("\n")), "the header")

	text, _ = written(t, "table", pages...)
	require.Contains(t, text, "network_timeout")
	require.NotContains(t, text, "\x1b")
	text, message := written(t, "table")
	require.Empty(t, text)
	require.Equal(t, "There is no such connection.\n", message)

	_, err = newConnectionWriter(streams{}, "xml", time.Now)
	require.ErrorContains(t, err, "table, json, csv or ndjson")
}

func TestMoment(t *testing.T) {
	for text, want := range map[string]time.Time{
		"":                     {},
		"90m":                  noon.Add(-90 * time.Minute),
		"7d":                   noon.AddDate(0, 0, -7),
		"2026-11-22T10:00:00Z": time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC),
		"2026-11-22 10:00":     time.Date(2026, 11, 22, 10, 0, 0, 0, time.Local),
	} {
		got, err := moment("--since", text, noon)
		require.NoError(t, err, text)
		require.True(t, got.Equal(want), "%s: %s", text, got)
	}
	for _, text := range []string{"yesterday", "-1h", "7", "d", "2026-13-01"} {
		_, err := moment("--since", text, noon)
		require.ErrorContains(t, err, "--since", text)
	}
}
