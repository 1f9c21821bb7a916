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

// Policy says what the sessions of a workspace may do.
type Policy struct {
	// IdleTimeout ends a session through which nothing passed for so long.
	IdleTimeout Bound `json:"idle_timeout"`
	// SessionLimit ends a session that has lasted so long.
	SessionLimit Bound `json:"session_limit"`
	// FileTransfer is SFTP, and scp and rsync by their command lines. LocalForwarding leads
	// from clients to what the workspace reaches, RemoteForwarding from the workspace to
	// clients, their authentication agent and display included. Each is Allowed or Blocked.
	FileTransfer     string `json:"file_transfer"`
	LocalForwarding  string `json:"local_forwarding"`
	RemoteForwarding string `json:"remote_forwarding"`
	// AcceptEnv has the names of variables that clients may set, separated by commas; a
	// name may end in "*". Those that begin with FAIRLEAD_ they always may.
	AcceptEnv string `json:"accept_env"`
}

// Words of what a policy blocks, and whether it does.
const (
	FileTransfer     = "file_transfer"
	LocalForwarding  = "local_forwarding"
	RemoteForwarding = "remote_forwarding"

	Allowed = "allowed"
	Blocked = "blocked"
)

// AnyEnv is what AcceptEnv is for any variable.
const AnyEnv = "*"

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

// UpdatePolicyRequest changes what is not nil: times to one as in 30m, [Never] or
// [ServerDefault], the others to what [Policy] has.
type UpdatePolicyRequest struct {
	IdleTimeout  *string `json:"idle_timeout,omitempty"`
	SessionLimit *string `json:"session_limit,omitempty"`

	FileTransfer     *string `json:"file_transfer,omitempty"`
	LocalForwarding  *string `json:"local_forwarding,omitempty"`
	RemoteForwarding *string `json:"remote_forwarding,omitempty"`
	AcceptEnv        *string `json:"accept_env,omitempty"`
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

// Policy returns what sessions may do in a workspace.
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
