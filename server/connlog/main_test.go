package connlog_test

import (
	"cmp"
	"database/sql"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/server/connlog"
	"fairlead.dev/fairlead/server/store"
	"fairlead.dev/fairlead/testutil"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a log over a real database, with one workspace.
type rig struct {
	t      *testing.T
	dir    string
	db     *store.Store
	log    *connlog.Log
	logger *slog.Logger
	logged *testutil.Recorder
	cfg    connlog.Config
	owner  store.User
	ws     store.Workspace

	mu    sync.Mutex // guards ended
	ended []store.Connection
}

// newRig opens one; change may adjust the log's configuration.
func newRig(t *testing.T, change func(*connlog.Config)) *rig {
	t.Helper()
	r := &rig{t: t, dir: t.TempDir()}
	r.logger, r.logged = testutil.NewLogRecorder(t)
	r.cfg = connlog.Config{Logger: r.logger, Ended: func(c store.Connection) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.ended = append(r.ended, c)
	}}
	if change != nil {
		change(&r.cfg)
	}
	r.open()
	t.Cleanup(r.close)
	r.owner = r.addUser("ada", store.RoleMember)
	r.ws = r.addWorkspace("dev")
	return r
}

func (r *rig) open() {
	r.t.Helper()
	var err error
	r.db, err = store.Open(r.t.Context(), r.dir)
	require.NoError(r.t, err)
	r.cfg.Store, r.cfg.Instance = r.db, uuid.NewString()
	r.log, err = connlog.New(r.t.Context(), r.cfg)
	require.NoError(r.t, err)
}

func (r *rig) close() {
	if r.db != nil {
		r.log.Close()
		require.NoError(r.t, r.db.Close())
		r.db = nil
	}
}

// restart is the server's end, without a word about what is open, and its next life.
func (r *rig) restart() {
	r.t.Helper()
	r.close()
	r.open()
}

func (r *rig) addUser(name string, role store.Role) store.User {
	r.t.Helper()
	u := store.User{ID: uuid.NewString(), Name: name, Role: role, CreatedAt: time.Now()}
	require.NoError(r.t, r.db.CreateUser(r.t.Context(), u))
	return u
}

func (r *rig) addWorkspace(name string) store.Workspace {
	r.t.Helper()
	ws := store.Workspace{ID: uuid.NewString(), OwnerID: r.owner.ID, OwnerName: r.owner.Name, Name: name,
		AgentTokenHash: uuid.NewString(), CreatedAt: time.Now().Add(-time.Hour)}
	require.NoError(r.t, r.db.CreateWorkspace(r.t.Context(), ws))
	return ws
}

// agent is one life of the agent of a workspace.
func (r *rig) agent(ws store.Workspace, instance string) connlog.Agent {
	return connlog.Agent{
		Workspace: store.LoggedWorkspace{ID: ws.ID, Name: ws.Name, Owner: store.LoggedUser{ID: ws.OwnerID, Name: ws.OwnerName}},
		Created:   ws.CreatedAt, Instance: instance,
	}
}

// report sends reports that must all be taken.
func (r *rig) report(agent connlog.Agent, all ...connlog.Report) {
	r.t.Helper()
	refused, err := r.log.Report(r.t.Context(), agent, time.Now(), all)
	require.NoError(r.t, err)
	require.Empty(r.t, refused)
}

// announce tells what an agent has open, and returns what the log does not know.
func (r *rig) announce(agent connlog.Agent, former connlog.Former, known ...string) (unknown []string) {
	r.t.Helper()
	unknown, err := r.log.Announce(r.t.Context(), agent, former, connlog.Announcement{SentAt: time.Now(), Known: known})
	require.NoError(r.t, err)
	return unknown
}

// rows returns all rows that f chooses, the oldest first.
func (r *rig) rows(f store.ConnFilter) []store.Connection {
	r.t.Helper()
	f.Limit = 10_000
	rows, err := r.db.Connections(r.t.Context(), f)
	require.NoError(r.t, err)
	slices.SortFunc(rows, func(a, b store.Connection) int {
		return cmp.Or(a.ConnectedAt.Compare(b.ConnectedAt), cmp.Compare(a.ID, b.ID))
	})
	return rows
}

// row returns the one row of an id.
func (r *rig) row(id string) store.Connection {
	r.t.Helper()
	rows := r.rows(store.ConnFilter{IDPrefix: id})
	require.Len(r.t, rows, 1)
	return rows[0]
}

// timesEnded is how often somebody was told of the end of a connection.
func (r *rig) timesEnded(id string) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.ended {
		if c.ID == id {
			n++
		}
	}
	return n
}

// breakDatabase makes every new row fail, as a full disk does, until mend is called.
func (r *rig) breakDatabase() (mend func()) {
	r.t.Helper()
	other, err := sql.Open("sqlite", filepath.Join(r.dir, "fairlead.db"))
	require.NoError(r.t, err)
	_, err = other.Exec(`CREATE TRIGGER broken BEFORE INSERT ON connections BEGIN SELECT RAISE(ABORT, 'no space'); END`)
	require.NoError(r.t, err)
	return func() {
		r.t.Helper()
		_, err := other.Exec(`DROP TRIGGER broken`)
		require.NoError(r.t, err)
		require.NoError(r.t, other.Close())
	}
}

func opened(id string, at time.Time) connlog.Report {
	return connlog.Report{ID: id, At: at, Type: store.TypeSSH, App: "openssh", UserName: "ada", IP: "192.0.2.1", ClientVersion: "SSH-2.0-test", Path: store.PathRelay}
}

// attr is an ending of a session.
func attr(reason disconnect.Reason, who disconnect.Initiator, detail string) disconnect.Attribution {
	return disconnect.Attribution{ConnectType: disconnect.AgentToClient, Reason: reason, Initiator: who, Detail: detail}
}

func ended(id string, openedAt, at time.Time, ending disconnect.Attribution) connlog.Report {
	r := opened(id, at)
	r.Ended, r.Opened, r.Ending, r.BytesSent, r.BytesReceived = true, openedAt, ending, 11, 7
	return r
}

// query reads one column of the database.
func (r *rig) query(into *[]string, query string) error {
	db, err := sql.Open("sqlite", filepath.Join(r.dir, "fairlead.db"))
	if err != nil {
		return err
	}
	defer db.Close()
	rows, err := db.Query(query)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			return err
		}
		*into = append(*into, s)
	}
	return rows.Err()
}
