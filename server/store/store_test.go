package store_test

import (
	"context"
	"database/sql"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/server/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var t0 = time.Date(2026, 3, 4, 5, 6, 7, 123456000, time.UTC)

// openStore opens a new database that lives as long as the test.
func openStore(t *testing.T) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), t.TempDir())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

func addUser(t *testing.T, s *store.Store, name string, role store.Role) store.User {
	t.Helper()
	u := store.User{ID: uuid.NewString(), Name: name, Role: role, CreatedAt: t0}
	require.NoError(t, s.CreateUser(t.Context(), u))
	return u
}

func addWorkspace(t *testing.T, s *store.Store, owner store.User, name string) store.Workspace {
	t.Helper()
	w := store.Workspace{ID: uuid.NewString(), OwnerID: owner.ID, OwnerName: owner.Name, Name: name,
		AgentTokenHash: uuid.NewString(), CreatedAt: t0}
	require.NoError(t, s.CreateWorkspace(t.Context(), w))
	return w
}

// TestConformance is what every database behind a Store has to do.
func TestConformance(t *testing.T) {
	for name, test := range map[string]func(t *testing.T, s *store.Store){
		"ping":              testPing,
		"secret keys":       testSecretKeys,
		"users":             testUsers,
		"tokens":            testTokens,
		"shares":            testShares,
		"orders":            testOrders,
		"codes":             testCodes,
		"code race":         testCodeRace,
		"workspaces":        testWorkspaces,
		"host key":          testHostKey,
		"agent endings":     testAgentEndings,
		"every reason":      testEveryReason,
		"concurrent writes": testConcurrentWrites,
	} {
		t.Run(name, func(t *testing.T) { test(t, openStore(t)) })
	}
}

func testPing(t *testing.T, s *store.Store) {
	require.NoError(t, s.Ping(t.Context()))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.Error(t, s.Ping(ctx))
}

func testSecretKeys(t *testing.T, s *store.Store) {
	a, err := s.SecretKey(t.Context(), store.GrantKey)
	require.NoError(t, err)
	again, err := s.SecretKey(t.Context(), store.GrantKey)
	require.NoError(t, err)
	require.Equal(t, a, again)
	b, err := s.SecretKey(t.Context(), store.RelayTokenKey)
	require.NoError(t, err)
	require.NotEqual(t, a, b)
	require.NotEqual(t, [32]byte{}, a)
}

func testUsers(t *testing.T, s *store.Store) {
	ctx := t.Context()
	n, err := s.CountUsers(ctx)
	require.NoError(t, err)
	require.Zero(t, n)

	u := addUser(t, s, "ada", store.RoleAdmin)
	got, err := s.UserByName(ctx, "ada")
	require.NoError(t, err)
	require.Equal(t, u, got)

	require.ErrorIs(t, s.CreateUser(ctx, store.User{ID: uuid.NewString(), Name: "ada", Role: store.RoleMember, CreatedAt: t0}), store.ErrConflict)
	require.Error(t, s.CreateUser(ctx, store.User{ID: uuid.NewString(), Name: "bob", Role: "king", CreatedAt: t0}), "a role outside the set")
	_, err = s.UserByName(ctx, "bob")
	require.ErrorIs(t, err, store.ErrNotFound)

	// The last admin stays, whichever way somebody tries.
	closed := func(u *store.User) { u.Disabled = true }
	demoted := func(u *store.User) { u.Role = store.RoleMember }
	update := func(id string, change func(*store.User)) error {
		_, err := s.UpdateUser(ctx, id, change)
		return err
	}
	require.ErrorIs(t, update(u.ID, closed), store.ErrLastAdmin)
	require.ErrorIs(t, update(u.ID, demoted), store.ErrLastAdmin)
	got, err = s.UserByName(ctx, "ada")
	require.NoError(t, err)
	require.Equal(t, u, got, "nothing has changed")

	bob := addUser(t, s, "bob", store.RoleAdmin)
	require.NoError(t, update(u.ID, closed))
	require.ErrorIs(t, update(bob.ID, closed), store.ErrLastAdmin, "a closed account is no admin")
	require.ErrorIs(t, update(bob.ID, demoted), store.ErrLastAdmin)
	require.ErrorIs(t, update("nobody", demoted), store.ErrNotFound)
	after, err := s.UpdateUser(ctx, u.ID, demoted)
	require.NoError(t, err)
	require.True(t, after.Disabled, "one change leaves the other")
	got, err = s.UserByName(ctx, "ada")
	require.NoError(t, err)
	require.Equal(t, after, got)
	n, err = s.CountUsers(ctx)
	require.NoError(t, err)
	require.Equal(t, 2, n)

	all, err := s.Users(ctx)
	require.NoError(t, err)
	require.Len(t, all, 2)
	require.Equal(t, "ada", all[0].Name)

	cy := store.User{ID: uuid.NewString(), Name: "cy", Role: store.RoleMember, CreatedAt: t0}
	taken := store.Token{ID: uuid.NewString(), UserID: cy.ID, Label: "login", Hash: "c1", CreatedAt: t0}
	require.NoError(t, s.CreateUserWithToken(ctx, cy, taken))
	dee := store.User{ID: uuid.NewString(), Name: "dee", Role: store.RoleMember, CreatedAt: t0}
	taken.ID, taken.UserID = uuid.NewString(), dee.ID
	require.ErrorIs(t, s.CreateUserWithToken(ctx, dee, taken), store.ErrConflict)
	_, err = s.UserByName(ctx, "dee")
	require.ErrorIs(t, err, store.ErrNotFound, "both or neither")
}

