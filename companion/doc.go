// Package companion is the small stream that runs beside a client's connections to
// an agent inside the tailnet. Over it both ends tell which life of which process
// they are (hello), that they are alive (heartbeat), why they leave (goodbye), which
// id the agent gave to a connection (flow), and how the agent saw it end (ended).
//
// The agent runs one [Host], the client one [Watch] per agent. A Watch outlives any
// single stream: it dials again until the agent is proved gone or was silent for
// longer than the outage limit, and then says which of the two it was. What is shorter is
// an [Interruption]: each end records the silence of the other, and confesses to it when
// it slept or stood still itself.
//
// On the wire a frame is a uvarint length and one proto.CompanionFrame of at most
// 64 KiB. The agent speaks first, so that a client that meets another life of the
// agent than the one it knew can leave without having said anything.
//
// It is not for user data, knows no tailnet and dials nothing by itself: any
// net.Conn will do. It does not close the connections whose endings it reports, and
// it does not join what client, agent and server saw into one verdict.
package companion
