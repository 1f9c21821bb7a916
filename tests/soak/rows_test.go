package soak

import (
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/tests/site"
)

// fields are the words of an ending, as a log line and a row both have them.
type fields struct {
	connectType, reason, initiator string
	expected                       bool
	detail                         string
	exit                           int // -1: none
}

func ofRow(r row) fields {
	f := fields{r.ConnectType, *r.Reason, *r.Initiator, *r.Expected, *r.Detail, -1}
	if r.ExitCode != nil {
		f.exit = *r.ExitCode
	}
	return f
}

func ofLine(record map[string]any) fields {
	text := func(key string) string { s, _ := record[key].(string); return s }
	f := fields{
		text("connect_type"), text("disconnect_reason"), text("disconnect_initiator"),
		record["disconnect_expected"] == true, text("disconnect_detail"), -1,
	}
	if code, ok := record["exit_code"].(float64); ok {
		f.exit = int(code)
	}
	return f
}

// named is a session whose row its test finds by the name of its app.
type named struct {
	t   *testing.T
	s   *site.Site
	app string
	p   *site.Process
}

func begin(t *testing.T, s *site.Site, app, command string) *named {
	t.Helper()
	p := s.Start("ssh", "dev", "--env", "FAIRLEAD_APP="+app, "--outage-limit", "4s", "--", "echo begun; "+command)
	p.Stdout.AwaitText(t, "begun")
	return &named{t, s, app, p}
}

// row waits until the session's row is closed; there is one.
func (n *named) row() row {
	n.t.Helper()
	var found []row
	site.Eventually(n.t, "a closed row of "+n.app, func() bool {
		found = nil
		for _, r := range connections(n.t, n.s) {
			if r.App == n.app {
				found = append(found, r)
			}
		}
		return len(found) == 1 && found[0].Status == "closed"
	})
	checkWords(n.t, found[0])
	return found[0]
}

// lines are the agent's own about the session of a row.
func lines(t *testing.T, agent *site.Process, r row) (all []map[string]any) {
	t.Helper()
	for _, record := range agent.Stderr.Endings(t, "ssh session closed") {
		if record["connection_id"] == r.ID {
			all = append(all, record)
		}
	}
	return all
}