func testTokens(t *testing.T, s *store.Store) {
	ctx := t.Context()
	u := addUser(t, s, "ada", store.RoleMember)
	tok := store.Token{ID: uuid.NewString(), UserID: u.ID, UserName: "ada", Label: "login", Scope: store.ScopeFull, Hash: "h1", CreatedAt: t0}
	require.NoError(t, s.CreateToken(ctx, tok))
	got, owner, err := s.TokenByHash(ctx, "h1")
	require.NoError(t, err)
	require.Equal(t, tok, got)
	require.Equal(t, u, owner)

	expiring := store.Token{ID: uuid.NewString(), UserID: u.ID, UserName: "ada", Label: "ci", Scope: store.ScopeSSH, Hash: "h2", CreatedAt: t0, ExpiresAt: t0.Add(time.Hour)}
	require.NoError(t, s.CreateToken(ctx, expiring))
	require.NoError(t, s.TouchToken(ctx, expiring.ID, t0.Add(time.Minute)))
	got, _, err = s.TokenByHash(ctx, "h2")
	require.NoError(t, err)
	expiring.LastUsedAt = t0.Add(time.Minute)
	require.Equal(t, expiring, got)

	require.ErrorIs(t, s.CreateToken(ctx, store.Token{ID: uuid.NewString(), UserID: u.ID, Hash: "h1", CreatedAt: t0}), store.ErrConflict)
	require.Error(t, s.CreateToken(ctx, store.Token{ID: uuid.NewString(), UserID: "nobody", Hash: "h3", CreatedAt: t0}), "foreign keys are enforced")
	_, _, err = s.TokenByHash(ctx, "h3")
	require.ErrorIs(t, err, store.ErrNotFound)

	for _, hash := range []string{"r1", "r2"} {
		require.NoError(t, s.ReplaceToken(ctx, store.Token{ID: uuid.NewString(), UserID: u.ID, Label: "local", Hash: hash, CreatedAt: t0}))
	}
	_, _, err = s.TokenByHash(ctx, "r1")
	require.ErrorIs(t, err, store.ErrNotFound, "replaced")
	for _, hash := range []string{"r2", "h1"} {
		_, _, err = s.TokenByHash(ctx, hash)
		require.NoError(t, err)
	}

	require.Error(t, s.CreateToken(ctx, store.Token{ID: uuid.NewString(), UserID: u.ID, Scope: "all", Hash: "h4", CreatedAt: t0}), "a scope outside the set")
	eve := addUser(t, s, "eve", store.RoleMember)
	require.NoError(t, s.CreateToken(ctx, store.Token{ID: uuid.NewString(), UserID: eve.ID, Label: "ci", Hash: "e1", CreatedAt: t0}))
	mine, err := s.Tokens(ctx, u.ID)
	require.NoError(t, err)
	require.Len(t, mine, 3)
	everybodys, err := s.Tokens(ctx, "")
	require.NoError(t, err)
	require.Len(t, everybodys, 4)
	got, owner, err = s.TokenByID(ctx, tok.ID)
	require.NoError(t, err)
	require.Equal(t, tok, got)
	require.Equal(t, u, owner)
	require.NoError(t, s.DeleteToken(ctx, tok.ID))
	require.ErrorIs(t, s.DeleteToken(ctx, tok.ID), store.ErrNotFound)
	_, _, err = s.TokenByID(ctx, tok.ID)
	require.ErrorIs(t, err, store.ErrNotFound)
}

