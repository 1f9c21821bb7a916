//go:build !unix

package cli

import "os"

// resizeSignals say that the terminal's size has changed: none does here, so that a
// session keeps the size that it began with.
var resizeSignals []os.Signal

// remoteSignals are those that go to the remote process.
var remoteSignals []os.Signal

// modesCount: the mode of a file says nothing here about who may read it; the user's
// own directory does.
const modesCount = false
