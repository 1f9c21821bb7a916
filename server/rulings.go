package server

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"fairlead.dev/fairlead/agent/proto"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/wire"
	"fairlead.dev/fairlead/server/store"
)

const (
	// rulingsKept is for how long an agent is told of a verdict: it may be away.
	rulingsKept = time.Hour
	// maxRulings bounds those of one workspace; the newest stay.
	maxRulings = 256
)

// rulings are how connections ended by all that was testified, where that is not what
// their agent said: it is told, so that its record says the same. They are in memory only;
// the log has them for ever. All methods are safe for concurrent use.
type rulings struct {
	now func() time.Time

	mu  sync.Mutex          // guards all
	all map[string][]ruling // by workspace id, the oldest first
}

type ruling struct {
	id     uuid.UUID
	ending disconnect.Attribution
	at     time.Time
}

// changed takes note of a row of the log, and reports whether its agent is to be told.
func (v *rulings) changed(c store.Connection) bool {
	id, err := uuid.Parse(c.ID)
	if err != nil || c.Workspace.ID == "" || c.Status != store.StatusClosed || c.Provisional {
		return false
	}
	// Of its own link an agent may have judged otherwise than even the word that closed the row.
	ownLink := c.ConnectType == disconnect.ServerToAgent && !c.Ending.Expected()
	if c.Ending == c.Word && c.Revision == 0 && !ownLink {
		return false
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.all == nil {
		v.all = make(map[string][]ruling)
	}
	kept := slices.DeleteFunc(v.keptLocked(c.Workspace.ID), func(old ruling) bool { return old.id == id })
	kept = append(kept, ruling{id, c.Ending, v.now()})
	v.all[c.Workspace.ID] = kept[max(0, len(kept)-maxRulings):]
	return true
}

// of returns what an agent is to be told.
func (v *rulings) of(workspaceID string) (out []*proto.Orders_Verdict) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, k := range v.keptLocked(workspaceID) {
		out = append(out, &proto.Orders_Verdict{Id: k.id[:], Attribution: wire.FromAttribution(k.ending)})
	}
	return out
}

// keptLocked drops what is too old.
func (v *rulings) keptLocked(workspaceID string) []ruling {
	all := v.all[workspaceID]
	i, _ := slices.BinarySearchFunc(all, v.now().Add(-rulingsKept), func(k ruling, oldest time.Time) int {
		return cmp.Compare(k.at.UnixNano(), oldest.UnixNano())
	})
	if all = slices.Delete(all, 0, i); len(all) == 0 {
		delete(v.all, workspaceID)
	}
	return all
}
