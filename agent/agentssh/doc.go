// Package agentssh is the SSH server of the agent: shells and commands with or
// without a terminal, and one judged ending for every session. It runs on plain
// golang.org/x/crypto/ssh with its own session layer, because wrappers lose why a
// connection ended.
//
// It authenticates nobody: whoever reaches its listener was authenticated by the
// tailnet. It does not report connections to a server (Config.Track tells the agent)
// and knows nothing of the companion stream (Config.PeerEnding asks). SFTP and
// forwarded ports are not here yet and are refused in words.
package agentssh