// TestRowsSayWhatTheAgentSaw: of every way in which a session ends, the stored row and
// the agent's line have the same words, and there is one of each.
func TestRowsSayWhatTheAgentSaw(t *testing.T) {
	t.Parallel()
	s := site.New(t, "--outage-limit", "4s")
	servers := []*site.Process{s.Server}
	const client = "agent_to_client"
	for _, tc := range []struct {
		app, command string
		end          func(*named)
		want         fields
	}{
		{"zero", "exit 0", nil, fields{client, "graceful", "agent", true, "normal exit", 0}},
		{"three", "exit 3", nil, fields{client, "process_exited", "agent", true, "process exited with error status: 3", 3}},
		{"signal", "kill -9 $$", nil, fields{client, "process_signaled", "agent", false, "process killed by signal: SIGKILL", 137}},
		{"missing", "/does/not/exist", nil, fields{client, "process_exited", "agent", true, "process exited with error status: 127 (not_found)", 127}},
		{"told", "exec sleep 60", func(n *named) { n.p.Signal(syscall.SIGTERM) },
			fields{client, "client_closed", "client", true, "the client was told to stop", -1}},
		{"hung-up", "exec sleep 60", func(n *named) { n.p.Signal(syscall.SIGHUP) },
			fields{client, "client_closed", "client", true, "the client was told to stop", -1}},
		{"lost", "exec sleep 60", func(n *named) {
			n.s.AwaitRecords()
			n.p.Kill()
		},
			// Its obituary ends the session at the agent, which would else wait for its outage limit.
			fields{client, "peer_crashed", "client", false, "the client died without a goodbye", -1}},
		{"after-the-server", "sleep 3; exit 5", func(n *named) {
			n.s.Server.Kill()
			n.s.StartServer()
			servers = append(servers, n.s.Server)
		},
			fields{client, "process_exited", "agent", true, "process exited with error status: 5", 5}},
	} {
		t.Run(tc.app, func(t *testing.T) {
			n := begin(t, s, tc.app, tc.command)
			if tc.end != nil {
				tc.end(n)
			}
			r := n.row()
			n.p.Wait() // its record is not taken for the next one's
			got := lines(t, s.Agent, r)
			require.Len(t, got, 1)
			require.Equal(t, ofLine(got[0]), ofRow(r))
			require.Equal(t, tc.want, ofRow(r))
		})
	}

	t.Run("a stop comes later than the end", func(t *testing.T) {
		ended, open := begin(t, s, "ended", "sleep 0.2; exit 6"), begin(t, s, "open", "exec sleep 60")
		require.Equal(t, 6, ended.p.Wait())
		former := s.Agent
		former.Stop()
		s.StartAgent("--outage-limit", "4s")
		require.Equal(t, fields{client, "process_exited", "agent", true, "process exited with error status: 6", 6}, ofRow(ended.row()))
		r := open.row()
		got := lines(t, former, r)
		require.Len(t, got, 1)
		require.Equal(t, ofLine(got[0]), ofRow(r))
		require.Equal(t, fields{client, "server_shutdown", "agent", true, "the agent is stopping", -1}, ofRow(r))
	})
	t.Run("the agent dies", func(t *testing.T) {
		n := begin(t, s, "orphan", "exec sleep 20")
		before := time.Now()
		s.Agent.Kill()
		s.StartAgent("--outage-limit", "4s")
		r := n.row()
		require.Equal(t, fields{client, "peer_crashed", "agent", false, "the agent died without a goodbye", -1}, ofRow(r))
		require.WithinDuration(t, before, *r.DisconnectedAt, 8*time.Second)
		told := s.Agent.Ending("connections of a former life ended", client, "peer_crashed", "agent", false)
		require.Equal(t, ofRow(r), ofLine(told), "the next life says so too")
		require.Equal(t, 255, n.p.Wait())
	})
	t.Run("links", func(t *testing.T) {
		s.Server.Stop()
		s.StartServer()
		servers = append(servers, s.Server)
		s.AwaitAgent("online")
		s.Agent.Stop()
		site.Eventually(t, "no open link", func() bool { return len(open(connections(t, s))) == 0 })
		checkLinkRows(t, servers, connections(t, s))
	})
	t.Run("the workspace is deleted", func(t *testing.T) {
		s.StartAgent("--outage-limit", "4s")
		n := begin(t, s, "deleted", "exec sleep 20")
		s.Must("workspace", "delete", "dev")
		r := n.row()
		got := lines(t, s.Agent, r)
		require.Len(t, got, 1)
		require.Equal(t, ofLine(got[0]), ofRow(r))
		require.Equal(t, "workspace_stopped", *r.Reason)
		require.Equal(t, 3, s.Agent.Wait())
	})
}

// checkLinkRows wants the words of the servers' lines in the rows of control links, those of
// a changed verdict where there is one: a link of a server that was killed has none.
func checkLinkRows(t *testing.T, servers []*site.Process, rows []row) {
	t.Helper()
	var said, stored []fields
	var reasons []string // of the agent's links, the newest first
	var changed int
	for _, r := range rows {
		if r.ConnectType == "agent_to_client" {
			continue
		}
		checkWords(t, r)
		if r.ConnectType == "server_to_agent" {
			reasons = append(reasons, *r.Reason+" "+*r.Initiator)
		}
		switch {
		case *r.Reason == "peer_crashed" && *r.Initiator == "server":
		case verdictChanged(t, servers, r):
			changed++
		default:
			stored = append(stored, ofRow(r))
		}
	}
	site.Eventually(t, "a line for each row", func() bool { // it may be written after the row
		said = nil
		for _, server := range servers {
			for _, msg := range []string{"agent control link ended", "client control link ended"} {
				for _, record := range server.Stderr.Endings(t, msg) {
					said = append(said, ofLine(record))
				}
			}
		}
		return len(said) >= len(stored)+changed
	})
	require.Subset(t, said, stored)
	require.Len(t, said, len(stored)+changed)
	require.Equal(t, []string{
		"server_shutdown agent", "server_shutdown server", "peer_crashed agent",
		"server_shutdown agent", "peer_crashed server",
	}, reasons)
}

// verdictChanged reports whether a server said that a row has another ending than its link
// had when it ended; the last such line has the words of the row.
func verdictChanged(t *testing.T, servers []*site.Process, r row) bool {
	t.Helper()
	var last map[string]any
	for _, server := range servers {
		for _, record := range server.Stderr.Endings(t, "verdict changed") {
			if record["connection_id"] == r.ID {
				last = record
			}
		}
	}
	if last != nil {
		require.Equal(t, ofRow(r), ofLine(last))
	}
	return last != nil
}
