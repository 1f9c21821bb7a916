package connlog

import (
	"context"
	"slices"
	"time"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/verdict"
	"fairlead.dev/fairlead/server/store"
)

// Incident is the event that a connection was lost by together with others.
type Incident struct {
	verdict.Incident
	// Connections are those of the incident, this one among them.
	Connections []store.Connection
}

// IncidentOf returns the event that row was lost by together with others, by the verdict on
// it and on the others as it is now; nil if it was lost alone, or was not lost.
func IncidentOf(ctx context.Context, log store.ConnReader, row store.Connection, v verdict.Verdict, now time.Time) (*Incident, error) {
	if row.Status != store.StatusClosed || !verdict.Shareable(row.Ending.Reason) {
		return nil, nil
	}
	own := lossOf(&row, v)
	near, err := log.LostBetween(ctx, own.Verdict.Began, own.Verdict.Noticed.Add(lookBack), shared)
	if err != nil {
		return nil, err
	}
	byID := map[string]store.Connection{row.ID: row}
	losses := []verdict.Loss{own}
	for i := range near {
		other := &near[i]
		if other.ID == row.ID || !haveInCommon(own.Elements, elementsOf(other)) {
			continue
		}
		raw, err := log.Testimonies(ctx, other.Key)
		if err != nil {
			return nil, err
		}
		byID[other.ID] = *other
		losses = append(losses, lossOf(other, Verdict(*other, raw, now)))
	}
	if len(losses) < 2 {
		return nil, nil
	}
	alive, err := aliveAround(ctx, log, own.Verdict)
	if err != nil {
		return nil, err
	}
	for _, in := range verdict.Incidents(losses, alive) {
		if !slices.Contains(in.Connections, row.ID) {
			continue
		}
		found := &Incident{Incident: in}
		for _, id := range in.Connections {
			found.Connections = append(found.Connections, byID[id])
		}
		return found, nil
	}
	return nil, nil
}

// shared are the reasons of what an event may do to several connections.
var shared = slices.DeleteFunc(disconnect.Reasons(), func(r disconnect.Reason) bool { return !verdict.Shareable(r) })

// lossOf is a row with the verdict on it. Whoever did not say when the trouble began says
// how it was noticed: an error at once, silence after a while.
func lossOf(row *store.Connection, v verdict.Verdict) verdict.Loss {
	v.ConnectionID, v.Attribution, v.Locus = row.ID, row.Ending, row.Judgement.Locus
	if v.Noticed.IsZero() || v.Noticed.After(row.DisconnectedAt) {
		v.Noticed = row.DisconnectedAt
	}
	if v.Began.IsZero() || v.Began.After(v.Noticed) {
		v.Began = v.Noticed
		if v.Reason == disconnect.NetworkTimeout || v.Reason == disconnect.PeerUnresponsive {
			v.Began = v.Noticed.Add(-unheardFor)
		}
	}
	return verdict.Loss{Verdict: v, Elements: elementsOf(row)}
}

// elementsOf is what a connection needed, by names that no two of a kind share.
func elementsOf(row *store.Connection) (all []verdict.Element) {
	if row.ConnectType != disconnect.ClientToServer && row.Workspace.ID != "" {
		all = append(all, verdict.Element{Kind: verdict.AgentElement, Name: row.Workspace.ID})
	}
	if row.ConnectType != disconnect.ServerToAgent && row.Peer != "" {
		all = append(all, verdict.Element{Kind: verdict.ClientElement, Name: row.User.ID + " " + row.Peer})
	}
	switch {
	case row.Path == store.PathRelay:
		all = append(all, verdict.Element{Kind: verdict.RelayElement})
	case row.Type == store.TypeControl:
		all = append(all, verdict.Element{Kind: verdict.ServerElement, Name: row.Instance})
	}
	if row.IP != "" && row.ConnectType != disconnect.ServerToAgent {
		all = append(all, verdict.Element{Kind: verdict.PathElement, Name: row.IP})
	}
	return all
}

func haveInCommon(a, b []verdict.Element) bool {
	return slices.ContainsFunc(a, func(e verdict.Element) bool { return slices.Contains(b, e) })
}

// aliveAround returns the elements of connections that worked through the time of a loss.
func aliveAround(ctx context.Context, log store.ConnReader, v verdict.Verdict) ([]verdict.Element, error) {
	rows, err := log.LivedThrough(ctx, v.Began, v.Noticed.Add(unheardFor))
	if err != nil {
		return nil, err
	}
	seen := map[verdict.Element]bool{}
	var alive []verdict.Element
	for i := range rows {
		for _, e := range elementsOf(&rows[i]) {
			if !seen[e] {
				seen[e], alive = true, append(alive, e)
			}
		}
	}
	return alive, nil
}
