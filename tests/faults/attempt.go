package main

import (
	"context"
	"fmt"
	"os"
	"strings"
)

// attempt stands in for the *testing.T that tests/site binds its processes to: one run of
// one scenario. It belongs to the goroutine that runs it.
type attempt struct {
	ctx      context.Context
	failure  string   // the first one: the lab could not do what it should
	cleanups []func() // the last one first
}

// failedNow is the panic that ends an attempt.
type failedNow struct{}

// try calls f, then ends what f started, and returns why it failed.
func try(ctx context.Context, f func(*attempt)) string {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	a := &attempt{ctx: ctx}
	a.guarded(func() { f(a) })
	for i := len(a.cleanups); i > 0; i-- {
		a.guarded(a.cleanups[i-1])
	}
	return a.failure
}

func (a *attempt) guarded(f func()) {
	defer func() {
		if p := recover(); p != nil && p != (failedNow{}) {
			panic(p)
		}
	}()
	f()
}

func (a *attempt) Helper()                  {}
func (a *attempt) Failed() bool             { return a.failure != "" }
func (a *attempt) FailNow()                 { panic(failedNow{}) }
func (a *attempt) Context() context.Context { return a.ctx }
func (a *attempt) Cleanup(f func())         { a.cleanups = append(a.cleanups, f) }
func (a *attempt) Logf(string, ...any)      {} // the logs are kept as files

func (a *attempt) Errorf(format string, args ...any) {
	if a.failure == "" {
		words := strings.Join(strings.Fields(fmt.Sprintf(format, args...)), " ")
		a.failure = words[:min(len(words), 400)]
	}
}

// must ends the attempt if err is one.
func (a *attempt) must(what string, err error) {
	if err != nil {
		a.Errorf("%s: %v", what, err)
		a.FailNow()
	}
}

// TempDir implements site.T.
func (a *attempt) TempDir() string {
	dir, err := os.MkdirTemp("", "fairlead-fault-")
	a.must("make a directory", err)
	a.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}
