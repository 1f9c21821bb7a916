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
)

// ear is a server that hears testimonies, and answers with a status.
type ear struct {
	*Records
	mu     sync.Mutex // guards all below
	status int
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
		_, _ = w.Write([]byte("{}"))
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
	require.False(t, e.deliver(t.Context(), id, said))
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
	require.True(t, got.Clock.Wall.After(said.Clock.Wall))
	require.Greater(t, got.Clock.Mono, said.Clock.Mono)
}

// TestUntoldForEver: what will never be taken is not kept.
func TestUntoldForEver(t *testing.T) {
	t.Parallel()
	e := newEar(t, http.StatusBadRequest)
	require.False(t, e.deliver(t.Context(), uuid.NewString(), lostSession()))
	require.Empty(t, e.waiting(t))

	e.answers(http.StatusServiceUnavailable)
	require.False(t, e.deliver(t.Context(), uuid.NewString(), lostSession()))
	old := lostSession()
	require.True(t, e.note(uuid.NewString(), old))
	body, err := json.Marshal(untold{*old})
	require.NoError(t, err)
	var parsed untold
	require.NoError(t, json.Unmarshal(body, &parsed))
	parsed.Testimony.Clock.Wall = parsed.Testimony.Clock.Wall.Add(-keepUntold - time.Minute)
	body, err = json.Marshal(parsed)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(e.path(untoldName(old.ConnectionID, old)), body, 0o600))
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
