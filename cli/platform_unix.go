//go:build unix

package cli

import (
	"os"
	"syscall"
)

// resizeSignals say that the terminal's size has changed.
var resizeSignals = []os.Signal{syscall.SIGWINCH}

// remoteSignals are those that go to the remote process. The ones that ask this program
// to stop do not: they mean that the user leaves.
var remoteSignals = []os.Signal{syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGQUIT}

// modesCount: the mode of a file says who may read it.
const modesCount = true
