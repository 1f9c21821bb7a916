package coordinator

import (
	"sync"
	"time"

	"fairlead.dev/fairlead/tailnet/proto"
)

// topic names what a message is about. A newer message with the same topic takes
// the place of one that still waits; messages without a topic all go out, in order.
type topic struct {
	kind     topicKind
	node     proto.NodeKey
	instance string
}

type topicKind uint8

const (
	topicNone topicKind = iota
	topicAdmitted
	topicPeer
	topicPresence
)

// outbox holds what one stream has yet to send: bounded, and coalesced by topic, so
// that a reader who lags gets the latest word instead of all of them. Nobody who
// puts a message ever waits for the reader.
type outbox struct {
	limit int
	wake  chan struct{} // holds one token while there may be something to send

	mu      sync.Mutex // guards all below
	queue   []*outgoing
	waiting map[topic]*outgoing
	busy    time.Time // when the send that is under way began; zero: none
}

type outgoing struct {
	topic topic
	msg   *proto.CoordinateResponse
}

func newOutbox(limit int) *outbox {
	return &outbox{limit: limit, wake: make(chan struct{}, 1)}
}

// put queues msg. It reports false when the reader lags too far behind.
func (o *outbox) put(t topic, msg *proto.CoordinateResponse) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if old := o.waiting[t]; old != nil {
		old.msg = msg
		return true
	}
	if len(o.queue) >= o.limit {
		return false
	}
	item := &outgoing{topic: t, msg: msg}
	o.queue = append(o.queue, item)
	if t.kind != topicNone {
		if o.waiting == nil {
			o.waiting = make(map[topic]*outgoing)
		}
		o.waiting[t] = item
	}
	select {
	case o.wake <- struct{}{}:
	default:
	}
	return true
}

// next takes the oldest message, and notes that sending it begins at now. It
// returns nil when there is none, and gives the memory of a burst back.
func (o *outbox) next(now time.Time) *proto.CoordinateResponse {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.queue) == 0 {
		o.queue, o.waiting, o.busy = nil, nil, time.Time{}
		return nil
	}
	item := o.queue[0]
	o.queue[0] = nil
	o.queue = o.queue[1:]
	delete(o.waiting, item.topic)
	o.busy = now
	return item.msg
}

// stalled returns how long the send that is under way has taken; 0 when none is.
func (o *outbox) stalled(now time.Time) time.Duration {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.busy.IsZero() {
		return 0
	}
	return now.Sub(o.busy)
}
