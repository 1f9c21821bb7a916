package sdk

import (
	"regexp"
	"time"

	"fairlead.dev/fairlead/disconnect"
)

// Headers of the server's answers.
const (
	// HeaderVersion is on every answer: its absence tells that something else answered.
	HeaderVersion = "X-Fairlead-Version"
	// HeaderReason carries the number of a disconnect.Reason where a connection is
	// refused, so that a proxy's page is recognised by its absence.
	HeaderReason = disconnect.HeaderReason
)

// Codes of errors. The first group comes from the server, the second from the client
// itself.
const (
	CodeInvalid          = "invalid"            // 400: the request makes no sense
	CodeUnauthenticated  = "unauthenticated"    // 401: no token, or a wrong one
	CodeTokenExpired     = "token_expired"      // 401: the token was right once
	CodeInvalidCode      = "invalid_code"       // 401: the one-time code is wrong, used or too old
	CodeForbidden        = "forbidden"          // 403: known, but not allowed
	CodeNotFound         = "not_found"          // 404: no such thing, or not yours
	CodeMethodNotAllowed = "method_not_allowed" // 405
	CodeConflict         = "conflict"           // 409: the name is taken
	CodeTooLarge         = "too_large"          // 413: the body is too long
	CodeLimitExceeded    = "limit_exceeded"     // 429: too many; Retry-After says when to try again
	CodeVersionMismatch  = "version_mismatch"   // 426: no protocol version in common
	CodeInternal         = "internal"           // 500: a bug, or the database failed; 507: its disk is full
	CodeUnavailable      = "unavailable"        // 503: starting or stopping

	CodeUnreachable = "unreachable"  // no answer
	CodeNotFairlead = "not_fairlead" // an answer, but not of a Fairlead server
)

