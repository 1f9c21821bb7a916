package proto

// TCP ports on which an agent listens inside the tailnet, and nowhere else.
const (
	// SSHPort serves SSH sessions.
	SSHPort = 22
	// CompanionPort serves the companion stream.
	CompanionPort = 4
	// APIPort serves the agent's HTTP API.
	APIPort = 5
)
