package sdk

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"fairlead.dev/fairlead/disconnect"
)

// WhoAmI returns the user behind the token, and the token.
func (c *Client) WhoAmI(ctx context.Context) (Identity, error) {
	var out Identity
	err := c.do(ctx, http.MethodGet, "/api/v1/me", nil, &out)
	return out, err
}

// Users returns every user. Admins may ask.
func (c *Client) Users(ctx context.Context) ([]User, error) {
	var out UserList
	err := c.do(ctx, http.MethodGet, "/api/v1/users", nil, &out)
	return out.Users, err
}

// CreateUser makes a user and returns their first token. Admins may.
func (c *Client) CreateUser(ctx context.Context, req CreateUserRequest) (LoginResponse, error) {
	var out LoginResponse
	err := c.do(ctx, http.MethodPost, "/api/v1/users", req, &out)
	return out, err
}

// UpdateUser changes a user's role, or closes or reopens their account. Admins may.
func (c *Client) UpdateUser(ctx context.Context, name string, req UpdateUserRequest) (User, error) {
	var out User
	if !ValidName(name) {
		return out, notAName("user", name)
	}
	err := c.do(ctx, http.MethodPatch, "/api/v1/users/"+name, req, &out)
	return out, err
}

// Tokens returns the caller's tokens.
func (c *Client) Tokens(ctx context.Context) ([]Token, error) {
	var out TokenList
	err := c.do(ctx, http.MethodGet, "/api/v1/tokens", nil, &out)
	return out.Tokens, err
}

// TokensOf returns the tokens of one user, or of everybody when user is empty. Of
// others, only admins get them.
func (c *Client) TokensOf(ctx context.Context, user string) ([]Token, error) {
	var out TokenList
	err := c.doQuery(ctx, http.MethodGet, "/api/v1/tokens", url.Values{"user": {user}}, nil, &out)
	return out.Tokens, err
}

// CreateToken makes a token.
func (c *Client) CreateToken(ctx context.Context, req CreateTokenRequest) (CreateTokenResponse, error) {
	var out CreateTokenResponse
	err := c.do(ctx, http.MethodPost, "/api/v1/tokens", req, &out)
	return out, err
}

// RevokeToken makes a token void, at once and for good. The id may be [CurrentToken].
func (c *Client) RevokeToken(ctx context.Context, id string) (RevokedToken, error) {
	var out RevokedToken
	err := c.do(ctx, http.MethodDelete, "/api/v1/tokens/"+url.PathEscape(id), nil, &out)
	return out, err
}

// Relays returns the relays that are processes of their own. Admins may ask.
func (c *Client) Relays(ctx context.Context) ([]Relay, error) {
	var out RelayList
	err := c.do(ctx, http.MethodGet, "/api/v1/relays", nil, &out)
	return out.Relays, err
}

// CreateRelay makes a relay's identity and its token. Admins may.
func (c *Client) CreateRelay(ctx context.Context, req CreateRelayRequest) (CreateRelayResponse, error) {
	var out CreateRelayResponse
	err := c.do(ctx, http.MethodPost, "/api/v1/relays", req, &out)
	return out, err
}

// DeleteRelay makes a relay's token void and takes it out of use. Admins may.
func (c *Client) DeleteRelay(ctx context.Context, name string) error {
	if !ValidName(name) {
		return notAName("relay", name)
	}
	return c.do(ctx, http.MethodDelete, "/api/v1/relays/"+name, nil, &Relay{})
}

// DeleteWorkspace removes a workspace: its sessions end, its agent is not accepted
// any more.
func (c *Client) DeleteWorkspace(ctx context.Context, name string) error {
	path, err := c.workspacePath(ctx, name)
	if err != nil {
		return err
	}
	return c.do(ctx, http.MethodDelete, path, nil, &Workspace{})
}

// RotateToken gives a workspace's agent a new token and voids the old one.
func (c *Client) RotateToken(ctx context.Context, name string) (CreateWorkspaceResponse, error) {
	var out CreateWorkspaceResponse
	path, err := c.workspacePath(ctx, name)
	if err != nil {
		return out, err
	}
	err = c.do(ctx, http.MethodPost, path+"/token", nil, &out)
	return out, err
}

// RekeyWorkspace lets a workspace's agent register another SSH host key.
func (c *Client) RekeyWorkspace(ctx context.Context, name string) error {
	path, err := c.workspacePath(ctx, name)
	if err != nil {
		return err
	}
	return c.do(ctx, http.MethodPost, path+"/rekey", nil, &RekeyList{})
}

// Rekeys returns the changes of a workspace's SSH host key that were allowed.
func (c *Client) Rekeys(ctx context.Context, name string) ([]Rekey, error) {
	var out RekeyList
	path, err := c.workspacePath(ctx, name)
	if err != nil {
		return nil, err
	}
	err = c.do(ctx, http.MethodGet, path+"/rekeys", nil, &out)
	return out.Rekeys, err
}

// Shares returns the users that a workspace is shared with.
func (c *Client) Shares(ctx context.Context, name string) ([]string, error) {
	return c.shares(ctx, http.MethodGet, name, "")
}

// Share lets a user reach a workspace. It returns everybody it is shared with.
func (c *Client) Share(ctx context.Context, name, user string) ([]string, error) {
	return c.shares(ctx, http.MethodPut, name, user)
}

// Unshare takes that back. It returns everybody it is still shared with.
func (c *Client) Unshare(ctx context.Context, name, user string) ([]string, error) {
	return c.shares(ctx, http.MethodDelete, name, user)
}

func (c *Client) shares(ctx context.Context, method, name, user string) ([]string, error) {
	path, err := c.workspacePath(ctx, name)
	if err != nil {
		return nil, err
	}
	path += "/shares"
	if method != http.MethodGet {
		if !ValidName(user) {
			return nil, notAName("user", user)
		}
		path += "/" + user
	}
	var out ShareList
	err = c.do(ctx, method, path, nil, &out)
	return out.Users, err
}

// workspacePath returns the path of a workspace named by "name" or "owner/name".
// Without an owner it is the caller's, so the server is asked who that is.
func (c *Client) workspacePath(ctx context.Context, name string) (string, error) {
	owner, rest, both := strings.Cut(name, "/")
	if !both {
		rest = name
		if !ValidName(rest) {
			return "", notAName("workspace", name)
		}
		me, err := c.WhoAmI(ctx)
		if err != nil {
			return "", err
		}
		owner = me.Name
	}
	if !ValidName(owner) || !ValidName(rest) {
		return "", notAName("workspace", name)
	}
	return "/api/v1/workspaces/" + owner + "/" + rest, nil
}

// notAName refuses a name before it goes into a path.
func notAName(what, name string) error {
	return &Error{Code: CodeInvalid, Message: fmt.Sprintf("%q is not a %s name: %s", disconnect.Scrub(name), what, NameRule)}
}
