// Package soak kills agents and servers at random moments, while sessions begin and end,
// and then holds the connection log against what the clients saw: no row may be lost,
// doubled, open for ever or without a reason, nor say anything else than its client was
// told. `go test` does so a few times, `make soak` a hundred. It has no code of its own.
package soak
