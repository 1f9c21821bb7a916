package server

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/sdk"
	"fairlead.dev/fairlead/server/store"
)

// refusedAs checks an error of the API.
func refusedAs(t *testing.T, err error, status int, part string) {
	t.Helper()
	var e *sdk.Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, status, e.Status, e.Message)
	require.Contains(t, e.Message, part)
}

func TestUsers(t *testing.T) {
	s := run(t, nil)
	ctx := t.Context()
	_, rootToken := s.addUser(t, "root", store.RoleAdmin)
	root := s.client(t, rootToken)

	made, err := root.CreateUser(ctx, sdk.CreateUserRequest{Name: "ada"})
	require.NoError(t, err)
	require.Equal(t, "member", made.User.Role)
	require.NotContains(t, s.log.String(), made.Token)
	ada := s.client(t, made.Token)
	me, err := ada.WhoAmI(ctx)
	require.NoError(t, err)
	require.Equal(t, made.User, me.User)
	require.Equal(t, "full", me.Token.Scope)
	_, err = root.CreateUser(ctx, sdk.CreateUserRequest{Name: "ada"})
	refusedAs(t, err, 409, "there is a user ada already")
	_, err = root.CreateUser(ctx, sdk.CreateUserRequest{Name: "Ada"})
	refusedAs(t, err, 400, sdk.NameRule)
	_, err = root.CreateUser(ctx, sdk.CreateUserRequest{Name: "eve", Role: "king"})
	refusedAs(t, err, 400, "neither admin nor member")

	all, err := root.Users(ctx)
	require.NoError(t, err)
	require.Len(t, all, 2)

	// The last admin stays.
	yes, member, admin := true, "member", "admin"
	_, err = root.UpdateUser(ctx, "root", sdk.UpdateUserRequest{Disabled: &yes})
	refusedAs(t, err, 409, "root is the last admin")
	_, err = root.UpdateUser(ctx, "root", sdk.UpdateUserRequest{Role: &member})
	refusedAs(t, err, 409, "root is the last admin")
	_, err = root.UpdateUser(ctx, "ada", sdk.UpdateUserRequest{Role: &admin})
	require.NoError(t, err)
	_, err = ada.UpdateUser(ctx, "root", sdk.UpdateUserRequest{Disabled: &yes})
	require.NoError(t, err)
	_, err = root.WhoAmI(ctx)
	refusedAs(t, err, 403, "disabled")
	_, err = ada.UpdateUser(ctx, "nobody", sdk.UpdateUserRequest{Disabled: &yes})
	refusedAs(t, err, 404, "no user of that name")
}

