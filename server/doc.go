// Package server is the Fairlead server: the HTTP and RPC surface as one table of
// routes with who may call each, the order of starting and stopping, and the plugs
// between the parts that each do one thing.
//
// It holds no SQL (server/store), decides no right (server/auth), coordinates no peers
// and relays no packets (tailnet/coordinator, tailnet/relay), and knows nothing of
// flags or terminals (cli).
package server
