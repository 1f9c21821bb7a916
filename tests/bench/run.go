package main

import (
	"context"
	"errors"
	"fmt"
	"os"
)

// run stands in for the *testing.T that tests/site binds its processes to.
type run struct {
	ctx      context.Context
	failures []error
	cleanups []func() // the last one first
}

// failedNow is the panic that ends a run whose failure leaves nothing to measure.
type failedNow struct{}

// measure calls f, then ends what f started, and returns every failure.
func measure(ctx context.Context, f func(*run) error) error {
	r := &run{ctx: ctx}
	r.guarded(f)
	for i := len(r.cleanups); i > 0; i-- {
		r.cleanups[i-1]()
	}
	return errors.Join(r.failures...)
}

func (r *run) guarded(f func(*run) error) {
	defer func() {
		if p := recover(); p != nil && p != (failedNow{}) {
			panic(p)
		}
	}()
	if err := f(r); err != nil {
		r.failures = append(r.failures, err)
	}
}

func (r *run) Helper()                  {}
func (r *run) Failed() bool             { return len(r.failures) > 0 }
func (r *run) FailNow()                 { panic(failedNow{}) }
func (r *run) Context() context.Context { return r.ctx }
func (r *run) Cleanup(f func())         { r.cleanups = append(r.cleanups, f) }

func (r *run) Logf(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

func (r *run) Errorf(format string, args ...any) {
	r.failures = append(r.failures, fmt.Errorf(format, args...))
}

func (r *run) TempDir() string {
	dir, err := os.MkdirTemp("", "fairlead-bench-")
	if err != nil {
		r.Errorf("%w", err)
		r.FailNow()
	}
	r.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}
