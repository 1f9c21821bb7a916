// Package testutil holds what tests of several packages need: a recorder of log
// lines that understands disconnect attributions, contexts that end with the test, and
// the check that a page of the documentation names tests that exist.
//
// It imports the lowest floors only, so that any package's tests can use it. It is
// not for production code, and not the place for helpers that a single package's
// tests need, nor for starting servers, agents or clients.
package testutil
