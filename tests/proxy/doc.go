// Package proxy holds the tests that put the real nginx, the real Caddy and a CONNECT
// proxy between Fairlead's processes, with the configurations that deploy/ offers. It
// has no code of its own; a test whose program is not installed says so and is skipped.
package proxy
