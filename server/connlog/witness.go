package connlog

import (
	"context"
	"fmt"
	"slices"
	"time"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/verdict"
	"fairlead.dev/fairlead/server/store"
)

const (
	// justEnded is for how long what the server sees of a party still tells of a connection
	// that has ended: the ends of one event are noticed at different times.
	justEnded = 30 * time.Second
	// maxRemarks bounds what waits to be written; what comes then is not remarked.
	maxRemarks = 10_000
	// lostKept is for how long a lost link is remembered, to know the party again.
	lostKept = time.Hour
	// manyLost is how many lost links are remembered before the old ones are looked for.
	manyLost = 4096
)

// Party is who is at the other end of the server's control links.
type Party struct {
	Who disconnect.Initiator // agent or client
	ID  string               // of the agent's workspace, or of the client's user
	// Peer is the client's address inside the tailnet, by which its sessions are known.
	Peer string
}

// remark is what the server saw of a party, which tells of all that the party has open, or
// had a moment ago.
type remark struct {
	party Party
	at    time.Time
	facts []verdict.Fact
	link  string // id of the row of a control link that it tells of too
}

// lost is a control link that ended without a word.
type lost struct {
	link, instance string
	at             time.Time
}

// partyOf tells whose a control link is; its client may not be known yet.
func partyOf(row *store.Connection) Party {
	if row.ConnectType == disconnect.ServerToAgent {
		return Party{Who: disconnect.Agent, ID: row.Workspace.ID}
	}
	return Party{Who: disconnect.Client, ID: row.User.ID, Peer: row.Peer}
}

// known reports whether the party's connections can be found.
func (p Party) known() bool { return p.ID != "" && (p.Who == disconnect.Agent || p.Peer != "") }

// Saw takes note of what the server saw of a party. It does not wait.
func (l *Log) Saw(p Party, facts ...verdict.Fact) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sawLocked(remark{party: p, at: l.cfg.Now(), facts: facts})
}

func (l *Log) sawLocked(r remark) {
	if !r.party.known() || len(r.facts) == 0 || len(l.remarks) >= maxRemarks {
		return
	}
	l.remarks = append(l.remarks, r)
	tell(l.written)
}

// linkLostLocked remarks that the last control link of a party has ended without a word.
func (l *Log) linkLostLocked(r *LinkRow) {
	p := partyOf(&r.row)
	facts := lostFacts(p.Who, r.row.Word, r.row.DisconnectedAt)
	if len(facts) == 0 || !r.proved || len(l.byParty[p]) > 0 {
		return
	}
	if len(l.lost) >= manyLost {
		oldest := l.cfg.Now().Add(-lostKept)
		for p, was := range l.lost {
			if was.at.Before(oldest) {
				delete(l.lost, p)
			}
		}
	}
	l.lost[p] = lost{link: r.row.ID, instance: r.row.Peer, at: r.row.DisconnectedAt}
	l.sawLocked(remark{party: p, at: r.row.DisconnectedAt, facts: facts})
}

// linkBackLocked remarks that a party whose link was lost has another: the same life of it,
// or a new one.
func (l *Log) linkBackLocked(r *LinkRow) {
	p := partyOf(&r.row)
	was, ok := l.lost[p]
	if !ok {
		return
	}
	delete(l.lost, p)
	fact := verdict.Fact{Kind: verdict.HeardAgain, About: p.Who, Leg: legOf(p.Who), At: verdict.Moment{Wall: r.row.ConnectedAt}}
	if p.Who == disconnect.Agent && was.instance != r.row.Peer {
		fact.Kind, fact.Instance = verdict.NewInstance, r.row.Peer
	}
	l.sawLocked(remark{party: p, at: r.row.ConnectedAt, facts: []verdict.Fact{fact}, link: was.link})
}

