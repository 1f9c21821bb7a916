// Package connlog is the connection log: one row for each SSH session, terminal and
// tracked forward of an agent (agent_to_client), and one for each control link of an
// agent (server_to_agent) and of a client (client_to_server). It takes the words of
// agents and of the server itself, in any order and more than once, and makes one row
// with one attributed ending of them.
//
// It does not decide who may read what, and knows nothing of HTTP, RPC or SQL.
package connlog
