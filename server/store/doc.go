// Package store keeps what the server must not forget: its own keys, users, tokens,
// one-time codes, and workspaces with who they are shared with and the last known
// ending of their agents. It migrates the database and offers one typed method per question.
//
// It decides nothing: who may do what is for server/auth, and what an ending means
// is for package disconnect. It keeps no coordination state; that lives where the
// connection lives. The SQL is plain enough for SQLite and PostgreSQL alike: numbered
// placeholders, times as microseconds since 1970 in BIGINT, binary values as hex text.
package store
