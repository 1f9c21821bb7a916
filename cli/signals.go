package cli

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

// stopSignals returns a context that ends with the first SIGINT or SIGTERM, and a
// channel that is closed by the second, which means: at once.
func stopSignals(parent context.Context) (ctx context.Context, again <-chan struct{}, stop func()) {
	ctx, cancel := context.WithCancel(parent)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	second := make(chan struct{})
	quit := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 2 {
			select {
			case <-signals:
			case <-quit:
				return
			}
			if ctx.Err() == nil {
				cancel()
				continue
			}
			close(second)
			return
		}
	}()
	return ctx, second, func() {
		signal.Stop(signals)
		close(quit)
		<-done
		cancel()
	}
}
