// Package control is the control link between two Fairlead processes: gRPC over one
// WebSocket, kept alive by heartbeats and ended by a goodbye, with a true account of
// how it ended. It judges gRPC statuses and the failures of dialling.
//
// It is not for packets between peers (tailnet), it knows no service but its own
// frames, it never reconnects, it does not decide who may connect, and it does not
// log endings: the user of a link does that, once.
package control
