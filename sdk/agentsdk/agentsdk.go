// Package agentsdk holds what an agent and the server say to each other, as plain
// Go values. It opens no connection; the messages themselves are in agent/proto.
package agentsdk

import (
	"fmt"
	"time"

	"fairlead.dev/fairlead/agent/proto"
	"fairlead.dev/fairlead/disconnect"
)

// Manifest is the server's description of a workspace to its agent.
type Manifest struct {
	WorkspaceID   string
	WorkspaceName string
	OwnerName     string
	// Directory is where sessions start; empty means the home directory.
	Directory string
	// Environment is added to the environment of every session.
	Environment map[string]string
	// MOTDFile is shown to interactive sessions; empty means none.
	MOTDFile string
	// OutageLimit is how long a client may be silent before its sessions end; 0: the
	// server does not say.
	OutageLimit time.Duration
}

// maxEnvironment bounds the variables that a manifest may set.
const maxEnvironment = 1024

// ManifestFromProto checks a manifest from the wire.
func ManifestFromProto(m *proto.Manifest) (*Manifest, error) {
	if m.GetWorkspaceId() == "" {
		return nil, fmt.Errorf("read manifest: the workspace id is missing")
	}
	if n := len(m.GetEnvironment()); n > maxEnvironment {
		return nil, fmt.Errorf("read manifest: %d environment variables, at most %d are allowed", n, maxEnvironment)
	}
	return &Manifest{
		WorkspaceID:   m.GetWorkspaceId(),
		WorkspaceName: disconnect.Scrub(m.GetWorkspaceName()),
		OwnerName:     disconnect.Scrub(m.GetOwnerName()),
		Directory:     m.GetDirectory(),
		Environment:   m.GetEnvironment(),
		MOTDFile:      m.GetMotdFile(),
		OutageLimit:   max(m.GetOutageLimit().AsDuration(), 0),
	}, nil
}
