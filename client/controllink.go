package client

import (
	"context"
	"time"

	"fairlead.dev/fairlead/companion"
	"fairlead.dev/fairlead/control"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/verdict"
)

// linkQuiet is the silence on a control link from which a person would be told: two of its
// heartbeats.
const linkQuiet = 8 * time.Second

// follow keeps a record of a control link, and testifies of its end. Call it in the order
// of dialling; Close waits for what it starts.
func (c *Client) follow(link *control.Link) {
	records, id := c.options.Records, link.ConnectionID()
	if records == nil || id == "" {
		return
	}
	c.tasks.Go(func() { records.keep(id, linkRecord, link.Done()) })
	c.tasks.Go(func() {
		<-link.Done() // the controller ends each link that it was given
		t := linkTestimony(link.Ending(), link.LastHeard(), companion.Moment())
		if t == nil {
			return
		}
		t.Instance = c.options.Instance
		ctx, cancel := context.WithTimeout(context.Background(), testifyWait)
		defer cancel()
		records.deliver(ctx, id, t)
	})
}

// linkTestimony is what the client saw of the end of its control link; nil: nothing that
// the server does not know, which heard the goodbye or said it.
func linkTestimony(ending control.Ending, heard time.Time, noticed verdict.Moment) *verdict.Testimony {
	silence := time.Since(heard)
	silent := silence > linkQuiet
	if ending.Goodbye && !silent && !ofNetwork(ending.Reason) || ending.Reason == disconnect.Unknown {
		return nil
	}
	t := newTestimony("ended", disconnect.ClientToServer)
	t.Account, t.Evidence = ending.Attribution, restsOn(ending.Attribution)
	switch {
	case ending.Goodbye:
	case ending.Reason == disconnect.SlowPeer || ending.Reason == disconnect.ProtocolError:
		t.Evidence = disconnect.EvidenceLocal
	case ending.Initiator != disconnect.Client:
		t.Evidence = disconnect.EvidenceInferred
	}
	t.LastGood, t.FirstNoticed = before(noticed, silence), noticed
	about := verdict.Fact{About: disconnect.Server, At: noticed}
	switch {
	case ending.Goodbye && ending.Initiator == disconnect.Client:
		about.Kind, about.Cause = verdict.GoodbyeSent, ending.Attribution
	case ending.Goodbye:
		about.Kind, about.Cause = verdict.GoodbyeReceived, ending.Attribution
	case ending.Reason == disconnect.NetworkError:
		about.Kind = verdict.SocketClosed
	case ending.Reason == disconnect.ConnectionReset:
		about.Kind = verdict.SocketReset
	}
	if about.Kind != 0 {
		t.Facts = append(t.Facts, about)
	}
	if silent {
		t.FirstNoticed = before(noticed, silence-linkQuiet)
		t.Facts = append(t.Facts, verdict.Fact{Kind: verdict.HeartbeatSilence, About: disconnect.Server, At: t.LastGood})
	}
	if ending.Reason == disconnect.PeerUnresponsive {
		t.Facts = append(t.Facts, verdict.Fact{Kind: verdict.ProbeAnswered, About: disconnect.Server, At: noticed})
	}
	return t
}

// ofNetwork reports whether a reason says that somebody lost touch, and not why.
func ofNetwork(r disconnect.Reason) bool {
	switch r {
	case disconnect.NetworkError, disconnect.NetworkTimeout, disconnect.ConnectionReset, disconnect.NetworkUnreachable:
		return true
	}
	return false
}

// before is a moment by so much earlier.
func before(m verdict.Moment, d time.Duration) verdict.Moment {
	return verdict.Moment{Wall: m.Wall.Add(-d), Mono: max(m.Mono-d.Microseconds(), 1)}
}