// aliveLegs tells which control links of the ends of a session are open now, and until when
// something was heard over them.
func (l *Log) aliveLegs(row *store.Connection) (facts []verdict.Fact) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range []Party{{Who: disconnect.Agent, ID: row.Workspace.ID}, {Who: disconnect.Client, ID: row.User.ID, Peer: row.Peer}} {
		for link := range l.byParty[p] {
			fact := verdict.Fact{
				Kind: verdict.LegAlive, About: p.Who, Leg: legOf(p.Who),
				At: verdict.Moment{Wall: link.row.ConnectedAt}, Until: verdict.Moment{Wall: l.cfg.Now()},
			}
			if link.heard != nil {
				fact.Until.Wall = later(link.heard(), link.row.ConnectedAt)
			}
			facts = append(facts, fact)
		}
	}
	return facts
}

// enlistLocked makes a link that is open findable by its party.
func (l *Log) enlistLocked(r *LinkRow) {
	p := partyOf(&r.row)
	if l.byParty[p] == nil {
		l.byParty[p] = map[*LinkRow]bool{}
	}
	l.byParty[p][r] = true
	l.linkBackLocked(r)
}

func (l *Log) strikeLocked(r *LinkRow) {
	p := partyOf(&r.row)
	if delete(l.byParty[p], r); len(l.byParty[p]) == 0 {
		delete(l.byParty, p)
	}
}

// addAlive adds to what is testified of a session that has ended, and that nobody has
// explained, which control links of its ends live. It reports whether the row has another
// ending by that, which it counts if count.
func (l *Log) addAlive(ctx context.Context, tx *store.ConnTx, row *store.Connection, count bool) (better bool, err error) {
	if row.ConnectType != disconnect.AgentToClient || row.Status != store.StatusClosed || row.Judgement.Rule <= verdict.R2 {
		return false, nil
	}
	facts := l.aliveLegs(row)
	if len(facts) == 0 {
		return false, nil
	}
	now := l.cfg.Now()
	return hearOne(ctx, tx, row, byRemark(fmt.Sprintf("alive %d", now.UnixMicro()), time.Time{}, facts), now, count)
}

func byRemark(id string, at time.Time, facts []verdict.Fact) verdict.Testimony {
	return verdict.Testimony{ID: id, Observer: disconnect.Server, Kind: verdict.Remark, FirstNoticed: verdict.Moment{Wall: at}, Facts: facts}
}

// write adds the remark to all connections that it tells of, and returns those that have
// another ending by it.
func (r *remark) write(ctx context.Context, tx *store.ConnTx, now time.Time) (changed []store.Connection, err error) {
	rows, err := r.about(ctx, tx)
	if err != nil {
		return nil, err
	}
	word := byRemark(fmt.Sprintf("%s %d", r.facts[0].Kind, r.at.UnixMicro()), r.at, r.facts)
	for i := range rows {
		better, err := revise(ctx, tx, &rows[i], word, now)
		if err != nil {
			return nil, err
		}
		if better {
			changed = append(changed, rows[i])
		}
	}
	return changed, nil
}

func (r *remark) about(ctx context.Context, tx *store.ConnTx) (rows []store.Connection, err error) {
	since := r.at.Add(-justEnded)
	if r.party.Who == disconnect.Agent {
		if rows, err = tx.Live(ctx, r.party.ID, disconnect.AgentToClient); err != nil {
			return nil, err
		}
		ended, err := tx.Reader().EndedIn(ctx, r.party.ID, since)
		if err != nil {
			return nil, err
		}
		rows = append(rows, ended...)
	} else if rows, err = tx.Reader().PeerRows(ctx, r.party.ID, r.party.Peer, disconnect.AgentToClient, since); err != nil {
		return nil, err
	}
	if r.link != "" {
		links, err := tx.Reader().ByID(ctx, r.link)
		if err != nil {
			return nil, err
		}
		rows = append(rows, slices.DeleteFunc(links, func(c store.Connection) bool { return c.Status != store.StatusClosed })...)
	}
	return rows, nil
}
