package sdk

import (
	"context"
	"net/http"
	"net/url"
	"time"
)

// Stopped says who stopped a workspace: it has no sessions, and lets none in.
type Stopped struct {
	By string    `json:"by"` // user name
	At time.Time `json:"at"`
}

// WorkspaceChange is a workspace after a stop or start. Changed is false when there was
// nothing to do.
type WorkspaceChange struct {
	Workspace Workspace `json:"workspace"`
	Changed   bool      `json:"changed"`
}

// Notice is a platform's word, given at At, that the workspace's host will be gone at
// the deadline.
type Notice struct {
	Kind     string    `json:"kind"` // as in "preempted"
	At       time.Time `json:"at"`
	Deadline time.Time `json:"deadline"`
}

// NoticeRequest gives notice.
type NoticeRequest struct {
	Kind     string    `json:"kind"`
	Deadline time.Time `json:"deadline"`
}

// Policy bounds the sessions of a workspace.
type Policy struct {
	// IdleTimeout ends a session through which nothing passed for so long.
	IdleTimeout Bound `json:"idle_timeout"`
	// SessionLimit ends a session that has lasted so long.
	SessionLimit Bound `json:"session_limit"`
}

// Bound is one of a policy's times.
type Bound struct {
	Value string `json:"value"` // as in 30m0s, or Never
	Rule  string `json:"rule"`  // whose value it is: RuleWorkspace or RuleServer
}

// Words of bounds.
const (
	RuleWorkspace = "workspace"
	RuleServer    = "server"

	Never         = "never"
	ServerDefault = "default" // asks for what the server has
)

// UpdatePolicyRequest changes what is not nil, to a time as in 30m, [Never] or
// [ServerDefault].
type UpdatePolicyRequest struct {
	IdleTimeout  *string `json:"idle_timeout,omitempty"`
	SessionLimit *string `json:"session_limit,omitempty"`
}

// StopWorkspace ends a workspace's sessions and lets none in until StartWorkspace.
func (c *Client) StopWorkspace(ctx context.Context, name string) (WorkspaceChange, error) {
	var out WorkspaceChange
	err := c.ofWorkspace(ctx, http.MethodPost, name, "/stop", nil, &out)
	return out, err
}

// StartWorkspace lets sessions into a workspace again.
func (c *Client) StartWorkspace(ctx context.Context, name string) (WorkspaceChange, error) {
	var out WorkspaceChange
	err := c.ofWorkspace(ctx, http.MethodPost, name, "/start", nil, &out)
	return out, err
}

// Policy returns how long sessions may last in a workspace.
func (c *Client) Policy(ctx context.Context, name string) (Policy, error) {
	var out Policy
	err := c.ofWorkspace(ctx, http.MethodGet, name, "/policy", nil, &out)
	return out, err
}

// UpdatePolicy changes that.
func (c *Client) UpdatePolicy(ctx context.Context, name string, req UpdatePolicyRequest) (Policy, error) {
	var out Policy
	err := c.ofWorkspace(ctx, http.MethodPatch, name, "/policy", req, &out)
	return out, err
}

// GiveNotice says that the platform will take a workspace's host away.
func (c *Client) GiveNotice(ctx context.Context, name string, req NoticeRequest) (Workspace, error) {
	var out Workspace
	err := c.ofWorkspace(ctx, http.MethodPost, name, "/notice", req, &out)
	return out, err
}

// WithdrawNotice takes that back.
func (c *Client) WithdrawNotice(ctx context.Context, name string) (Workspace, error) {
	var out Workspace
	err := c.ofWorkspace(ctx, http.MethodDelete, name, "/notice", nil, &out)
	return out, err
}

func (c *Client) ofWorkspace(ctx context.Context, method, name, what string, in, out any) error {
	path, err := c.workspacePath(ctx, name)
	if err != nil {
		return err
	}
	return c.do(ctx, method, path+what, in, out)
}

// KillConnection ends a connection, by its whole id, and returns its row: closed, unless
// the agent has not answered yet.
func (c *Client) KillConnection(ctx context.Context, id string) (Connection, error) {
	var out Connection
	err := c.do(ctx, http.MethodPost, "/api/v1/connections/"+url.PathEscape(id)+"/kill", nil, &out)
	return out, err
}