func testShares(t *testing.T, s *store.Store) {
	ctx := t.Context()
	ada, bob := addUser(t, s, "ada", store.RoleMember), addUser(t, s, "bob", store.RoleMember)
	dev := store.Workspace{ID: uuid.NewString(), OwnerID: ada.ID, OwnerName: "ada", Name: "dev", AgentTokenHash: "a1", CreatedAt: t0}
	require.NoError(t, s.CreateWorkspace(ctx, dev))
	require.ErrorIs(t, s.Share(ctx, "deleted", bob.ID, t0), store.ErrNotFound)
	require.ErrorIs(t, s.Share(ctx, dev.ID, "nobody", t0), store.ErrNotFound)
	reached := func(want int) {
		t.Helper()
		list, err := s.Workspaces(ctx, bob.ID)
		require.NoError(t, err)
		require.Len(t, list, want)
		shared, err := s.IsShared(ctx, dev.ID, bob.ID)
		require.NoError(t, err)
		require.Equal(t, want == 1, shared)
	}
	reached(0)
	for range 2 { // twice is no error
		require.NoError(t, s.Share(ctx, dev.ID, bob.ID, t0))
	}
	reached(1)
	names, err := s.SharedWith(ctx, dev.ID)
	require.NoError(t, err)
	require.Equal(t, []string{"bob"}, names)
	require.Error(t, s.Share(ctx, "nothing", bob.ID, t0))
	require.NoError(t, s.Unshare(ctx, dev.ID, bob.ID))
	require.ErrorIs(t, s.Unshare(ctx, dev.ID, bob.ID), store.ErrNotFound)
	reached(0)

	require.NoError(t, s.Share(ctx, dev.ID, bob.ID, t0))
	require.NoError(t, s.DeleteWorkspace(ctx, dev.ID))
	require.ErrorIs(t, s.DeleteWorkspace(ctx, dev.ID), store.ErrNotFound)
	reached(0)
}

