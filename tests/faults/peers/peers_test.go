package main

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/tests/faults/scenario"
	"fairlead.dev/fairlead/tests/faults/score"
)

// TestRules reads records as the programs really write them.
func TestRules(t *testing.T) {
	sayings := func(reason string, by scenario.Party, expected bool) []scenario.Say {
		return []scenario.Say{{Kind: scenario.Ending, Leg: scenario.AC, Words: says(reason, by, expected)}}
	}
	down := sayings("network_timeout", scenario.Network, false)
	for _, c := range []struct {
		name  string
		rules []rule
		text  string
		code  int
		truth []scenario.Say
		want  string
	}{
		{"exit 0", openSSH.ofClient, "Connection to 10.77.2.2 closed.\r\n", 0, nil, "graceful/agent"},
		{"exit 3", openSSH.ofClient, "Connection to 10.77.2.2 closed.\r\n", 3, nil, "process_exited/agent"},
		{"killed shell", openSSH.ofClient, "Connection to 10.77.2.2 closed.\r\n", 255, nil, "unknown/"},
		{"stopped service", openSSH.ofClient, "Connection to 10.77.2.2 closed by remote host.\r\nConnection to 10.77.2.2 closed.\r\n", 255, nil, "unknown/agent"},
		{"silence, taken literally", openSSH.ofClient, "Timeout, server 10.77.2.2 not responding.\r\n", 255, nil, "peer_unresponsive/agent"},
		{"silence, in its favour", openSSH.ofClient, "Timeout, server 10.77.2.2 not responding.\r\n", 255, down, "network_timeout/network"},
		{"silence, near the truth", openSSH.ofClient, "Timeout, server 10.77.2.2 not responding.\r\n", 255, sayings("network_unreachable", scenario.Network, false), "network_timeout/network"},
		{"nothing", openSSH.ofClient, "", 255, nil, ""},
		{"host: user", openSSH.ofHost, "Received disconnect from 10.77.9.2 port 4242:11: disconnected by user\r\n", 0, nil, "client_closed/client"},
		{"host: reset", openSSH.ofHost, "Read error from remote host 10.77.9.2 port 4242: Connection reset by peer\r\n", 0, nil, "connection_reset/network"},
		{"host: silence", openSSH.ofHost, "Timeout, client not responding from user root 10.77.9.2 port 4242\r\n", 0, down, "network_timeout/network"},
		{"mosh exits", mosh.ofClient, "[mosh is exiting.]\r\n", 0, nil, "graceful/agent"},
		{"mosh is left alone", mosh.ofClient, "[mosh did not shut down cleanly. Please note that the\r\n[mosh is exiting.]", 0, nil, "unknown/"},
	} {
		words, ok := read(c.rules, c.text, c.code, c.truth)
		require.Equal(t, c.want != "", ok, c.name)
		if ok {
			require.Equal(t, c.want, words.String(), c.name)
		}
	}
	require.Equal(t, "from 10.77.9.2 * on *\nread", plain("read\r\nsyslogin_perform_logout: logout() returned an error\r\nfrom 10.77.9.2 port 4242 on pts/3\r\n"))
}

// TestApplying: what needs a server, a relay or another path is not asked of those who
// have none, and of the rest only the session counts.
func TestApplying(t *testing.T) {
	list := applying()
	require.Greater(t, len(list), 25)
	for _, s := range list {
		require.NotContains(t, s.Name, "relay")
		for _, step := range s.Steps {
			require.Contains(t, deeds, step.Verb, s.Name)
			require.NotEqual(t, scenario.Server, step.On, s.Name)
		}
		for _, w := range scenario.Witnesses {
			says := s.Truth.Of(w)
			require.False(t, slices.ContainsFunc(says, func(s scenario.Say) bool { return s.Leg != scenario.AC }), s.Name)
			require.True(t, len(says) == 0 || w == scenario.Client || w == scenario.Agent, s.Name)
		}
	}
}

// TestStrictGoesByTheText: two truths with one text cannot be told apart, whatever each
// was taken to mean.
func TestStrictGoesByTheText(t *testing.T) {
	var rows []score.Row
	for name, words := range map[string]scenario.Words{
		"exit-0": says("graceful", scenario.Agent, true), "client-terminated": says("client_closed", scenario.Client, true),
	} {
		s, ok := scenario.ByName(name)
		require.True(t, ok)
		s.Truth = ofSession(s.Truth)
		rows = append(rows, literal(score.Judge(s, score.Outcome{Said: []score.Testimony{
			{Party: scenario.Agent, Kind: scenario.Ending, Leg: scenario.AC, Words: words, Detail: "disconnected by user"},
		}})))
	}
	totals := score.Finish("any", "1", rows).Totals[scenario.Agent]
	require.Equal(t, 2, totals.Right)
	require.Zero(t, totals.Strict)
}

// TestKeptResults: the results beside the code are whole.
func TestKeptResults(t *testing.T) {
	for _, p := range products {
		kept, err := score.Read(p.file)
		require.NoError(t, err)
		require.Equal(t, p.name, kept.Product)
		require.NotEmpty(t, kept.Version)
		require.Greater(t, len(kept.Rows), 25)
		for _, row := range kept.Rows {
			require.Empty(t, row.Error, row.Name)
		}
		client := kept.Totals[scenario.Client]
		require.Greater(t, client.Of, 25)
		require.Equal(t, client.Of, client.Right+client.Wrong+client.Silent+client.Unknown+client.Blames+client.Graceful+len(alarms(kept)))
		require.LessOrEqual(t, client.Strict, client.Right)
	}
}

// alarms are the rows in which the client, which has something to say, told of an end
// where none was.
func alarms(r score.Result) (rows []score.Row) {
	for _, row := range r.Rows {
		if cell := row.Cells[scenario.Client]; cell.Mark == score.Alarm && len(cell.Must) > 0 {
			rows = append(rows, row)
		}
	}
	return rows
}
