// Package interop runs the SSH clients that people have against a real workspace, and
// writes docs/interop.md of what they could do. Clients are shell scripts in table_test.go;
// what is not installed is told apart from what works.
package interop