func testOrders(t *testing.T, s *store.Store) {
	ctx := t.Context()
	ada := store.User{ID: uuid.NewString(), Name: "ada", Role: store.RoleAdmin, CreatedAt: t0}
	require.NoError(t, s.CreateUser(ctx, ada))
	dev := store.Workspace{ID: uuid.NewString(), OwnerID: ada.ID, OwnerName: ada.Name, Name: "dev", AgentTokenHash: "h", CreatedAt: t0}
	require.NoError(t, s.CreateWorkspace(ctx, dev))
	stored := func(want store.Orders) {
		t.Helper()
		got, err := s.WorkspaceByID(ctx, dev.ID)
		require.NoError(t, err)
		require.Equal(t, want, got.Orders)
	}
	stored(store.Orders{})
	for i, by := range []string{"ada", "bob"} {
		changed, err := s.StopWorkspace(ctx, dev.ID, by, t0)
		require.NoError(t, err)
		require.Equal(t, i == 0, changed)
		stored(store.Orders{StoppedAt: t0, StoppedBy: "ada"})
	}
	for i := range 2 {
		changed, err := s.StartWorkspace(ctx, dev.ID)
		require.NoError(t, err)
		require.Equal(t, i == 0, changed)
	}
	never, hour := time.Duration(0), time.Hour
	policy := store.Policy{IdleTimeout: &never, SessionLimit: &hour, Blocked: "file_transfer,local_forwarding", AcceptEnv: "LANG,LC_*"}
	require.NoError(t, s.SetPolicy(ctx, dev.ID, policy))
	stored(store.Orders{Policy: policy})
	require.NoError(t, s.SetPolicy(ctx, dev.ID, store.Policy{}))
	notice := store.Notice{Kind: "drained", At: t0, Deadline: t0.Add(time.Hour)}
	require.NoError(t, s.SetNotice(ctx, dev.ID, notice))
	stored(store.Orders{Notice: notice})
	require.NoError(t, s.SetNotice(ctx, dev.ID, store.Notice{}))
	stored(store.Orders{})
	require.ErrorIs(t, s.SetPolicy(ctx, "nothing", store.Policy{}), store.ErrNotFound)
	for _, set := range []store.Settings{{Directory: "src", Environment: map[string]string{"A": "\"1\"=2", "B": ""}, MOTDFile: "/etc/motd"}, {}} {
		require.NoError(t, s.SetSettings(ctx, dev.ID, set))
		got, err := s.WorkspaceByID(ctx, dev.ID)
		require.NoError(t, err)
		require.Equal(t, set, got.Settings)
	}
	require.ErrorIs(t, s.SetSettings(ctx, "nothing", store.Settings{}), store.ErrNotFound)
	require.ErrorIs(t, s.SetNotice(ctx, "nothing", notice), store.ErrNotFound)
}

func testCodes(t *testing.T, s *store.Store) {
	ctx := t.Context()
	u := store.User{ID: uuid.NewString(), Name: "admin", Role: store.RoleAdmin, CreatedAt: t0}
	tok := store.Token{ID: uuid.NewString(), UserID: u.ID, Label: "login", Hash: "th", CreatedAt: t0}
	expires := t0.Add(15 * time.Minute)
	require.NoError(t, s.SetCode(ctx, "old", t0, expires))
	require.NoError(t, s.SetCode(ctx, "code", t0, expires))

	for name, c := range map[string]struct {
		hash string
		at   time.Time
		want bool
	}{
		"replaced": {"old", t0, false},
		"unknown":  {"guess", t0, false},
		"expired":  {"code", expires, false},
		"valid":    {"code", expires.Add(-time.Microsecond), true},
	} {
		ok, err := s.CodeValid(ctx, c.hash, c.at)
		require.NoError(t, err)
		require.Equal(t, c.want, ok, name)
		if !c.want {
			require.ErrorIs(t, s.RedeemCode(ctx, c.hash, c.at, u, tok), store.ErrNotFound, name)
		}
	}
	bad := tok
	bad.UserID = "nobody"
	require.Error(t, s.RedeemCode(ctx, "code", t0, u, bad))
	_, err := s.UserByName(ctx, "admin")
	require.ErrorIs(t, err, store.ErrNotFound, "a failed exchange leaves no user")

	require.NoError(t, s.RedeemCode(ctx, "code", t0, u, tok), "a failed exchange leaves the code")
	_, owner, err := s.TokenByHash(ctx, "th")
	require.NoError(t, err)
	require.Equal(t, u, owner)
	ok, err := s.CodeValid(ctx, "code", t0)
	require.NoError(t, err)
	require.False(t, ok, "used")

	require.NoError(t, s.SetCode(ctx, "late", t0, expires))
	require.ErrorIs(t, s.RedeemCode(ctx, "late", t0, u, tok), store.ErrUsersExist)
	require.NoError(t, s.DeleteCodes(ctx))
	require.ErrorIs(t, s.RedeemCode(ctx, "late", t0, u, tok), store.ErrNotFound)
}

