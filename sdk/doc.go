// Package sdk is the server's REST API as Go: the types that cross it, and a client.
//
// A type belongs here only if it crosses the API. Judging how connections end belongs
// in package disconnect; what agents and nodes say to the server crosses the control
// link and lives in the protocol packages.
package sdk
