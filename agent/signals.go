package agent

import (
	"os"
	"os/signal"
	"sync"
	"syscall"
)

// resetSignals undoes for the programs of sessions that signals were ignored when this
// process began, as under nohup, or in the background of a script: they would inherit it,
// and outlive their sessions, or not heed Ctrl-C. A signal that is caught is at its default
// in a program that is started; the agent itself goes on as if it ignored it.
var resetSignals = sync.OnceFunc(func() {
	for _, s := range []os.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM} {
		if signal.Ignored(s) {
			signal.Notify(make(chan os.Signal, 1), s) // nobody reads it
		}
	}
})
