package agent

import (
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/agent/agentssh"
	"fairlead.dev/fairlead/agent/proto"
	"fairlead.dev/fairlead/disconnect"
)

// TestEveryEndingIsCountedOnce: whoever says that a session has ended, and also when it
// is the next life of the process.
func TestEveryEndingIsCountedOnce(t *testing.T) {
	t.Parallel()
	type counted struct {
		reason disconnect.Reason
		kind   string
	}
	var got []counted
	life := func(dir string) *agent {
		a := &agent{logger: slog.New(slog.DiscardHandler), opts: Options{StateDir: dir, Ended: func(attr disconnect.Attribution, kind string, lasted time.Duration) {
			require.Equal(t, disconnect.AgentToClient, attr.ConnectType)
			require.GreaterOrEqual(t, lasted, time.Duration(0))
			got = append(got, counted{attr.Reason, kind})
		}}}
		a.openReports()
		return a
	}
	a := life(t.TempDir())
	crashed := disconnect.Attribution{Reason: disconnect.NetworkTimeout, Initiator: disconnect.Network}
	a.trackConnection(&proto.Connection{Id: id(1), Type: proto.Connection_SSH}, netip.Addr{})(agentssh.Ended{Attribution: crashed}, nil)
	a.reportConnection(uuid.UUID(id(2)), proto.Connection_VSCODE, "")(0, "done")
	a.trackConnection(&proto.Connection{Id: id(3), Type: proto.Connection_SSH}, netip.Addr{}) // open when the process dies
	require.Equal(t, []counted{{disconnect.NetworkTimeout, "ssh"}, {disconnect.Graceful, "vscode"}}, got)

	got = nil
	b := life(killed(t, a))
	defer b.journal.Close()
	require.Equal(t, []counted{{disconnect.PeerCrashed, "ssh"}}, got)
}

// TestReportStatus: what is lost is told once in the log, and stays in the numbers.
func TestReportStatus(t *testing.T) {
	t.Parallel()
	uut := &agent{logger: slog.New(slog.DiscardHandler)}
	for range maxReports/2 + 3 {
		uut.reportConnection(uuid.New(), proto.Connection_SSH, "")
	}
	require.NoError(t, uut.reportsDelivered(10, 2))
	want := ReportStatus{Pending: maxReports/2 - 10, Dropped: 3, Refused: 2, Volatile: true}
	require.Equal(t, want, uut.reportStatus())
	uut.tellLosses()
	require.Equal(t, want, uut.reportStatus())
}
