package companion

import (
	"net/netip"
	"slices"
	"time"
)

const (
	// goneAfter is for how long an agent's machine must have said that nothing listens where
	// the agent was, with no word of the agent meanwhile, until the agent counts as gone. One
	// that lives and lost its control link is back at the server long before.
	goneAfter = 30 * time.Second
	// knockEvery is how often the machine is asked.
	knockEvery = 5 * time.Second
	// crossing is by how much a heartbeat may arrive later than the server's word that its
	// sender has died meanwhile.
	crossing = 2 * time.Second
	// maxAddresses bounds the addresses in a hello.
	maxAddresses = 32
)

// grave is what the agent's machine answered when it was asked, by the boot clock. Both are
// zero when it did not answer the last time.
type grave struct {
	first, last time.Duration
}

// since is for how long the machine has been saying, every time, that the agent is gone.
func (g grave) since() time.Duration { return g.last - g.first }

// knock asks the agent's machine whether anything listens where the agent was, while there
// is reason to doubt it. A dead path gives no answer, and an agent behind one may live.
func (w *Watch) knock() {
	tick := time.NewTicker(knockEvery)
	defer tick.Stop()
	for {
		select {
		case <-w.done:
			return
		case <-tick.C:
		}
		address := w.doubted()
		refused := address != "" && w.config.Refused(w.ctx, address)
		w.mu.Lock()
		now := w.config.Clock().Boot
		switch {
		case !refused:
			w.grave = grave{}
		case w.grave.first == 0 || w.vigil.heard.Boot > w.grave.first:
			w.grave = grave{first: now, last: now}
		default:
			w.grave.last = now
		}
		w.mu.Unlock()
		nudge(w.recheck)
	}
}

// doubted returns the agent's UDP address if an answer from there means something; ""
// otherwise. It does when all of this holds:
//
//   - The kernel closed the agent's control socket, by the server's word, and within the
//     same moment the agent fell silent. A proxy may close the socket of an agent that
//     lives; such an agent is heard on, unless the proxy's machine is also its path.
//   - The address is the one by which the agent was last heard: any other may be somebody
//     else's.
//   - It is one of the agent's own interfaces. The address of a router that forwards the
//     agent's port answers in the same way once the mapping is lost, while the agent lives
//     behind it. So nothing is asked about an agent behind a NAT, its cloud's included.
//   - The silence is not this host's own doing: in another network the address may be
//     another machine's.
//
// What remains is a living agent that lost its control socket and its UDP socket in one
// moment, while its machine runs on: only its own process can close either.
func (w *Watch) doubted() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	v, now := w.vigil, w.config.Clock()
	p, known := w.presences[w.instance]
	if !known || !p.closed() || v.silence(now) < staleBeats*v.beat ||
		p.at < v.heard.Boot-crossing || p.at > v.heard.Boot+v.onset() {
		return ""
	}
	if _, own := v.own(now); own || v.way.stable.Relayed {
		return ""
	}
	at, err := netip.ParseAddrPort(v.way.stable.Via)
	if err != nil || !slices.Contains(w.addresses, at.Addr().Unmap()) {
		return ""
	}
	return v.way.stable.Via
}

// addressTexts is how a hello carries addresses.
func addressTexts(all []netip.Addr) (texts []string) {
	for _, a := range all[:min(len(all), maxAddresses)] {
		texts = append(texts, a.String())
	}
	return texts
}

// usableAddresses returns what of a hello's addresses are some.
func usableAddresses(texts []string) (all []netip.Addr) {
	for _, text := range texts[:min(len(texts), maxAddresses)] {
		if a, err := netip.ParseAddr(text); err == nil {
			all = append(all, a.Unmap())
		}
	}
	return all
}
