package agent

import (
	"log/slog"
	"sync"

	"github.com/google/uuid"

	"fairlead.dev/fairlead/agent/proto"
	"fairlead.dev/fairlead/control"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/wire"
)

// maxOwnEndings bounds the endings that the agent can correct.
const maxOwnEndings = 64

// ownEndings are how the agent's control links ended, and what a former life of it left
// open, as it last said. The zero value is empty. All methods are safe for concurrent use.
type ownEndings struct {
	mu  sync.Mutex // guards all
	all []ownEnding
}

type ownEnding struct {
	id     string // of the row in the connection log
	ending disconnect.Attribution
}

func (o *ownEndings) add(id string, a disconnect.Attribution) {
	if id == "" {
		return // of an older server
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.all = append(o.all, ownEnding{id, a})
	o.all = o.all[max(0, len(o.all)-maxOwnEndings):]
}

// correct replaces what was said of a link, and reports whether that was something else.
func (o *ownEndings) correct(id string, a disconnect.Attribution) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	for i := range o.all {
		if e := &o.all[i]; e.id == id && (e.ending.Reason != a.Reason || e.ending.Initiator != a.Initiator) {
			e.ending = a // the two ends of a link never use the same words for one thing
			return true
		}
	}
	return false
}

// heedVerdicts writes down how connections ended by all that was testified, where the
// agent has said something else. They may come again.
func (a *agent) heedVerdicts(all []*proto.Orders_Verdict) {
	for _, v := range all {
		id, err := uuid.FromBytes(v.GetId())
		ending := wire.ToAttribution(v.GetAttribution())
		if err != nil || ending.Reason == disconnect.Unknown {
			continue
		}
		if a.tombstones.correct(id.String(), ending) || a.ownEndings.correct(id.String(), ending) {
			ending.Log(a.hardCtx, a.logger, "ending corrected by the server's verdict", slog.String("connection_id", id.String()))
		}
	}
}

// linkEnded remembers what the agent says of the end of a control link, and returns what
// names it in a log line.
func (a *agent) linkEnded(link *control.Link, attr disconnect.Attribution) []slog.Attr {
	id := link.ConnectionID()
	a.ownEndings.add(id, attr)
	if id == "" {
		return nil
	}
	return []slog.Attr{slog.String("connection_id", id)}
}
