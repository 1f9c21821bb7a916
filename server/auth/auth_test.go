package auth_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"fairlead.dev/fairlead/server/auth"
	"fairlead.dev/fairlead/server/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fixture is an Auth on a real database, with a clock that the test moves.
type fixture struct {
	*auth.Auth
	store *store.Store
	dir   string
	clock time.Time
	log   bytes.Buffer
}

func setup(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{dir: t.TempDir(), clock: time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)}
	s, err := store.Open(t.Context(), f.dir)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	f.store = s
	f.Auth = auth.New(auth.Options{Store: s, StateDir: f.dir, Now: func() time.Time { return f.clock },
		Logger: slog.New(slog.NewTextHandler(&f.log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	return f
}

// user stores a user and returns a token of theirs that lives for life (0: for ever).
func (f *fixture) user(t *testing.T, name string, role store.Role, life time.Duration) (store.User, string) {
	t.Helper()
	u, err := f.NewUser(name, role)
	require.NoError(t, err)
	require.NoError(t, f.store.CreateUser(t.Context(), u))
	token, row := f.NewUserToken(u.ID, "test")
	if life != 0 {
		row.ExpiresAt = f.clock.Add(life)
	}
	require.NoError(t, f.store.CreateToken(t.Context(), row))
	return u, token
}

func (f *fixture) workspace(t *testing.T, owner store.User, name string) (store.Workspace, string) {
	t.Helper()
	token, hash := auth.NewAgentToken()
	w := store.Workspace{ID: uuid.NewString(), OwnerID: owner.ID, OwnerName: owner.Name, Name: name, AgentTokenHash: hash, CreatedAt: f.clock}
	require.NoError(t, f.store.CreateWorkspace(t.Context(), w))
	return w, token
}

func TestAuthenticate(t *testing.T) {
	f := setup(t)
	ada, adaToken := f.user(t, "ada", store.RoleMember, 0)
	dev, agentToken := f.workspace(t, ada, "dev")
	require.Regexp(t, `^fl_u_[A-Za-z0-9_-]{43}$`, adaToken)
	require.Regexp(t, `^fl_a_[A-Za-z0-9_-]{43}$`, agentToken)

	p, err := f.Authenticate(t.Context(), adaToken)
	require.NoError(t, err)
	require.NotEmpty(t, p.TokenID)
	require.Equal(t, auth.Principal{Kind: auth.KindUser, UserID: ada.ID, UserName: "ada", Role: store.RoleMember, TokenID: p.TokenID, Scope: store.ScopeFull}, p)

	p, err = f.Authenticate(t.Context(), agentToken)
	require.NoError(t, err)
	require.Equal(t, auth.Principal{Kind: auth.KindAgent, UserID: ada.ID, UserName: "ada",
		WorkspaceID: dev.ID, WorkspaceName: "dev", TokenID: dev.AgentTokenHash[:16]}, p)

	for _, bad := range []string{
		"", "fl_u_", "x", "Bearer " + adaToken, adaToken[:len(adaToken)-1], adaToken + "A",
		strings.Replace(adaToken, "fl_u_", "fl_a_", 1), strings.Replace(agentToken, "fl_a_", "fl_u_", 1),
		"fl_u_" + strings.Repeat("A", 43), "fl_u_" + strings.Repeat("!", 43), "fl_u_" + strings.Repeat("'", 1<<20),
	} {
		_, err := f.Authenticate(t.Context(), bad)
		require.ErrorIs(t, err, auth.ErrUnauthenticated, "%.60q", bad)
	}
}

func TestAuthenticateNoiseIsCheap(t *testing.T) {
	f := setup(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // any use of the database fails now
	_, err := f.Authenticate(ctx, "fl_u_tooshort")
	require.ErrorIs(t, err, auth.ErrUnauthenticated)
	_, _, err = f.Redeem(ctx, "not a code", "")
	require.ErrorIs(t, err, auth.ErrInvalidCode)
	_, err = f.Authenticate(ctx, "fl_u_"+strings.Repeat("A", 43))
	require.NotErrorIs(t, err, auth.ErrUnauthenticated, "a failing database is not the caller's fault")
	require.ErrorIs(t, err, context.Canceled)
}

func TestAuthenticateExpiryAndDisabling(t *testing.T) {
	f := setup(t)
	u, token := f.user(t, "ada", store.RoleMember, time.Hour)
	f.clock = f.clock.Add(time.Hour - time.Microsecond)
	_, err := f.Authenticate(t.Context(), token)
	require.NoError(t, err)
	f.clock = f.clock.Add(time.Microsecond)
	_, err = f.Authenticate(t.Context(), token)
	require.ErrorIs(t, err, auth.ErrExpired)

	_, err = f.store.UpdateUser(t.Context(), u.ID, func(u *store.User) { u.Disabled = true })
	require.NoError(t, err)
	_, err = f.Authenticate(t.Context(), token)
	require.ErrorIs(t, err, auth.ErrDisabled)
}

func TestAuthenticateRecordsUseOncePerMinute(t *testing.T) {
	f := setup(t)
	_, token := f.user(t, "ada", store.RoleMember, 0)
	start := f.clock
	lastUsed := func() time.Time {
		_, err := f.Authenticate(t.Context(), token)
		require.NoError(t, err)
		sum := sha256.Sum256([]byte(token)) // and so this is all that is stored of it
		row, _, err := f.store.TokenByHash(t.Context(), hex.EncodeToString(sum[:]))
		require.NoError(t, err)
		return row.LastUsedAt
	}
	require.Equal(t, start, lastUsed())
	f.clock = start.Add(59 * time.Second)
	require.Equal(t, start, lastUsed())
	f.clock = start.Add(60 * time.Second)
	require.Equal(t, f.clock, lastUsed())
}

func TestCanReach(t *testing.T) {
	f := setup(t)
	ada, _ := f.user(t, "ada", store.RoleMember, 0)
	dev, agentToken := f.workspace(t, ada, "dev")
	agent, err := f.Authenticate(t.Context(), agentToken)
	require.NoError(t, err)
	for name, c := range map[string]struct {
		p    auth.Principal
		want bool
	}{
		"owner":                    {auth.Principal{Kind: auth.KindUser, UserID: ada.ID, Role: store.RoleMember}, true},
		"admin":                    {auth.Principal{Kind: auth.KindUser, UserID: "x", Role: store.RoleAdmin}, true},
		"stranger":                 {auth.Principal{Kind: auth.KindUser, UserID: "x", Role: store.RoleMember}, false},
		"its own agent":            {agent, false},
		"an agent with admin role": {auth.Principal{Kind: auth.KindAgent, UserID: ada.ID, Role: store.RoleAdmin}, false},
		"nobody":                   {auth.Principal{}, false},
	} {
		ok, err := f.CanReach(t.Context(), c.p, dev)
		require.NoError(t, err)
		require.Equal(t, c.want, ok, name)
		require.Equal(t, c.want, auth.CanManage(c.p, dev), name)
	}

	// A share lets in, and no more.
	bob, _ := f.user(t, "bob", store.RoleMember, 0)
	p := auth.Principal{Kind: auth.KindUser, UserID: bob.ID, Role: store.RoleMember}
	require.NoError(t, f.store.Share(t.Context(), dev.ID, bob.ID, f.clock))
	ok, err := f.CanReach(t.Context(), p, dev)
	require.NoError(t, err)
	require.True(t, ok)
	require.False(t, auth.CanManage(p, dev))
}

func TestNewUserChecksName(t *testing.T) {
	f := setup(t)
	for _, bad := range []string{"", "-a", "A", "a/b", "a b", "a\n", "a\x1b[31m", strings.Repeat("a", 33), "ä"} {
		_, err := f.NewUser(bad, store.RoleMember)
		require.ErrorIs(t, err, auth.ErrInvalidName, "%q", bad)
	}
	for _, good := range []string{"a", "0", "a-b", strings.Repeat("a", 32)} {
		_, err := f.NewUser(good, store.RoleMember)
		require.NoError(t, err, good)
	}
}

var codeForm = regexp.MustCompile(`^[0-9a-z]{4}-[0-9a-z]{4}-[0-9a-z]{4}-[0-9a-z]{4}$`)

func TestFirstCode(t *testing.T) {
	f := setup(t)
	ctx := t.Context()
	code, path, err := f.FirstCode(ctx)
	require.NoError(t, err)
	require.Regexp(t, codeForm, code)
	require.Equal(t, filepath.Join(f.dir, "admin-code"), path)
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, code+"\n", string(content))

	second, _, err := f.FirstCode(ctx) // the next start, still without a user
	require.NoError(t, err)
	require.NotEqual(t, code, second)
	_, _, err = f.Redeem(ctx, code, "")
	require.ErrorIs(t, err, auth.ErrInvalidCode, "the older code is void")
	_, _, err = f.Redeem(ctx, second, "Not A Name")
	require.ErrorIs(t, err, auth.ErrInvalidName, "and does not use up the code")

	u, token, err := f.Redeem(ctx, " "+strings.ToUpper(strings.ReplaceAll(second, "-", ""))+"\n", "")
	require.NoError(t, err, "capitals and missing hyphens are fine")
	require.Equal(t, "admin", u.Name)
	p, err := f.Authenticate(ctx, token)
	require.NoError(t, err)
	require.True(t, p.IsAdmin())
	require.NoFileExists(t, path)

	_, _, err = f.Redeem(ctx, second, "eve")
	require.ErrorIs(t, err, auth.ErrInvalidCode, "single use")
	code, path, err = f.FirstCode(ctx) // a start with a user
	require.NoError(t, err)
	require.Empty(t, code)
	require.Empty(t, path)

	for _, secret := range []string{code, second, token} {
		if secret != "" {
			require.NotContains(t, f.log.String(), secret)
		}
	}
}

func TestFirstCodeExpires(t *testing.T) {
	f := setup(t)
	code, path, err := f.FirstCode(t.Context())
	require.NoError(t, err)
	f.clock = f.clock.Add(auth.CodeLife)
	_, _, err = f.Redeem(t.Context(), code, "")
	require.ErrorIs(t, err, auth.ErrInvalidCode)
	code, _, err = f.FirstCode(t.Context())
	require.NoError(t, err)
	f.clock = f.clock.Add(auth.CodeLife - time.Second)
	_, _, err = f.Redeem(t.Context(), code, "ada")
	require.NoError(t, err)
	require.NoFileExists(t, path)
}

func TestFirstCodeIsVoidOnceAUserExists(t *testing.T) {
	f := setup(t)
	code, path, err := f.FirstCode(t.Context())
	require.NoError(t, err)
	f.user(t, "ada", store.RoleMember, 0)
	_, _, err = f.Redeem(t.Context(), code, "eve")
	require.ErrorIs(t, err, auth.ErrInvalidCode)
	_, _, err = f.FirstCode(t.Context())
	require.NoError(t, err)
	require.NoFileExists(t, path, "a leftover file is removed")
}

func TestFirstCodeReplacesAnOpenFile(t *testing.T) {
	f := setup(t)
	path := filepath.Join(f.dir, "admin-code")
	require.NoError(t, os.WriteFile(path, []byte("left open"), 0o644))
	_, _, err := f.FirstCode(t.Context())
	require.NoError(t, err)
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	files, err := filepath.Glob(path + "*")
	require.NoError(t, err)
	require.Equal(t, []string{path}, files)
}

// TestLockedOut: a code comes only while no admin could administer the server, and lets
// in an admin who is there.
func TestLockedOut(t *testing.T) {
	f := setup(t)
	ctx := t.Context()
	ada, token := f.user(t, "ada", store.RoleAdmin, time.Hour)
	f.clock = f.clock.Add(time.Minute)
	eve, _ := f.user(t, "eve", store.RoleAdmin, 0)
	f.user(t, "bob", store.RoleMember, 0)
	noCode := func() {
		t.Helper()
		code, _, err := f.FirstCode(ctx)
		require.NoError(t, err)
		require.Empty(t, code)
	}
	noCode()
	_, err := f.store.UpdateUser(ctx, eve.ID, func(u *store.User) { u.Disabled = true })
	require.NoError(t, err)
	noCode() // ada's token is valid
	f.clock = f.clock.Add(time.Hour)
	_, err = f.Authenticate(ctx, token)
	require.ErrorIs(t, err, auth.ErrExpired)
	_, reader := f.NewUserToken(ada.ID, "reader")
	reader.Scope = store.ScopeRead
	require.NoError(t, f.store.CreateToken(ctx, reader))

	code, path, err := f.FirstCode(ctx)
	require.NoError(t, err)
	require.FileExists(t, path)
	for _, other := range []string{"bob", "eve", "nobody"} {
		_, _, err = f.Redeem(ctx, code, other)
		require.ErrorIs(t, err, auth.ErrNotAdmin, other)
	}
	u, token, err := f.Redeem(ctx, code, "")
	require.NoError(t, err)
	require.Equal(t, ada, u)
	p, err := f.Authenticate(ctx, token)
	require.NoError(t, err)
	require.True(t, p.IsAdmin())
	_, _, err = f.Redeem(ctx, code, "")
	require.ErrorIs(t, err, auth.ErrInvalidCode, "single use")
	noCode()

	// A code of a start before somebody got in by another way is void.
	require.NoError(t, f.store.DeleteToken(ctx, p.TokenID))
	code, _, err = f.FirstCode(ctx)
	require.NoError(t, err)
	_, row := f.NewUserToken(ada.ID, "other")
	require.NoError(t, f.store.CreateToken(ctx, row))
	_, _, err = f.Redeem(ctx, code, "ada")
	require.ErrorIs(t, err, auth.ErrInvalidCode)
}
