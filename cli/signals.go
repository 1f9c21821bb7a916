package cli

import (
	"context"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
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

// stopTimeout bounds the stop of a server or a relay.
const stopTimeout = 10 * time.Second

// closeInTime stops something: in stopTimeout, or at once when again is closed.
func closeInTime(again <-chan struct{}, closeAll func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	return hurrying(again, cancel, func() error { return closeAll(ctx) })
}

// hurrying runs f, and calls hurry if again is closed before f is done.
func hurrying(again <-chan struct{}, hurry func(), f func() error) error {
	done := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() {
		select {
		case <-again:
			hurry()
		case <-done:
		}
	})
	defer watch.Wait()
	defer close(done)
	return f()
}
