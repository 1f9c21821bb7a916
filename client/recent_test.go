package client

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/verdict"
)

// TestRecent: of the sessions that are over the last ones are kept, for a day.
func TestRecent(t *testing.T) {
	t.Parallel()
	r := NewRecords(filepath.Join(t.TempDir(), "of"), nil, nil)
	require.Empty(t, r.Recent(time.Now()), "there is no directory yet")
	for i := range maxRecent + 5 {
		end := SessionEnd{ConnectionID: fmt.Sprintf("id-%d", i), ExitCode: exitLost, Attribution: disconnect.Attribution{
			ConnectType: disconnect.AgentToClient, Reason: disconnect.NetworkTimeout, Initiator: disconnect.Network,
		}}
		r.rememberEnd(fmt.Sprintf("dev-%d", i), end, *sessionTestimony(end))
	}
	all := r.Recent(time.Now())
	require.Len(t, all, maxRecent)
	require.Equal(t, "dev-24", all[0].Workspace)
	require.Equal(t, "id-5", all[maxRecent-1].ConnectionID)
	v := verdict.Judge([]verdict.Testimony{all[0].Testimony}, verdict.Context{})
	require.Equal(t, disconnect.NetworkTimeout, v.Reason)

	// What is torn, what is not ours to read and what was never finished is left out.
	files := r.recentFiles()
	require.NoError(t, os.WriteFile(filepath.Join(r.recentDir(), files[0]), []byte(`{"connection_id":`), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(r.recentDir(), files[1]), make([]byte, maxRecentBytes+1), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(r.recentDir(), files[2]), []byte(`{"testimony":{"kind":"rumour"}}`), 0o600))
	unfinished := filepath.Join(r.recentDir(), "new-1")
	require.NoError(t, os.WriteFile(unfinished, nil, 0o600))
	require.Len(t, r.Recent(time.Now()), maxRecent-3)

	require.Empty(t, r.Recent(time.Now().Add(keepRecent+time.Minute)))
	old := time.Now().Add(-keepRecent - time.Minute)
	for _, name := range append(files, "new-1") {
		require.NoError(t, os.Chtimes(filepath.Join(r.recentDir(), name), old, old))
	}
	r.forgetRecent(time.Now())
	require.Empty(t, r.recentFiles())
}

// TestRecentIsOptional: no place to keep them is no failure of a session.
func TestRecentIsOptional(t *testing.T) {
	t.Parallel()
	var none *Records
	end := SessionEnd{Exited: true, Attribution: disconnect.Attribution{ConnectType: disconnect.AgentToClient, Reason: disconnect.Graceful, Initiator: disconnect.Agent}}
	none.rememberEnd("dev", end, *sessionTestimony(end))
	require.Empty(t, none.Recent(time.Now()))
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	r := NewRecords(file, nil, nil)
	r.rememberEnd("dev", end, *sessionTestimony(end))
	require.Empty(t, r.Recent(time.Now()))
}

// TestRecentExit: the client's own account of an exit names the status.
func TestRecentExit(t *testing.T) {
	t.Parallel()
	r := NewRecords(t.TempDir(), nil, nil)
	for code, want := range map[int]disconnect.Reason{0: disconnect.Graceful, 3: disconnect.ProcessExited} {
		end := SessionEnd{Exited: true, ExitCode: code, Attribution: exitStatus{known: true, code: code}.attribution()}
		r.rememberEnd("dev", end, *sessionTestimony(end))
		v := verdict.Judge([]verdict.Testimony{r.Recent(time.Now())[0].Testimony}, verdict.Context{})
		require.Equal(t, want, v.Reason)
		require.NotNil(t, v.ExitCode)
		require.EqualValues(t, code, *v.ExitCode)
	}
}
