package disconnect

import (
	"fmt"
	"strconv"
)

// Initiator is the party that began an ending. Its numeric value is stable.
type Initiator uint8

// Initiators. InitiatorUnknown goes only with the reason Unknown.
const (
	InitiatorUnknown Initiator = 0
	Client           Initiator = 1
	Agent            Initiator = 2
	Server           Initiator = 3
	Network          Initiator = 4
	Relay            Initiator = 5 // one that is a process of its own; the server's own is Server
)

var initiatorNames = [...]string{"unknown", "client", "agent", "server", "network", "relay"}

// Initiators returns the whole set in ascending order of number.
func Initiators() []Initiator {
	return []Initiator{InitiatorUnknown, Client, Agent, Server, Network, Relay}
}

// String returns the initiator's word, or "initiator(N)" outside the set.
func (i Initiator) String() string {
	if i.Valid() {
		return initiatorNames[i]
	}
	return "initiator(" + strconv.Itoa(int(i)) + ")"
}

// Valid reports whether i is a member of the set.
func (i Initiator) Valid() bool { return int(i) < len(initiatorNames) }

// ParseInitiator is the inverse of [Initiator.String] for members of the set.
func ParseInitiator(s string) (Initiator, error) {
	for i, name := range initiatorNames {
		if name == s {
			return Initiator(i), nil
		}
	}
	return InitiatorUnknown, fmt.Errorf("parse initiator: %q is not a known initiator", s)
}

// ConnectType is the layer of a connection. Its numeric value is stable.
type ConnectType uint8

// Connect types. The zero value is not a layer; it marks an attribution whose
// layer the caller has yet to fill in.
const (
	ServerToAgent  ConnectType = 1
	AgentToClient  ConnectType = 2
	ClientToServer ConnectType = 3
	RelayToServer  ConnectType = 4
)

var connectTypeNames = [...]string{"unspecified", "server_to_agent", "agent_to_client", "client_to_server", "relay_to_server"}

// ConnectTypes returns the layers in ascending order of number.
func ConnectTypes() []ConnectType {
	return []ConnectType{ServerToAgent, AgentToClient, ClientToServer, RelayToServer}
}

// String returns the layer's word.
func (t ConnectType) String() string {
	if int(t) < len(connectTypeNames) {
		return connectTypeNames[t]
	}
	return "connect_type(" + strconv.Itoa(int(t)) + ")"
}

// Valid reports whether t is a layer.
func (t ConnectType) Valid() bool { return t != 0 && int(t) < len(connectTypeNames) }

// ParseConnectType is the inverse of [ConnectType.String] for layers.
func ParseConnectType(s string) (ConnectType, error) {
	for i, name := range connectTypeNames {
		if name == s && i != 0 {
			return ConnectType(i), nil
		}
	}
	return 0, fmt.Errorf("parse connect type: %q is not a known connect type", s)
}
