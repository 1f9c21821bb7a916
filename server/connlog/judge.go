package connlog

import (
	"context"
	"encoding/json"
	"time"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/verdict"
	"fairlead.dev/fairlead/server/store"
)

const (
	// lookBack is for how long before the end of a connection the links of its two ends are
	// looked at: a session ends by silence half an hour after that began.
	lookBack = time.Hour
	// unheardFor is for how long a control link that is lost by silence may have been silent.
	unheardFor = 20 * time.Second
)

// Judge judges a row by all that was testified of it, and says how much that is.
func Judge(ctx context.Context, log store.ConnReader, row store.Connection, now time.Time) (v verdict.Verdict, testimonies int, err error) {
	raw, err := log.Testimonies(ctx, row.Key)
	if err != nil {
		return v, 0, err
	}
	about := contextOf(&row, now)
	if v = judged(&row, raw, about); v.Final || row.Status != store.StatusClosed {
		return v, len(raw), nil
	}
	if err := surround(ctx, log, &row, &about); err != nil {
		return v, 0, err
	}
	return judged(&row, raw, about), len(raw), nil
}

// Verdict is Judge without a look at who can still speak, and at other connections.
func Verdict(row store.Connection, raw []store.RawTestimony, now time.Time) verdict.Verdict {
	return judged(&row, raw, contextOf(&row, now))
}

// rejudge puts the verdict on a row that is closed into it. It reports whether that gave
// it another ending, and whether there is anything to store.
func rejudge(ctx context.Context, log store.ConnReader, row *store.Connection, now time.Time) (better, changed bool, err error) {
	v, testimonies, err := Judge(ctx, log, *row, now)
	if err != nil || testimonies == 0 {
		return false, false, err
	}
	was := *row
	row.Ending = v.Attribution
	row.Judgement = store.Judgement{
		Judged: true, Locus: v.Locus, Rule: v.Rule, Evidence: v.Evidence, Confidence: v.Confidence, Observer: v.Observer, Waits: !v.Final,
	}
	better = row.Ending != was.Ending
	return better, better || row.Judgement != was.Judgement, nil
}

// contextOf is what the row itself says to the judge.
func contextOf(row *store.Connection, now time.Time) verdict.Context {
	return verdict.Context{
		ConnectionID: row.ID, ConnectType: row.ConnectType, Opened: row.ConnectedAt, Now: now,
		Principals: map[disconnect.Initiator]string{disconnect.Agent: row.Workspace.ID, disconnect.Client: row.User.ID},
		RelayOwner: disconnect.Server,
	}
}

// judged judges by testimonies as they came. Where nothing of that says more than what the
// transports said, and where the server's word ended it, the verdict is the word that
// closed the row.
func judged(row *store.Connection, raw []store.RawTestimony, about verdict.Context) verdict.Verdict {
	all := make([]verdict.Testimony, 0, len(raw))
	for _, r := range raw {
		var t verdict.Testimony
		if json.Unmarshal(r.Body, &t) == nil { // of a newer version, perhaps
			all = append(all, t)
		}
	}
	v := verdict.Judge(all, about)
	v.Revision = row.Revision
	if row.Status != store.StatusClosed {
		return v
	}
	word := row.Word
	switch {
	case v.Kind != verdict.Ending, v.Rule >= verdict.R10:
		v.Attribution = word
	case word.Initiator == disconnect.Server && v.Reason != word.Reason:
		v.Attribution, v.Rule, v.Locus = word, verdict.R2, ""
		v.Evidence, v.Confidence, v.Observer = disconnect.EvidenceDeclared, disconnect.ConfidenceCertain, disconnect.Server
		v.Final, v.Waiting = true, nil
	}
	v.Kind = verdict.Ending
	return v
}

// surround adds who can still speak, and the control links of both ends.
func surround(ctx context.Context, log store.ConnReader, row *store.Connection, about *verdict.Context) error {
	agent, client, err := log.CanSpeak(ctx, row.Workspace.ID, row.User.ID)
	if err != nil {
		return err
	}
	about.Expect = []disconnect.Initiator{}
	if agent && row.ConnectType != disconnect.ClientToServer {
		about.Expect = append(about.Expect, disconnect.Agent)
	}
	// A client knows of its control links, sessions and terminals, and of no forward.
	knows := row.Type == store.TypeSSH || row.Type == store.TypeReconnectingPTY || row.Type == store.TypeControl
	if client && knows && row.ConnectType != disconnect.ServerToAgent {
		about.Expect = append(about.Expect, disconnect.Client)
	}
	if row.ConnectType != disconnect.AgentToClient {
		about.Neighbours, err = diedWith(ctx, log, row, about.Now)
		return err
	}
	since := row.DisconnectedAt.Add(-lookBack)
	links, err := log.AgentLinks(ctx, row.Workspace.ID, since)
	if err != nil {
		return err
	}
	about.Neighbours = neighbours(links, disconnect.Agent)
	if row.Peer == "" {
		return nil
	}
	if links, err = log.PeerRows(ctx, row.User.ID, row.Peer, disconnect.ClientToServer, since); err != nil {
		return err
	}
	about.Neighbours = append(about.Neighbours, neighbours(links, disconnect.Client)...)
	return nil
}

// neighbours tells what became of control links of one end. Those that are open now are
// not among them: the server testifies when it last heard of them.
func neighbours(links []store.Connection, end disconnect.Initiator) (all []verdict.Neighbour) {
	for i := range links {
		link := &links[i]
		if link.Status != store.StatusClosed {
			continue
		}
		alive := verdict.Neighbour{ConnectionID: link.ID, Shares: end, Alive: true, From: link.ConnectedAt, Until: link.DisconnectedAt}
		facts := lostFacts(end, link.Word, link.DisconnectedAt)
		if len(facts) > 0 {
			lost := verdict.Neighbour{ConnectionID: link.ID, Shares: end, From: link.DisconnectedAt, Until: link.DisconnectedAt}
			if facts[0].Kind == verdict.HeartbeatSilence {
				lost.From = link.DisconnectedAt.Add(-unheardFor)
			}
			all, alive.Until = append(all, lost), lost.From
		}
		if alive.From.Before(alive.Until) {
			all = append(all, alive)
		}
	}
	return all
}
