package tailnet

import (
	"context"
	"log/slog"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	"tailscale.com/tailcfg"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/tailnet/proto"
)

const (
	// relayProbe is how often a relay that is out of reach is dialled, to learn that it
	// is back; relayProbeTimeout bounds one such dial.
	relayProbe        = 10 * time.Second
	relayProbeTimeout = 5 * time.Second
	// outOfReach is the factor by which the latency of a relay out of reach counts.
	outOfReach = 1e6
)

// homeKeeper sees to it that the node's home is a relay that it can reach. The engine
// alone would stay at a dead one for half a minute: it believes in a region that it
// has heard of lately, and in one whose STUN answers.
type homeKeeper struct {
	probe  time.Duration   // relayProbe, shorter in tests
	events chan relayEvent // from the shim
	moved  chan struct{}   // of size 1: the engine chose another home

	mu     sync.Mutex // guards engine
	engine int        // the home that the engine chose last

	// Guarded by Node.change:
	regions     map[int]*proto.DERPRegion // in the map, as the server sent them
	stunHost    string                    // for those that name none
	derpMap     *tailcfg.DERPMap          // the engine's, without what down adds to it
	down        map[int]bool              // regions out of reach
	coordinated bool
}

// relayEvent is what the shim says of a region.
type relayEvent struct {
	region  int32
	reached bool
}

func newHomeKeeper() *homeKeeper {
	return &homeKeeper{
		probe: relayProbe, events: make(chan relayEvent, 64), moved: make(chan struct{}, 1), down: make(map[int]bool),
	}
}

// turned takes the shim's word. It does not block: what does not fit is said again.
func (h *homeKeeper) turned(region int32, reached bool) {
	select {
	case h.events <- relayEvent{region, reached}:
	default:
	}
}

// engineMoved takes the engine's choice of another home. It does not block.
func (h *homeKeeper) engineMoved(region int) {
	h.mu.Lock()
	h.engine = region
	h.mu.Unlock()
	select {
	case h.moved <- struct{}{}:
	default:
	}
}

func (h *homeKeeper) engineHome() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.engine
}

// usable reports whether a region is in the map and not out of reach.
func (h *homeKeeper) usable(region int) bool {
	return h.derpMap != nil && h.derpMap.Regions[region] != nil && !h.down[region]
}

// first returns the usable region with the lowest id, or else the lowest id; 0: the
// map is empty.
func (h *homeKeeper) first() int {
	if h.derpMap == nil {
		return 0
	}
	ids := slices.Sorted(maps.Keys(h.derpMap.Regions))
	if i := slices.IndexFunc(ids, h.usable); i >= 0 {
		return ids[i]
	}
	if len(ids) > 0 {
		return ids[0]
	}
	return 0
}

// scored is the engine's map, in which regions out of reach are the last to be chosen.
// That is no change of a region, which would cost its connection.
func (h *homeKeeper) scored() *tailcfg.DERPMap {
	if len(h.down) == 0 {
		return h.derpMap
	}
	dm := *h.derpMap
	scores := make(map[int]float64)
	if dm.HomeParams != nil {
		maps.Copy(scores, dm.HomeParams.RegionScore)
	}
	for id := range h.down {
		scores[id] = outOfReach
	}
	dm.HomeParams = &tailcfg.DERPHomeParams{RegionScore: scores}
	return &dm
}

// replace takes a new map, and forgets what was known of regions that are not in it as
// they were.
func (h *homeKeeper) replace(m *proto.DERPMap, dm *tailcfg.DERPMap) {
	regions := make(map[int]*proto.DERPRegion)
	for _, r := range m.GetRegions() {
		regions[int(r.GetId())] = r
	}
	for id := range h.down {
		if dm == nil || dm.Regions[id] == nil || regions[id].GetRelayUrl() != h.regions[id].GetRelayUrl() {
			delete(h.down, id)
		}
	}
	h.regions, h.derpMap = regions, dm
}

// keepHome runs until ctx ends.
func (n *Node) keepHome(ctx context.Context) {
	tick := time.NewTicker(n.home.probe)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-n.home.events:
			n.relayTurned(int(e.region), e.reached)
		case <-n.home.moved:
			n.followEngine()
		case <-tick.C:
			n.probeRelays(ctx)
		}
	}
}

// relayTurned notes that a relay is out of reach, or back. A home is left only while
// the server is there: nobody would learn of it otherwise, and a server that restarts
// takes its own relay with it for a moment.
func (n *Node) relayTurned(region int, reached bool) {
	n.change.Lock()
	defer n.change.Unlock()
	h := n.home
	if n.closed.Load() || h.derpMap == nil || h.derpMap.Regions[region] == nil || h.down[region] != reached {
		return
	}
	if !reached && (!h.coordinated || len(h.derpMap.Regions) < 2) {
		return
	}
	if reached {
		delete(h.down, region)
	} else {
		h.down[region] = true
	}
	home := n.self.homeRegion()
	if !h.usable(home) {
		home = h.first()
	}
	n.logger.Info("relay region turned", slog.Int("region", region), slog.Bool("reached", reached), slog.Int("home", home))
	n.engine.setRelays(h.scored(), home)
	n.self.setHome(home)
}

// followEngine takes the engine's choice of a home, or corrects it.
func (n *Node) followEngine() {
	n.change.Lock()
	defer n.change.Unlock()
	if n.closed.Load() || n.home.derpMap == nil {
		return
	}
	home := n.home.engineHome()
	if !n.home.usable(home) && n.home.usable(n.home.first()) {
		home = n.home.first()
		n.engine.setRelays(n.home.scored(), home)
	}
	if n.home.derpMap.Regions[home] != nil {
		n.self.setHome(home)
	}
}

// probeRelays dials the regions out of reach, and waits for the results.
func (n *Node) probeRelays(ctx context.Context) {
	n.change.Lock()
	var down []*proto.DERPRegion
	for id := range n.home.down {
		down = append(down, n.home.regions[id])
	}
	n.change.Unlock()
	ctx, cancel := context.WithTimeout(ctx, relayProbeTimeout)
	defer cancel()
	var dials sync.WaitGroup
	for _, region := range down {
		dials.Go(func() {
			if conn, err := n.opts.DialRelay(ctx, region); err == nil {
				hangUp(conn)
				n.home.turned(region.GetId(), true)
			}
		})
	}
	dials.Wait()
}

// hangUp closes a relay connection that was only opened to see whether it opens.
func hangUp(conn net.Conn) {
	leaving := disconnect.Goodbye{Reason: disconnect.Graceful, Initiator: disconnect.Client, Detail: "only a look whether the relay is back"}
	c, ok := conn.(*relayConn)
	if !ok {
		_ = conn.Close()
		return
	}
	leaving.Initiator = c.self
	_ = c.CloseWith(leaving.CloseCode())
}
