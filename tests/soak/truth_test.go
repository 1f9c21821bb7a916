package soak

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/sdk"
	"fairlead.dev/fairlead/tests/site"
)

const sigcont = syscall.SIGCONT

// slack is how far the times of two processes may be apart that a freeze came between.
const slack = 4 * time.Second

type row = sdk.Connection

// connections returns the whole log.
func connections(t *testing.T, s *site.Site) (rows []row) {
	t.Helper()
	require.NoError(t, json.Unmarshal([]byte(s.Must("connections", "--limit", "0", "--output", "json")), &rows))
	return rows
}

// check holds the log against what was seen, and prints how much that was.
func check(t *testing.T, x *trouble, clients []*seen, rows []row) {
	t.Helper()
	byApp, reasons, kinds := map[string][]row{}, map[string]int{}, map[string]int{}
	for _, r := range rows {
		kinds[r.ConnectType]++
		if r.ConnectType == "agent_to_client" {
			byApp[r.App] = append(byApp[r.App], r)
		}
		if r.Status == "closed" {
			checkWords(t, r)
			reasons[r.ConnectType+" "+*r.Reason]++
		}
	}
	begun, named := 0, 0
	for _, v := range clients {
		if !v.begun.IsZero() {
			begun++
		}
		if v.id != "" {
			named++
		}
		if wrong := x.judge(v, byApp[v.app]); wrong != "" {
			t.Errorf("%s: %s\nplan: %q leave=%v after %v\nstarted %s begun %s left %s over %s code %d id %s\nthe client: %s\nthe log: %s", v.app, wrong,
				v.plan.command, v.plan.leave, v.plan.after, v.started.Format(clock), v.begun.Format(clock), v.left.Format(clock), v.over.Format(clock),
				v.code, v.id, v.p.Stderr, describeAll(byApp[v.app]))
		}
		delete(byApp, v.app)
	}
	require.Empty(t, byApp, "rows of nobody")
	checkLinks(t, x, clients, rows)
	t.Logf("%d clients, %d of them with a session, %d that knew its id; rows: %v; endings: %v", len(clients), begun, named, kinds, reasons)
	require.NotZero(t, begun, "nothing was tested")
}

func describeAll(rows []row) string {
	var all []string
	for _, r := range rows {
		all = append(all, describe(r))
	}
	return strings.Join(all, "\n")
}

// checkWords wants a whole ending.
func checkWords(t *testing.T, r row) {
	t.Helper()
	require.NotNil(t, r.DisconnectedAt, describe(r))
	require.NotNil(t, r.Reason)
	reason, err := disconnect.ParseReason(*r.Reason)
	require.NoError(t, err)
	require.NotEqual(t, disconnect.Unknown, reason, describe(r))
	require.NotEqual(t, "unknown", *r.Initiator, describe(r))
	require.NotEmpty(t, *r.Detail, describe(r))
	require.Equal(t, reason.Expected(), *r.Expected, describe(r))
	require.False(t, r.Provisional && *r.Expected, describe(r)) // what went wrong may wait for a witness
	require.False(t, r.DisconnectedAt.Before(r.ConnectedAt), describe(r))
}

// judge says what is wrong with the rows of a client's session; "": nothing is.
func (x *trouble) judge(v *seen, rows []row) string {
	switch {
	case len(rows) > 1:
		return "doubled"
	case len(rows) == 0 && (!v.begun.IsZero() || v.id != ""):
		return "lost"
	case len(rows) == 0:
		return ""
	}
	r := rows[0]
	if v.id != "" && v.id != r.ID {
		return "another id than the client was told"
	}
	got := [2]string{*r.Reason, *r.Initiator}
	switch got {
	case [2]string{"peer_crashed", "agent"}:
		return x.judgeCrash(v, r)
	case [2]string{"peer_crashed", "client"}: // the next command of the same user says so
		if v.plan.leave != syscall.SIGKILL || v.left.IsZero() {
			return "a crash of a client that nobody killed"
		}
		return ""
	}
	if told := v.told(); told != "" && told != got[0] {
		return "another reason than the client was told: " + told
	}
	planned := [2]string{v.plan.reason, v.plan.initiator}
	if v.begun.IsZero() && got != planned && v.code != 0 {
		return "" // it never got to its plan
	}
	if got == [2]string{"network_error", "network"} && strings.Contains(*r.Detail, "the peer was removed") && x.unheard(v.left) {
		return ""
	}
	if got != planned {
		return fmt.Sprintf("neither the plan (%v) nor anything that happened", planned)
	}
	if v.plan.exit >= 0 && (r.ExitCode == nil || *r.ExitCode != v.plan.exit) {
		return "another exit code"
	}
	return ""
}

