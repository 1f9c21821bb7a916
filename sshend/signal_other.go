//go:build !unix

package sshend

import "os"

// SignalName returns the name of a signal of this system, without SIG; "" for one that
// SSH does not carry.
func SignalName(s os.Signal) string {
	switch s {
	case os.Interrupt:
		return "INT"
	case os.Kill:
		return "KILL"
	}
	return ""
}