func TestTokens(t *testing.T) {
	clock := newClock()
	s := run(t, func(o *Options) { o.Now = clock.Now })
	ctx := t.Context()
	_, rootToken := s.addUser(t, "root", store.RoleAdmin)
	_, adaToken := s.addUser(t, "ada", store.RoleMember)
	root, ada := s.client(t, rootToken), s.client(t, adaToken)

	soon := clock.Now().Add(time.Hour)
	made, err := ada.CreateToken(ctx, sdk.CreateTokenRequest{Label: "ci", Scope: "read", ExpiresAt: &soon})
	require.NoError(t, err)
	require.Equal(t, "read", made.Token.Scope)
	require.Equal(t, soon, *made.Token.ExpiresAt)
	require.Nil(t, made.Token.LastUsedAt)
	require.NotContains(t, s.log.String(), made.Secret)
	ci := s.client(t, made.Secret)
	_, err = ci.Workspaces(ctx)
	require.NoError(t, err)
	_, err = ci.CreateWorkspace(ctx, sdk.CreateWorkspaceRequest{Name: "dev"})
	refusedAs(t, err, 404, "this token's scope is read")

	mine, err := ada.Tokens(ctx)
	require.NoError(t, err)
	require.Len(t, mine, 2)
	for _, token := range mine {
		require.Equal(t, "ada", token.User)
		require.NotNil(t, token.LastUsedAt)
	}
	theirs, err := ada.TokensOf(ctx, "root")
	require.NoError(t, err)
	require.Equal(t, mine, theirs, "a member sees their own, whoever they ask about")
	all, err := root.TokensOf(ctx, "")
	require.NoError(t, err)
	require.Len(t, all, 3)

	clock.advance(time.Hour)
	_, err = ci.WhoAmI(ctx)
	require.True(t, sdk.IsCode(err, sdk.CodeTokenExpired), "%v", err)

	past := clock.Now()
	for _, bad := range []sdk.CreateTokenRequest{
		{}, {Label: "a\x1bb"}, {Label: string(make([]byte, 100))}, {Label: "x", Scope: "all"}, {Label: "x", ExpiresAt: &past},
	} {
		_, err := ada.CreateToken(ctx, bad)
		refusedAs(t, err, 400, "")
	}
	_, err = ada.CreateToken(ctx, sdk.CreateTokenRequest{Label: "x", User: "root"})
	refusedAs(t, err, 404, "no user")
	forAda, err := root.CreateToken(ctx, sdk.CreateTokenRequest{Label: "x", User: "ada"})
	require.NoError(t, err)
	require.Equal(t, "ada", forAda.Token.User)

	rootMe, err := root.WhoAmI(ctx)
	require.NoError(t, err)
	refusedAs(t, revoke(ada, ctx, rootMe.Token.ID), 404, "no such token")
	refusedAs(t, revoke(ada, ctx, "../users"), 404, "")
	require.NoError(t, revoke(root, ctx, forAda.Token.ID))
	_, err = s.client(t, forAda.Secret).WhoAmI(ctx)
	refusedAs(t, err, 401, "not valid")
	require.NoError(t, revoke(ada, ctx, sdk.CurrentToken))
	_, err = ada.WhoAmI(ctx)
	refusedAs(t, err, 401, "not valid")
}

// TestScopedTokenRevokesItself, and nothing else.
func TestScopedTokenRevokesItself(t *testing.T) {
	s := run(t, nil)
	u, token := s.addUser(t, "ada", store.RoleMember)
	me, err := s.client(t, token).WhoAmI(t.Context())
	require.NoError(t, err)
	scoped := s.client(t, s.addToken(t, u, store.ScopeSSH))
	refusedAs(t, revoke(scoped, t.Context(), me.Token.ID), 404, "scope is ssh")
	require.NoError(t, revoke(scoped, t.Context(), sdk.CurrentToken))
}

func TestSharedWorkspace(t *testing.T) {
	s := run(t, nil)
	ctx := t.Context()
	_, adaToken := s.addUser(t, "ada", store.RoleMember)
	_, bobToken := s.addUser(t, "bob", store.RoleMember)
	ada, bob := s.client(t, adaToken), s.client(t, bobToken)
	_, err := ada.CreateWorkspace(ctx, sdk.CreateWorkspaceRequest{Name: "dev"})
	require.NoError(t, err)

	_, err = ada.Share(ctx, "dev", "nobody")
	refusedAs(t, err, 404, "no user")
	_, err = ada.Share(ctx, "dev", "ada")
	refusedAs(t, err, 400, "owns")
	with, err := ada.Share(ctx, "dev", "bob")
	require.NoError(t, err)
	require.Equal(t, []string{"bob"}, with)
	list, err := bob.Workspaces(ctx)
	require.NoError(t, err)
	require.Len(t, list, 1)
	_, err = bob.Workspace(ctx, "ada/dev")
	require.NoError(t, err)

	// A guest reaches it; it is not theirs to manage.
	_, err = bob.Share(ctx, "ada/dev", "bob")
	refusedAs(t, err, 404, "no such workspace")
	_, err = bob.Shares(ctx, "ada/dev")
	refusedAs(t, err, 404, "no such workspace")
	_, err = bob.RotateToken(ctx, "ada/dev")
	refusedAs(t, err, 404, "no such workspace")
	refusedAs(t, bob.DeleteWorkspace(ctx, "ada/dev"), 404, "no such workspace")

	with, err = ada.Unshare(ctx, "dev", "bob")
	require.NoError(t, err)
	require.Empty(t, with)
	_, err = ada.Unshare(ctx, "dev", "bob")
	refusedAs(t, err, 404, "not shared with bob")
	_, err = bob.Workspace(ctx, "ada/dev")
	refusedAs(t, err, 404, "no such workspace")
}

