package verdict

import (
	"slices"
	"time"

	"fairlead.dev/fairlead/disconnect"
)

// FinalAfter is when a verdict becomes final although a witness has not spoken.
const FinalAfter = 24 * time.Hour

// Context is what whoever judges knows of the connection without any witness. All of it
// may be missing.
type Context struct {
	ConnectionID string                 `json:"connection_id,omitempty"`
	ConnectType  disconnect.ConnectType `json:"connect_type,omitzero"` // zero: as the testimonies say
	Opened       time.Time              `json:"opened,omitzero"`       // by the server's clock, as all times here
	Now          time.Time              `json:"now,omitzero"`          // zero: nothing becomes final by age

	// Principals are who may testify as client (a user) and as agent (a workspace). A
	// party that is not in it may be anybody: fill it in wherever there are strangers.
	Principals map[disconnect.Initiator]string `json:"principals,omitempty"`
	// Expect are the witnesses whose word is waited for; nil: both ends.
	Expect []disconnect.Initiator `json:"expect,omitempty"`
	// RelayOwner is whose process the relay is: server if it is the server's own, relay if
	// it is one of its own.
	RelayOwner disconnect.Initiator `json:"relay_owner,omitzero"`
	// Neighbours are other legs that share an end with this one, as the judge knows them.
	Neighbours []Neighbour `json:"neighbours,omitempty"`
	// Previous is the last verdict on the same ending or interruption, if there was one.
	Previous *Verdict `json:"-"`
}

// Neighbour is what became of another leg.
type Neighbour struct {
	ConnectionID string `json:"connection_id,omitempty"`
	// Shares is the end that it has in common with the connection that is judged.
	Shares disconnect.Initiator `json:"shares"`
	// Alive: it was in order from From until Until. Otherwise the trouble of it began
	// between the two.
	Alive bool      `json:"alive,omitempty"`
	From  time.Time `json:"from"`
	Until time.Time `json:"until"`
	// Closed: the kernel of the shared end closed it without a goodbye.
	Closed bool `json:"closed,omitempty"`
}

// endsOf returns the two ends of a layer. A relay's own link has the relay and the server.
func endsOf(t disconnect.ConnectType) [2]disconnect.Initiator {
	switch t {
	case disconnect.ServerToAgent:
		return [2]disconnect.Initiator{agent, server}
	case disconnect.AgentToClient:
		return [2]disconnect.Initiator{agent, client}
	case disconnect.ClientToServer:
		return [2]disconnect.Initiator{client, server}
	case disconnect.RelayToServer:
		return [2]disconnect.Initiator{relay, server}
	}
	return [2]disconnect.Initiator{}
}

// sharedEnd returns the end that two layers of one client, agent and server have in
// common; zero if they are the same layer.
func sharedEnd(a, b disconnect.ConnectType) disconnect.Initiator {
	if a == b {
		return 0
	}
	other := endsOf(b)
	for _, end := range endsOf(a) {
		if slices.Contains(other[:], end) {
			return end
		}
	}
	return 0
}