// testCodeRace: of many exchanges at once, one wins.
func testCodeRace(t *testing.T, s *store.Store) {
	require.NoError(t, s.SetCode(t.Context(), "code", t0, t0.Add(time.Minute)))
	var wg sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		wg.Go(func() {
			u := store.User{ID: uuid.NewString(), Name: "user" + string(rune('a'+i)), Role: store.RoleAdmin, CreatedAt: t0}
			errs[i] = s.RedeemCode(t.Context(), "code", t0, u, store.Token{ID: uuid.NewString(), UserID: u.ID, Hash: u.ID, CreatedAt: t0})
		})
	}
	wg.Wait()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
		} else {
			require.ErrorIs(t, err, store.ErrNotFound)
		}
	}
	require.Equal(t, 1, won)
}

func testWorkspaces(t *testing.T, s *store.Store) {
	ctx := t.Context()
	ada, bob := addUser(t, s, "ada", store.RoleMember), addUser(t, s, "bob", store.RoleMember)
	dev := addWorkspace(t, s, ada, "dev")
	theirs := addWorkspace(t, s, bob, "dev") // the same name for another owner is fine
	gpu := addWorkspace(t, s, bob, "a-gpu")

	dup := dev
	dup.ID, dup.AgentTokenHash = uuid.NewString(), uuid.NewString()
	require.ErrorIs(t, s.CreateWorkspace(ctx, dup), store.ErrConflict)

	for _, want := range []store.Workspace{dev, theirs, gpu} {
		got, err := s.WorkspaceByID(ctx, want.ID)
		require.NoError(t, err)
		require.Equal(t, want, got)
		got, err = s.WorkspaceByName(ctx, want.OwnerName, want.Name)
		require.NoError(t, err)
		require.Equal(t, want, got)
		got, err = s.WorkspaceByAgentToken(ctx, want.AgentTokenHash)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	all, err := s.Workspaces(ctx, "")
	require.NoError(t, err)
	require.Equal(t, []store.Workspace{dev, gpu, theirs}, all)
	own, err := s.Workspaces(ctx, ada.ID)
	require.NoError(t, err)
	require.Equal(t, []store.Workspace{dev}, own)

	_, err = s.WorkspaceByName(ctx, "ada", "a-gpu")
	require.ErrorIs(t, err, store.ErrNotFound)
	_, err = s.WorkspaceByID(ctx, "nothing")
	require.ErrorIs(t, err, store.ErrNotFound)

	require.NoError(t, s.SetAgentToken(ctx, dev.ID, "new"))
	_, err = s.WorkspaceByAgentToken(ctx, dev.AgentTokenHash)
	require.ErrorIs(t, err, store.ErrNotFound)
	got, err := s.WorkspaceByAgentToken(ctx, "new")
	require.NoError(t, err)
	require.Equal(t, dev.ID, got.ID)
	require.ErrorIs(t, s.SetAgentToken(ctx, "nothing", "x"), store.ErrNotFound)
}

func testHostKey(t *testing.T, s *store.Store) {
	ctx := t.Context()
	w := addWorkspace(t, s, addUser(t, s, "ada", store.RoleMember), "dev")
	const a, b, c = "ssh-ed25519 AAAA", "ssh-ed25519 BBBB", "ssh-ed25519 CCCC"
	pin := func(at time.Time, offered, want string) {
		t.Helper()
		pinned, err := s.PinSSHHostKey(ctx, w.ID, offered, at)
		require.NoError(t, err)
		require.Equal(t, want, pinned)
	}
	require.ErrorIs(t, s.Rekey(ctx, w.ID, "ada", t0), store.ErrConflict, "the first key is free")
	pin(t0, a, a)
	pin(t0, b, a)
	_, err := s.PinSSHHostKey(ctx, "nothing", a, t0)
	require.ErrorIs(t, err, store.ErrNotFound)

	require.ErrorIs(t, s.Rekey(ctx, "nothing", "ada", t0), store.ErrNotFound)
	require.NoError(t, s.Rekey(ctx, w.ID, "ada", t0))
	pin(t0.Add(store.RekeyLife), b, a) // too late
	require.NoError(t, s.Rekey(ctx, w.ID, "ada", t0))
	pin(t0, a, a) // the former key stays good until then
	pin(t0, b, b)
	pin(t0, c, b) // once
	pin(t0, a, b)
	all, err := s.Rekeys(ctx, w.ID)
	require.NoError(t, err)
	require.Equal(t, []store.Rekey{{By: "ada", At: t0, OldKey: a, NewKey: b}}, all)
}

func testAgentEndings(t *testing.T, s *store.Store) {
	ctx := t.Context()
	ada := addUser(t, s, "ada", store.RoleMember)
	w, quiet := addWorkspace(t, s, ada, "dev"), addWorkspace(t, s, ada, "quiet")
	state := func(id string) store.AgentState {
		got, err := s.WorkspaceByID(ctx, id)
		require.NoError(t, err)
		return got.Agent
	}
	ending := disconnect.Attribution{ConnectType: disconnect.ServerToAgent, Reason: disconnect.NetworkTimeout,
		Initiator: disconnect.Network, Detail: "silence"}

	require.NoError(t, s.AgentConnected(ctx, w.ID, "life-1", t0))
	require.Equal(t, store.AgentState{Online: true, Instance: "life-1", SeenAt: t0}, state(w.ID))
	require.NoError(t, s.AgentConnected(ctx, w.ID, "life-2", t0.Add(time.Hour)))
	require.ErrorIs(t, s.AgentEnded(ctx, "nothing", t0, ending), store.ErrNotFound)

	dirty := ending
	dirty.Detail = "si\x1b[31mlence"
	require.NoError(t, s.AgentEnded(ctx, w.ID, t0.Add(2*time.Hour), dirty))
	got := state(w.ID)
	require.False(t, got.Online)
	require.Equal(t, t0.Add(2*time.Hour), got.SeenAt)
	require.Equal(t, disconnect.Scrub(dirty.Detail), got.Ending.Detail)

	require.NoError(t, s.AgentConnected(ctx, w.ID, "life-3", t0.Add(3*time.Hour)))
	require.NoError(t, s.Alive(ctx, t0))
	n, err := s.EndAllAgents(ctx, ending)
	require.NoError(t, err)
	require.EqualValues(t, 1, n)
	require.Equal(t, store.AgentState{Instance: "life-3", SeenAt: t0.Add(3 * time.Hour), Ending: ending}, state(w.ID))
	require.Zero(t, state(quiet.ID))

	require.NoError(t, s.AgentConnected(ctx, w.ID, "life-4", t0.Add(4*time.Hour)))
	for range 2 {
		require.NoError(t, s.Alive(ctx, t0.Add(5*time.Hour)))
	}
	_, err = s.EndAllAgents(ctx, ending)
	require.NoError(t, err)
	require.Equal(t, t0.Add(5*time.Hour), state(w.ID).SeenAt, "the server's last sign of life")
	require.Zero(t, state(quiet.ID), "only agents that were online were seen")
	require.ErrorIs(t, s.AgentConnected(ctx, "nothing", "life", t0), store.ErrNotFound)
}

// testEveryReason: the whole vocabulary is stored and read back.
func testEveryReason(t *testing.T, s *store.Store) {
	ctx := t.Context()
	w := addWorkspace(t, s, addUser(t, s, "ada", store.RoleMember), "dev")
	require.NoError(t, s.AgentConnected(ctx, w.ID, "life", t0))
	for _, r := range disconnect.Reasons() {
		for _, i := range disconnect.Initiators() {
			want := disconnect.Attribution{ConnectType: disconnect.ServerToAgent, Reason: r, Initiator: i, Detail: r.String()}
			require.NoError(t, s.AgentEnded(ctx, w.ID, t0, want))
			got, err := s.WorkspaceByID(ctx, w.ID)
			require.NoError(t, err)
			require.Equal(t, want, got.Agent.Ending)
		}
	}
}

func testConcurrentWrites(t *testing.T, s *store.Store) {
	ada := addUser(t, s, "ada", store.RoleMember)
	var wg sync.WaitGroup
	errs := make(chan error, 64)
	for range 8 {
		wg.Go(func() {
			for range 8 {
				errs <- s.CreateWorkspace(t.Context(), store.Workspace{ID: uuid.NewString(), OwnerID: ada.ID,
					Name: uuid.NewString(), AgentTokenHash: uuid.NewString(), CreatedAt: t0})
				_, _ = s.Workspaces(t.Context(), "")
			}
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		require.NoError(t, err)
	}
	all, err := s.Workspaces(t.Context(), ada.ID)
	require.NoError(t, err)
	require.Len(t, all, 64)
}

func TestOpenKeepsData(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "not", "there yet?#%41")
	s, err := store.Open(t.Context(), dir)
	require.NoError(t, err)
	u := addUser(t, s, "ada", store.RoleAdmin)
	key, err := s.SecretKey(t.Context(), store.GrantKey)
	require.NoError(t, err)
	require.NoError(t, s.Close())

	s, err = store.Open(t.Context(), dir)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	got, err := s.UserByName(t.Context(), "ada")
	require.NoError(t, err)
	require.Equal(t, u, got)
	again, err := s.SecretKey(t.Context(), store.GrantKey)
	require.NoError(t, err)
	require.Equal(t, key, again)

	info, err := os.Stat(dir)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o700), info.Mode().Perm())
	files, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, f := range files { // the -wal and -shm files too
		info, err := f.Info()
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), info.Mode().Perm(), f.Name())
	}
	require.GreaterOrEqual(t, len(files), 3)
}