func TestRotateAndDelete(t *testing.T) {
	s := run(t, nil)
	ctx := t.Context()
	_, token := s.addUser(t, "ada", store.RoleMember)
	ada := s.client(t, token)
	made, err := ada.CreateWorkspace(ctx, sdk.CreateWorkspaceRequest{Name: "dev"})
	require.NoError(t, err)
	rotated, err := ada.RotateToken(ctx, "dev")
	require.NoError(t, err)
	_, err = s.auth.Authenticate(ctx, made.AgentToken)
	require.Error(t, err, "the old one is void")
	_, err = s.auth.Authenticate(ctx, rotated.AgentToken)
	require.NoError(t, err)
	require.NotContains(t, s.log.String(), rotated.AgentToken)
	require.NoError(t, ada.DeleteWorkspace(ctx, "dev"))
	_, err = s.auth.Authenticate(ctx, rotated.AgentToken)
	require.Error(t, err)
	refusedAs(t, ada.DeleteWorkspace(ctx, "dev"), 404, "no such workspace")
}

// TestTokenDoesNotOutliveItsMaker: what is made with a token that expires expires with it.
func TestTokenDoesNotOutliveItsMaker(t *testing.T) {
	s := run(t, nil)
	_, login := s.addUser(t, "root", store.RoleAdmin)
	ctx := t.Context()
	root := s.client(t, login)
	short, err := root.CreateToken(ctx, sdk.CreateTokenRequest{Label: "short", ExpiresIn: 3600})
	require.NoError(t, err)
	thief := s.client(t, short.Secret)
	for _, req := range []sdk.CreateTokenRequest{
		{Label: "for ever"}, {Label: "later", ExpiresIn: 7200}, {Label: "root's", User: "root"}, {Label: "sooner", ExpiresIn: 60},
	} {
		made, err := thief.CreateToken(ctx, req)
		require.NoError(t, err)
		require.NotNil(t, made.Token.ExpiresAt, req.Label)
		require.False(t, made.Token.ExpiresAt.After(*short.Token.ExpiresAt), req.Label)
	}
	eve, err := thief.CreateUser(ctx, sdk.CreateUserRequest{Name: "eve", Role: "admin"})
	require.NoError(t, err)
	me, err := s.client(t, eve.Token).WhoAmI(ctx)
	require.NoError(t, err)
	require.Equal(t, short.Token.ExpiresAt, me.Token.ExpiresAt, "a user made with it has no more")
	made, err := root.CreateToken(ctx, sdk.CreateTokenRequest{Label: "for ever"})
	require.NoError(t, err)
	require.Nil(t, made.Token.ExpiresAt, "a login's does not expire")
}

// TestChangesOfAWorkspaceThatGoes: what is done to a workspace that was deleted meanwhile
// is answered as if there had never been one.
func TestChangesOfAWorkspaceThatGoes(t *testing.T) {
	s := run(t, nil)
	bob, _ := s.addUser(t, "bob", store.RoleMember)
	ctx, id := t.Context(), uuid.NewString()
	require.Equal(t, errNoWorkspace, gone(s.store.Share(ctx, id, bob.ID, s.opts.Now())))
	require.Equal(t, errNoWorkspace, gone(s.store.SetAgentToken(ctx, id, "x")))
	require.Equal(t, errNoWorkspace, gone(s.store.Rekey(ctx, id, "ada", s.opts.Now())))
}
