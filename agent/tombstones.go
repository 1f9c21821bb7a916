package agent

import (
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"time"

	pb "google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"fairlead.dev/fairlead/agent/proto"
	"fairlead.dev/fairlead/clock"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/wire"
	"fairlead.dev/fairlead/journal"
)

const (
	// tombstoneAge is how long the agent can tell a client how a connection ended.
	tombstoneAge = 24 * time.Hour
	// maxTombstones bounds them, of all clients. The oldest go first.
	maxTombstones = 2000
	// maxTombstoneBytes bounds their journal.
	maxTombstoneBytes = 4 << 20
)

// tombstones are how connections ended lately, for clients that were away: also those of
// a former life of the agent, for a laptop sleeps longer than an upgrade takes. All
// methods are safe for concurrent use; none waits for the disk.
type tombstones struct {
	journal *journal.Journal // nil: memory only

	mu  sync.Mutex // guards all
	all []grave    // the oldest first
}

type grave struct {
	*proto.CompanionTombstone
	client netip.Addr
	record uint64
}

// openTombstones takes over what the former life left. Without a record on disk the
// agent goes on in memory.
func openTombstones(dir string, logger *slog.Logger) *tombstones {
	t := &tombstones{}
	j, left, err := journal.Open(filepath.Join(dir, "tombstones"), journal.Options{Logger: logger, MaxBytes: maxTombstoneBytes})
	if err != nil {
		logger.Warn("how connections ended is remembered in memory only", "error", err)
		return t
	}
	t.journal = j
	for _, rec := range left.Records {
		stone := new(proto.CompanionTombstone)
		err := pb.Unmarshal(rec.Data, stone)
		client, ok := netip.AddrFromSlice(stone.GetClient())
		if err != nil || !ok {
			_ = j.Release(rec.Seq) // another version's
			continue
		}
		t.all = append(t.all, grave{CompanionTombstone: stone, client: client, record: rec.Seq})
	}
	return t
}

// add remembers how a connection ended; a negative exit code means that there is none.
func (t *tombstones) add(client netip.AddrPort, id string, a disconnect.Attribution, exitCode int) {
	stone := &proto.CompanionTombstone{
		ConnectionId: id, ClientPort: uint32(client.Port()), Attribution: wire.FromAttribution(a),
		EndedAt: timestamppb.New(clock.Now()), Client: client.Addr().AsSlice(),
	}
	if exitCode >= 0 {
		code := int32(exitCode)
		stone.ExitCode = &code
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.forgetLocked()
	t.all = append(t.all, grave{CompanionTombstone: stone, client: client.Addr(), record: t.recordLocked(stone)})
}

// correct replaces how a connection ended, and reports whether that was said differently.
func (t *tombstones) correct(id string, a disconnect.Attribution) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range t.all {
		g := &t.all[i]
		if g.GetConnectionId() != id || wire.ToAttribution(g.GetAttribution()) == a {
			continue
		}
		stone := pb.CloneOf(g.CompanionTombstone) // others read the old one
		stone.Attribution = wire.FromAttribution(a)
		former := g.record
		g.CompanionTombstone = stone
		g.record = t.recordLocked(stone)
		if t.journal != nil {
			_ = t.journal.Release(former) // as the record, best effort
		}
		return true
	}
	return false
}

// recordLocked writes a stone to the disk; what that refuses stays in memory.
func (t *tombstones) recordLocked(stone *proto.CompanionTombstone) (record uint64) {
	if t.journal == nil {
		return 0
	}
	if data, err := pb.Marshal(stone); err == nil {
		record, _ = t.journal.Append(data) // the bounds suffice
	}
	return record
}

// forgetLocked drops what is too old, and makes room for one.
func (t *tombstones) forgetLocked() {
	drop := max(0, len(t.all)-maxTombstones+1)
	for drop < len(t.all) && clock.Now().Sub(t.all[drop].GetEndedAt().AsTime()) > tombstoneAge {
		drop++
	}
	var gone []uint64
	for _, g := range t.all[:drop] {
		gone = append(gone, g.record)
	}
	t.all = slices.Delete(t.all, 0, drop)
	if t.journal != nil && len(gone) > 0 {
		_ = t.journal.Release(gone...)
	}
}

// of returns those of one client, the newest first.
func (t *tombstones) of(client netip.Addr) (stones []*proto.CompanionTombstone) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, g := range slices.Backward(t.all) {
		if g.client == client && clock.Now().Sub(g.GetEndedAt().AsTime()) <= tombstoneAge {
			stones = append(stones, g.CompanionTombstone)
		}
	}
	return stones
}

func (t *tombstones) close() error {
	if t.journal == nil {
		return nil
	}
	return t.journal.Close()
}