// requireSentence checks that err is one line that names the directory.
func requireSentence(t *testing.T, err error, dir, part string) {
	t.Helper()
	require.Error(t, err)
	require.NotContains(t, err.Error(), "\n")
	require.Contains(t, err.Error(), dir)
	require.Contains(t, err.Error(), part)
	require.LessOrEqual(t, strings.Count(err.Error(), dir), 1, "said twice: %s", err)
}

func TestOpenRefusals(t *testing.T) {
	t.Run("in use", func(t *testing.T) {
		dir := t.TempDir()
		s, err := store.Open(t.Context(), dir)
		require.NoError(t, err)
		_, err = store.Open(t.Context(), dir)
		requireSentence(t, err, dir, "in use by another running Fairlead server")
		require.NoError(t, s.Close())
		s, err = store.Open(t.Context(), dir)
		require.NoError(t, err, "the lock is given back")
		require.NoError(t, s.Close())
	})
	t.Run("not writable", func(t *testing.T) {
		if os.Geteuid() == 0 {
			t.Skip("root may write everywhere")
		}
		dir := t.TempDir()
		require.NoError(t, os.Chmod(dir, 0o500))
		_, err := store.Open(t.Context(), dir)
		requireSentence(t, err, dir, "is not writable")
		_, err = store.Open(t.Context(), filepath.Join(dir, "sub"))
		requireSentence(t, err, dir, "is not writable")
	})
	t.Run("not a directory", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "file")
		require.NoError(t, os.WriteFile(dir, nil, 0o600))
		_, err := store.Open(t.Context(), dir)
		requireSentence(t, err, dir, "cannot use state directory")
	})
	t.Run("newer", func(t *testing.T) {
		dir := t.TempDir()
		s, err := store.Open(t.Context(), dir)
		require.NoError(t, err)
		require.NoError(t, s.Close())
		db, err := sql.Open("sqlite", filepath.Join(dir, "fairlead.db"))
		require.NoError(t, err)
		_, err = db.Exec(`INSERT INTO goose_db_version (version_id, is_applied) VALUES (9999, TRUE)`)
		require.NoError(t, err)
		require.NoError(t, db.Close())
		_, err = store.Open(t.Context(), dir)
		requireSentence(t, err, dir, "written by a newer Fairlead (schema 9999, this one knows 11)")
	})
	t.Run("garbage", func(t *testing.T) {
		dir := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(dir, "fairlead.db"), []byte(strings.Repeat("garbage ", 4096)), 0o600))
		_, err := store.Open(t.Context(), dir)
		requireSentence(t, err, dir, "not a database")
	})
}