// unheard reports whether a client that left at that time may have been gone before its
// goodbye was read: it does not wait for an agent that is frozen, and then the agent
// hears first from the server that it has no such peer any more.
func (x *trouble) unheard(left time.Time) bool {
	return slices.ContainsFunc(x.frozen, func(f [2]time.Time) bool { return left.After(f[0].Add(-time.Second)) && left.Before(f[1]) })
}

// told is the reason that a client gave for an end that only the agent can know of; "":
// it gave none.
func (v *seen) told() string {
	switch reason := fmt.Sprint(v.end["disconnect_reason"]); reason {
	case "graceful", "process_exited", "process_signaled":
		return reason
	}
	return ""
}

// judgeCrash wants an agent that was killed in the life of the session, and a client
// that was not told of another end before.
func (x *trouble) judgeCrash(v *seen, r row) string {
	if v.told() != "" {
		return "a crash, though the client was told of another end"
	}
	killed := slices.ContainsFunc(x.killed.agents, func(at time.Time) bool {
		// The agent's last sign of life is up to 7 s older than its death, and a report that
		// waits in a frozen server makes its times look younger.
		return r.ConnectedAt.Before(at.Add(slack)) && r.DisconnectedAt.After(at.Add(-8*time.Second)) && r.DisconnectedAt.Before(at.Add(slack))
	})
	if !killed {
		return "a crash of an agent that nobody killed"
	}
	return ""
}

// checkLinks wants a row for each control link that an agent had, and no fewer for
// clients than there were.
func checkLinks(t *testing.T, x *trouble, clients []*seen, rows []row) {
	t.Helper()
	var ours, theirs []row
	for _, r := range rows {
		switch r.ConnectType {
		case "server_to_agent":
			ours = append(ours, r)
		case "client_to_server":
			theirs = append(theirs, r)
		}
	}
	// A server that dies at once may have stored nothing of a link yet.
	stored := func(at time.Time) bool {
		return !slices.ContainsFunc(x.killed.servers, func(k time.Time) bool { return at.Sub(k).Abs() < time.Second })
	}
	for _, at := range x.connected(t) {
		i := nearest(ours, at)
		if i < 0 || ours[i].ConnectedAt.Sub(at).Abs() > slack {
			if stored(at) {
				t.Errorf("no row for the agent's link of %s", at.Format(clock))
			}
			continue
		}
		ours = slices.Delete(ours, i, i+1)
	}
	least := 0
	for _, v := range clients {
		if !v.begun.IsZero() && stored(v.started) && stored(v.begun) {
			least++
		}
	}
	require.GreaterOrEqual(t, len(theirs), least, "links of clients")
}

// connected returns when agents were connected, in their own words.
func (x *trouble) connected(t *testing.T) (all []time.Time) {
	for _, agent := range x.agents {
		for _, record := range agent.Stderr.Records(t) {
			if record["msg"] == "connected to server" {
				at, err := time.Parse(time.RFC3339Nano, fmt.Sprint(record["time"]))
				require.NoError(t, err)
				all = append(all, at)
			}
		}
	}
	return all
}

// nearest is the index of the row that began at about that time; -1: there are none.
func nearest(rows []row, at time.Time) (best int) {
	best = -1
	for i, r := range rows {
		if best < 0 || r.ConnectedAt.Sub(at).Abs() < rows[best].ConnectedAt.Sub(at).Abs() {
			best = i
		}
	}
	return best
}
