// Package agentssh is the SSH server of the agent: shells and commands with or
// without a terminal, SFTP, forwards to ports and unix sockets, and one judged ending
// for each of them. It runs on plain
// golang.org/x/crypto/ssh with its own session layer, because wrappers lose why a
// connection ended.
//
// It authenticates nobody: whoever reaches its listener was authenticated by the
// tailnet. It does not report connections to a server (Config.Track tells the agent)
// and knows nothing of the companion stream (Config.PeerEnding asks).
//
// # Endings
//
// A session ends for its first terminal cause, and whatever follows is a
// consequence: its process ended, the client said that it leaves or closed the
// channel, the transport broke, or the server ended it. It is logged once as "ssh
// session closed", with exit_code -1 unless the end of the process was the cause; a
// process that a signal killed has 128 + the signal's number.
//
// A lost transport and a client's leaving both end the input of the process, which
// may then exit well; and x/crypto/ssh shows them alike. So the transport's end is
// held back from the SSH layer for a moment (rawconn.go), and an exit right after the
// end of the input waits for a moment whether the channel ends too (session.go).
//
// # Forwards
//
// A forward is dialled when its channel is opened, and reported as a connection of its
// own, failed or not. It ends normally when both sides have ended what they send; who
// did so first is its initiator. Its target is a program of the workspace: what listens
// there is looked up on Linux, among the processes of the agent's own user, so that the
// channels of an IDE are known as such (behind.go). Forwards that come faster than the
// log is meant for share one row (forwardrow.go).
//
// # Processes
//
// Each session's process leads a process session of its own. When it exits, a session
// on pipes goes on, as with sshd, until nothing holds the pipes any more or the client
// leaves; a session on a terminal is over. What a command left in the background on
// pipes of its own lives on. When anything else ends the session, the process group
// gets SIGHUP, and SIGKILL if the process does not exit within Config.KillGrace.
// A daemon that called setsid gets neither.
package agentssh
