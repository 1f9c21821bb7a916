package agentssh

import (
	"net"
	"path"
	"slices"
	"strings"
	"sync"
)

// maxBehind bounds how many listening sockets are remembered.
const maxBehind = 256

// listeners knows the programs behind listening sockets of this host. The zero value
// knows none.
type listeners struct {
	mu    sync.Mutex        // guards known, and lets one look at a time
	known map[uint64]string // by the socket's inode: the app, or "" for any other program
}

// behind returns the app that listens where peer leads: "" for any other program, for one
// of another user, on another host, or on a system that does not tell.
func (l *listeners) behind(peer net.Conn) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	inode, ok := listeningInode(peer)
	if !ok {
		return ""
	}
	// A socket keeps its inode as long as it is there, and the next one gets another.
	if app, ok := l.known[inode]; ok {
		return app
	}
	app := ""
	for _, args := range holders(inode) {
		if app = appOf(args); app != "" {
			break
		}
	}
	if l.known == nil || len(l.known) >= maxBehind {
		l.known = make(map[uint64]string)
	}
	l.known[inode] = app
	return app
}

// appOf recognises an IDE's server by its command line; "" is any other program.
func appOf(args []string) string {
	if len(args) == 0 {
		return ""
	}
	switch {
	case isJetBrains(args):
		return appJetBrains
	case isVSCode(args):
		return appVSCode
	}
	return ""
}

// isJetBrains knows the Java command line of every JetBrains IDE, and the launcher that
// hides it, where remote development installs it.
func isJetBrains(args []string) bool {
	return slices.Contains(args[1:], "-Didea.vendor.name=JetBrains") ||
		(strings.Contains(args[0], "/JetBrains/RemoteDev/dist/") && path.Base(args[0]) == "remote-dev-server")
}

// isVSCode knows the two programs of VS Code Server that listen: its command line
// program, and the server proper.
func isVSCode(args []string) bool {
	if len(args) > 1 && args[1] == "command-shell" && ofVSCodeServer(args[0]) && strings.HasPrefix(path.Base(args[0]), "code-") {
		return true
	}
	for _, arg := range args[:min(len(args), 4)] { // node, its options, the script
		if ofVSCodeServer(arg) && path.Base(arg) == "server-main.js" {
			return true
		}
	}
	return false
}

// ofVSCodeServer reports whether a path is in the directory that VS Code Server is
// installed to.
func ofVSCodeServer(file string) bool {
	return strings.Contains(file, "/.vscode-server/") || strings.Contains(file, "/.vscode-server-insiders/")
}
