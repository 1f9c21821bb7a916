package connlog

import (
	"context"
	"encoding/json"
	"time"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/verdict"
	"fairlead.dev/fairlead/server/store"
)

// An end that dies takes its control link and its sessions with it. The server sees the
// link end, the other ends of the sessions hear nothing more: together they know, also when
// nobody comes back to tell.

// closeAbandoned closes, provisionally, a session whose agent is not heard and whose client
// testified that it has ended: nobody else may ever tell. An agent that comes back and has it
// opens it again. It reports whether it has closed it.
func closeAbandoned(ctx context.Context, tx *store.ConnTx, row *store.Connection, now time.Time) (closed bool, err error) {
	if row.Status != store.StatusUnheard || row.ConnectType != disconnect.AgentToClient {
		return false, nil
	}
	raw, err := tx.Reader().Testimonies(ctx, row.Key)
	if err != nil {
		return false, err
	}
	at, told := endedForClient(row, raw, now)
	if !told {
		return false, nil
	}
	closeRow(row, at, disconnect.Attribution{
		Reason: disconnect.NetworkTimeout, Initiator: disconnect.Network,
		Detail: "its client told that it had ended, and nothing was heard of the agent",
	})
	row.Provisional = true
	if _, _, err := rejudge(ctx, tx.Reader(), row, now); err != nil {
		return false, err
	}
	return true, tx.Update(ctx, row)
}

// endedForClient returns when a session ended by the testimony of its client, by the server's
// clock.
func endedForClient(row *store.Connection, raw []store.RawTestimony, now time.Time) (at time.Time, told bool) {
	for _, r := range raw {
		var t verdict.Testimony
		if r.Observer != disconnect.Client || r.Principal != row.User.ID || json.Unmarshal(r.Body, &t) != nil || t.Kind != verdict.Ending {
			continue
		}
		if at = now; !t.FirstNoticed.Wall.IsZero() {
			at = t.FirstNoticed.Wall.Add(time.Duration(t.Clock.Offset) * time.Microsecond)
		}
		if at.After(now) {
			at = now
		}
		return at, true
	}
	return at, false
}

// buryLinks judges anew the control links of ends that died, by the verdict on their sessions.
// It returns those that have another ending by that.
func buryLinks(ctx context.Context, tx *store.ConnTx, sessions []store.Connection, now time.Time) (changed []store.Connection, err error) {
	for i := range sessions {
		links, err := linksOfTheDead(ctx, tx.Reader(), &sessions[i])
		if err != nil {
			return nil, err
		}
		for j := range links {
			link := &links[j]
			if link.Status != store.StatusClosed || link.Judgement.Rule < verdict.R10 {
				continue
			}
			better, stored, err := rejudge(ctx, tx.Reader(), link, now)
			if err != nil {
				return nil, err
			}
			if better {
				link.Revision++
				changed = append(changed, *link)
			}
			if stored {
				if err := tx.Update(ctx, link); err != nil {
					return nil, err
				}
			}
		}
	}
	return changed, nil
}

// died reports whether, by the verdict on a session, that end of it died.
func died(session *store.Connection, end disconnect.Initiator) bool {
	return session.ConnectType == disconnect.AgentToClient && session.Status == store.StatusClosed &&
		session.Judgement.Rule == verdict.R3 && session.Ending.Reason == disconnect.PeerCrashed && session.Ending.Initiator == end
}

// linksOfTheDead are the control links of the end that died with a session.
func linksOfTheDead(ctx context.Context, log store.ConnReader, session *store.Connection) ([]store.Connection, error) {
	since := session.DisconnectedAt.Add(-lookBack)
	switch {
	case died(session, disconnect.Client) && session.Peer != "":
		return log.PeerRows(ctx, session.User.ID, session.Peer, disconnect.ClientToServer, since)
	case died(session, disconnect.Agent):
		links, err := log.AgentLinks(ctx, session.Workspace.ID, since)
		if err != nil {
			return nil, err
		}
		var own []store.Connection
		for _, link := range links {
			if link.Peer == session.Instance {
				own = append(own, link)
			}
		}
		return own, nil
	}
	return nil, nil
}

// diedWith are the sessions that were lost with a control link because the end that they
// share died.
func diedWith(ctx context.Context, log store.ConnReader, link *store.Connection, now time.Time) (all []verdict.Neighbour, err error) {
	since := link.DisconnectedAt.Add(-signSlack)
	end, sessions := disconnect.Client, []store.Connection(nil)
	if link.ConnectType == disconnect.ServerToAgent {
		end = disconnect.Agent
		sessions, err = log.EndedIn(ctx, link.Workspace.ID, since)
	} else if link.Peer != "" {
		sessions, err = log.PeerRows(ctx, link.User.ID, link.Peer, disconnect.AgentToClient, since)
	}
	if err != nil {
		return nil, err
	}
	for i := range sessions {
		s := &sessions[i]
		if !died(s, end) || end == disconnect.Agent && s.Instance != link.Peer {
			continue
		}
		raw, err := log.Testimonies(ctx, s.Key)
		if err != nil {
			return nil, err
		}
		v := Verdict(*s, raw, now)
		if v.Rule == verdict.R3 && !v.Noticed.IsZero() {
			all = append(all, verdict.Neighbour{ConnectionID: s.ID, Shares: end, From: v.Began, Until: v.Noticed, Closed: true})
		}
	}
	return all, nil
}
