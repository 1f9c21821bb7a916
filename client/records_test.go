package client

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/verdict"
	"fairlead.dev/fairlead/sdk"
	"fairlead.dev/fairlead/testutil"
)

// ear is a server that hears testimonies, and answers with a status, or with a row.
type ear struct {
	*Records
	mu     sync.Mutex // guards all below
	status int
	row    sdk.Connection
	heard  []verdict.Testimony
}

func newEar(t *testing.T, status int) *ear {
	e := &ear{status: status}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e.mu.Lock()
		defer e.mu.Unlock()
		w.Header().Set(sdk.HeaderVersion, "test")
		w.Header().Set("Content-Type", "application/json")
		if e.status != http.StatusOK {
			w.WriteHeader(e.status)
			return
		}
		var said verdict.Testimony
		if json.NewDecoder(r.Body).Decode(&said) == nil {
			e.heard = append(e.heard, said)
		}
		_ = json.NewEncoder(w).Encode(e.row)
	}))
	t.Cleanup(srv.Close)
	api, err := sdk.NewClient(srv.URL, "token")
	require.NoError(t, err)
	e.Records = NewRecords(filepath.Join(t.TempDir(), "of"), api, nil)
	return e
}

func (e *ear) answers(status int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.status = status
}

func (e *ear) says(row sdk.Connection) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.row = row
}

func (e *ear) waiting(t *testing.T) (names []string) {
	names, err := filepath.Glob(e.path("*"))
	require.NoError(t, err)
	return names
}

func lostSession() *verdict.Testimony {
	t := sessionTestimony(SessionEnd{Attribution: disconnect.Attribution{
		ConnectType: disconnect.AgentToClient, Reason: disconnect.NetworkTimeout, Initiator: disconnect.Network,
	}})
	m := verdict.Moment{Wall: clockNow().Wall, Mono: clockNow().Mono}
	t.LastGood, t.FirstNoticed = before(m, time.Minute), m
	return t
}

// TestUntold: what the server could not be told is told once, by the next command whose
// server takes it, with the clock of then.
func TestUntold(t *testing.T) {
	t.Parallel()
	e := newEar(t, http.StatusServiceUnavailable)
	id := uuid.NewString()
	said := lostSession()
	noted := clockNow()
	e.deliver(t.Context(), id, said)
	require.Len(t, e.waiting(t), 1)
	for _, later := range []int{http.StatusNotFound, http.StatusTooManyRequests, http.StatusUnauthorized} {
		e.answers(later)
		e.Report(t.Context())
		require.Len(t, e.waiting(t), 1)
	}
	e.answers(http.StatusOK)
	e.Report(t.Context())
	e.Report(t.Context())
	require.Empty(t, e.waiting(t))
	require.Len(t, e.heard, 1)
	got := e.heard[0]
	require.Equal(t, id, got.ConnectionID)
	require.Equal(t, said.LastGood.Mono, got.LastGood.Mono)
	require.True(t, got.Clock.Wall.After(noted.Wall))
	require.Greater(t, got.Clock.Mono, noted.Mono)
}

// TestCorrected: what the verdict makes of an end is written down where this machine said
// something else, once, by whichever command hears of it.
func TestCorrected(t *testing.T) {
	t.Parallel()
	e := newEar(t, http.StatusOK)
	logger, logged := testutil.NewLogRecorder(t)
	e.log = logger
	corrections := func() (n int) {
		for _, r := range logged.Records() {
			if r.Message == "ending corrected by the server's verdict" {
				n++
			}
		}
		return n
	}
	e.says(sdk.Connection{Status: "open"})
	e.deliver(t.Context(), uuid.NewString(), lostSession())
	require.Len(t, e.waiting(t), 1, "the agent has not spoken yet")

	row := func(reason, confidence string, provisional bool) sdk.Connection {
		who, detail := "agent", "what is known"
		return sdk.Connection{Status: "closed", Reason: &reason, Initiator: &who, Detail: &detail, Confidence: &confidence, Provisional: provisional}
	}
	e.says(row("internal_error", "low", true))
	e.Report(t.Context())
	require.Zero(t, corrections(), "a guess")
	for range 2 {
		e.says(row("peer_crashed", "high", true))
		e.Report(t.Context())
		require.Equal(t, 1, corrections())
		require.Len(t, e.waiting(t), 1, "somebody may know better")
	}
	e.says(row("oom_killed", "certain", false))
	e.Report(t.Context())
	require.Equal(t, 2, corrections())
	require.Empty(t, e.waiting(t), "it is final")

	own := lostSession()
	own.Evidence = disconnect.EvidenceLocal
	e.says(sdk.Connection{Status: "open"})
	e.deliver(t.Context(), uuid.NewString(), own)
	require.Empty(t, e.waiting(t), "what this machine did itself it knows best")
}

// TestUntoldForEver: what will never be taken is not kept.
func TestUntoldForEver(t *testing.T) {
	t.Parallel()
	e := newEar(t, http.StatusBadRequest)
	e.deliver(t.Context(), uuid.NewString(), lostSession())
	require.Empty(t, e.waiting(t))

	e.answers(http.StatusServiceUnavailable)
	e.deliver(t.Context(), uuid.NewString(), lostSession())
	require.Len(t, e.waiting(t), 1)
	old := untold{Testimony: *lostSession()}
	require.True(t, e.note(uuid.NewString(), &old))
	old.Testimony.Clock.Wall = old.Testimony.Clock.Wall.Add(-keepUntold - time.Minute)
	body, err := json.Marshal(old)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(e.path(untoldName(old.Testimony.ConnectionID, &old.Testimony)), body, 0o600))
	require.NoError(t, os.WriteFile(e.path(uuid.NewString()+".ended"+untoldSuffix), []byte("{"), 0o600))
	e.Report(t.Context())
	require.Len(t, e.waiting(t), 1, "only what may still be told")
}

func TestSameBoot(t *testing.T) {
	t.Parallel()
	began := verdict.Clock{Wall: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), Mono: 5_000_000_000}
	later := verdict.Clock{Wall: began.Wall.Add(time.Hour), Mono: began.Mono + time.Hour.Microseconds()}
	require.True(t, sameBoot(began, later))
	set := later
	set.Wall = set.Wall.Add(time.Minute)
	require.False(t, sameBoot(began, set), "the wall clock was set: it alone tells nothing of the boot")
	require.False(t, sameBoot(began, verdict.Clock{Wall: later.Wall, Mono: 1000}))
}
