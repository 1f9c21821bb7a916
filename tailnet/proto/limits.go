package proto

import "time"

// What both ends of the coordination must hold alike.
const (
	// GrantLife is how long a grant permits a pair of nodes without renewal.
	GrantLife = 24 * time.Hour
	// MaxEndpoints bounds the addresses at which a node says that it may be found.
	MaxEndpoints = 64
	// MaxWorkspaceText bounds a workspace's name or id, in bytes: a server ends the
	// stream of a node that asks for a longer one.
	MaxWorkspaceText = 256
)
