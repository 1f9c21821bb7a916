package verdict

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"
)

const readable = `{"observer":"agent","connection_id":"c1","connect_type":"agent_to_client","kind":"ending","facts":[{"kind":"process_exit","exit_code":0}]}`

func TestRead(t *testing.T) {
	second := strings.Replace(readable, `"c1"`, `"c2"`, 1)
	context := `{"context":{"connection_id":"c2","connect_type":"agent_to_client","relay_owner":"server"}}`
	for name, text := range map[string]string{
		"lines":     readable + "\n" + context + "\n\n" + second + "\n",
		"array":     context + "[" + readable + ",\n" + second + "]",
		"case":      `{"testimonies":[` + readable + "]}" + `{"testimonies":[` + second + `],` + context[1:],
		"crlf":      readable + "\r\n" + context + "\r\n" + second,
		"one value": context + readable + second,
	} {
		t.Run(name, func(t *testing.T) {
			cases, err := Read(strings.NewReader(text))
			require.NoError(t, err)
			require.Len(t, cases, 2)
			require.Equal(t, "c1", cases[0].Context.ConnectionID)
			require.Zero(t, cases[0].Context.RelayOwner)
			require.Equal(t, "c2", cases[1].Context.ConnectionID)
			require.Equal(t, server, cases[1].Context.RelayOwner)
			require.Equal(t, "graceful/agent", cell(Judge(cases[1].Testimonies, cases[1].Context)))
		})
	}
}

func TestReadSaysWhichLineIsWrong(t *testing.T) {
	for text, want := range map[string]string{
		"":                              "there are no testimonies in it",
		"\n\n":                          "there are no testimonies in it",
		`{"context":{}}`:                "there are no testimonies in it",
		readable + "\n{\"observer\":":   "line 2: the JSON is cut off",
		readable + "\n\nnot json\n":     "line 3: not JSON",
		readable + "\n17":               "line 2: not a testimony, which is an object",
		readable + "\n{}":               "line 2: observer unknown cannot testify",
		readable + "\n" + `{"obs":1}`:   `line 2: json: unknown field "obs"`,
		"[" + readable + ",\n\n{}]":     "line 3: observer unknown cannot testify",
		"[" + readable + ",\n7]":        "line 2:",
		`{"testimonies":7}`:             "line 1: testimonies is not an array",
		"\n" + `{"context":{"now":7}}`:  "line 2:",
		`{"observer":"ghost"}`:          `line 1: parse initiator: "ghost" is not a known initiator`,
		`{"observer":"agent","id":[1]}`: "line 1: id is a JSON array, which it cannot be",
		strings.Replace(readable, "process_exit", "hunch", 1): `line 1: "hunch" is not a known kind of fact`,
		strings.Replace(readable, `"ending"`, `"end"`, 1):     `line 1: kind "end" is not known; use ending, interruption or remark`,
	} {
		_, err := Read(strings.NewReader(text))
		require.ErrorContains(t, err, want, "%s", text)
		require.NotContains(t, err.Error(), "\n")
	}
	_, err := Read(iotest.ErrReader(os.ErrPermission))
	require.ErrorIs(t, err, os.ErrPermission)
}

// FuzzRead feeds what a file, a database or another process could hold. What is readable
// is judged, and the judgement keeps its promises.
func FuzzRead(f *testing.F) {
	files, err := filepath.Glob("testdata/matrix/*.json")
	require.NoError(f, err)
	for _, file := range files {
		b, err := os.ReadFile(file)
		require.NoError(f, err)
		f.Add(b)
	}
	f.Add([]byte(readable))
	f.Add([]byte(`[{"observer":"client","connect_type":"client_to_server","kind":"remark","clock":{"offset_us":9223372036854775807,"wall":"9999-12-31T23:59:59Z","mono_us":-1}}]`))
	f.Fuzz(func(t *testing.T, b []byte) {
		cases, err := Read(strings.NewReader(string(b)))
		if err != nil {
			require.NotContains(t, err.Error(), "\n")
			return
		}
		for _, c := range cases {
			v := Judge(c.Testimonies, c.Context)
			require.Equal(t, v.Rule == R11, v.Reason == 0)
			if v.Expected() {
				require.True(t, v.Rule <= R5 || v.Rule == R9, v.Rule)
			}
			Interruptions(c.Testimonies, c.Context)
			stored, err := json.Marshal(c)
			if err != nil {
				continue // a time that JSON cannot hold
			}
			again, err := Read(strings.NewReader(string(stored)))
			require.NoError(t, err)
			require.Len(t, again, 1)
			was, err := json.Marshal(v)
			require.NoError(t, err)
			is, err := json.Marshal(Judge(again[0].Testimonies, again[0].Context))
			require.NoError(t, err)
			require.JSONEq(t, string(was), string(is))
		}
	})
}