var nameForm = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,31}$`)

// ValidName reports whether s may name a user or a workspace: 1 to 32 of a-z, 0-9 and
// "-", the first not "-". Such a name needs no quoting in a shell, a URL or a log.
func ValidName(s string) bool { return nameForm.MatchString(s) }

// NameRule is the sentence to show when [ValidName] says no.
const NameRule = "a name has 1 to 32 characters, a-z, 0-9 and -, and does not begin with -"

// ErrorResponse is the body of every answer that is not a success.
type ErrorResponse struct {
	Error ErrorBody `json:"error"`
}

// ErrorBody is one error: a code for programs and a sentence for people.
type ErrorBody struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// BuildInfo tells which server this is.
type BuildInfo struct {
	Version string `json:"version"`
}

// LoginRequest exchanges the one-time code for a token of the first user, who is made,
// or of an admin when none had a valid token at the server's start.
type LoginRequest struct {
	Code string `json:"code"`
	Name string `json:"name,omitempty"` // the user's; empty means "admin", or the oldest admin
}

// LoginResponse is the only time that the token is shown.
type LoginResponse struct {
	Token string `json:"token"`
	User  User   `json:"user"`
}

// User is who a token belongs to.
type User struct {
	ID        string    `json:"id"`
	Name      string    `json:"name"`
	Role      string    `json:"role"` // "admin" or "member"
	CreatedAt time.Time `json:"created_at"`
	Disabled  bool      `json:"disabled,omitempty"` // may not log in
}

// Identity is who a token belongs to, and the token itself.
type Identity struct {
	User
	Token Token `json:"token"`
}

// UserList is every user of the server.
type UserList struct {
	Users []User `json:"users"`
}

// CreateUserRequest makes a user. The answer is a [LoginResponse] with their first
// token.
type CreateUserRequest struct {
	Name string `json:"name"`
	Role string `json:"role,omitempty"` // "admin" or "member"; empty means "member"
}

// UpdateUserRequest changes what is not nil.
type UpdateUserRequest struct {
	Role     *string `json:"role,omitempty"`
	Disabled *bool   `json:"disabled,omitempty"`
}

// CurrentToken names, instead of an id, the token that the request itself carries.
const CurrentToken = "current"

// Token is a user's credential, without its secret.
type Token struct {
	ID         string     `json:"id"`
	User       string     `json:"user"`
	Label      string     `json:"label"`
	Scope      string     `json:"scope"` // "full", "read" or "ssh"
	CreatedAt  time.Time  `json:"created_at"`
	ExpiresAt  *time.Time `json:"expires_at,omitempty"`   // nil: never
	LastUsedAt *time.Time `json:"last_used_at,omitempty"` // nil: not yet; to the minute
}

// RevokedToken answers that a token is void.
type RevokedToken struct {
	Token
	// NoAdminLeft says that no admin has a valid token any more: the server makes a
	// one-time code for one when it starts again.
	NoAdminLeft bool `json:"no_admin_left,omitempty"`
}

// TokenList is some user's tokens.
type TokenList struct {
	Tokens []Token `json:"tokens"`
}

// CreateTokenRequest makes a token of the caller, or of User if an admin asks.
type CreateTokenRequest struct {
	User      string     `json:"user,omitempty"`
	Label     string     `json:"label"`
	Scope     string     `json:"scope,omitempty"` // empty means "full"
	ExpiresAt *time.Time `json:"expires_at,omitempty"`
	// ExpiresIn is the same in seconds from now, for who does not know the server's
	// clock. Give one of the two, or none for a token without an end.
	ExpiresIn int64 `json:"expires_in,omitempty"`
}

// CreateTokenResponse is the only time that the secret is shown.
type CreateTokenResponse struct {
	Secret string `json:"secret"`
	Token  Token  `json:"token"`
}

// Rekey is the owner's word that a workspace's SSH host key may change.
type Rekey struct {
	By     string    `json:"by"` // user name
	At     time.Time `json:"at"`
	OldKey string    `json:"old_key"`
	NewKey string    `json:"new_key,omitempty"` // empty until the agent has registered it
}

// RekeyList is every change of a workspace's host key that was allowed, the oldest
// first.
type RekeyList struct {
	Rekeys []Rekey `json:"rekeys"`
}

// ShareList names the users that a workspace is shared with.
type ShareList struct {
	Users []string `json:"users"`
}

// AgentStatus says whether a workspace can be reached.
type AgentStatus string

// Agent statuses.
const (
	AgentOnline     AgentStatus = "online"
	AgentConnecting AgentStatus = "connecting" // known to the server, but not to the tailnet yet
	AgentOffline    AgentStatus = "offline"
	AgentNever      AgentStatus = "never" // its agent has not connected yet
)

// Workspace is a remote machine with one agent.
type Workspace struct {
	ID        string    `json:"id"`
	Name      string    `json:"name"`
	Owner     string    `json:"owner"`
	CreatedAt time.Time `json:"created_at"`
	Agent     Agent     `json:"agent"`
	// SSHHostKey is the agent's pinned SSH host key, as in an authorized_keys file.
	// Empty before its agent first registered.
	SSHHostKey string `json:"ssh_host_key,omitempty"`
	// Stopped is nil unless somebody stopped the workspace, Notice unless the platform
	// will take its host away.
	Stopped *Stopped `json:"stopped,omitempty"`
	Notice  *Notice  `json:"notice,omitempty"`
}

// Agent is the last that the server knows of a workspace's agent.
type Agent struct {
	Status AgentStatus `json:"status"`
	// Since is when the status began. Nil when it is "never".
	Since *time.Time `json:"since,omitempty"`
	// Ending tells, when the agent is offline, how its link to the server ended.
	Ending *Ending `json:"ending,omitempty"`
}

// Ending is why a connection ended, in the words of package disconnect.
type Ending struct {
	Reason    string `json:"disconnect_reason"`
	Initiator string `json:"disconnect_initiator"`
	Expected  bool   `json:"disconnect_expected"`
	Detail    string `json:"disconnect_detail"`
}

// WorkspaceList is every workspace that the user reaches.
type WorkspaceList struct {
	Workspaces []Workspace `json:"workspaces"`
}

// CreateWorkspaceRequest names a new workspace of the caller.
type CreateWorkspaceRequest struct {
	Name string `json:"name"`
}

// CreateWorkspaceResponse is the only time that the agent's token is shown.
type CreateWorkspaceResponse struct {
	Workspace  Workspace `json:"workspace"`
	AgentToken string    `json:"agent_token"`
}

// Relay is a relay that runs as a process of its own.
type Relay struct {
	Name      string     `json:"name"`
	Region    string     `json:"region"`    // short name of its region
	RegionID  int        `json:"region_id"` // the region's number, which never changes
	AccessURL string     `json:"access_url,omitempty"`
	STUNPort  int        `json:"stun_port,omitempty"` // 0: no STUN
	Status    string     `json:"status"`              // "online", "lost" (in use until it is back or given up), "offline" or "never"
	SeenAt    *time.Time `json:"seen_at,omitempty"`   // when it last came or went
	CreatedAt time.Time  `json:"created_at"`
}

// RelayList is every relay that runs as a process of its own.
type RelayList struct {
	Relays []Relay `json:"relays"`
}

// CreateRelayRequest makes a relay's identity.
type CreateRelayRequest struct {
	Name   string `json:"name"`
	Region string `json:"region,omitempty"` // empty: the relay's name
}

// CreateRelayResponse is the only time that the relay's token is shown.
type CreateRelayResponse struct {
	Token string `json:"token,omitempty"`
	Relay Relay  `json:"relay"`
}
