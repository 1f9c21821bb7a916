// Package disconnect holds the words for why a connection ended: a closed set of
// reasons, who began the ending, and at which layer. It turns an ending into the
// five structured fields that every disconnect log line carries, judges errors of
// the standard library, and keeps the first terminal cause of a connection.
//
// It imports the standard library only and is useful to any Go program. It is not
// the place for errors of SSH, WebSocket, gRPC or a userspace TCP stack (the
// packages that own those layers judge them), nor for joining what several
// observers saw.
package disconnect

//go:generate go run ./docgen ../docs/disconnects.md
