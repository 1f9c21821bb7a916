package client

import (
	"context"
	"fmt"
	"time"

	"fairlead.dev/fairlead/clock"
	"fairlead.dev/fairlead/companion"
	"fairlead.dev/fairlead/control"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/verdict"
)

// linkQuiet is the silence on a control link from which a person would be told: two of its
// heartbeats.
const linkQuiet = 8 * time.Second

// linkLate is the silence on a control link that a heartbeat has ended unless something is
// wrong.
const linkLate = 5 * time.Second

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
		ending, noticed := link.Ending(), companion.Moment()
		ending.Attribution = c.explain(ending.Attribution, link.LastHeard())
		t := linkTestimony(ending, link.LastHeard(), noticed)
		if t == nil {
			return
		}
		t.Instance = c.options.Instance
		t.Facts = append(t.Facts, c.host.Facts(before(noticed, max(time.Since(link.LastHeard()), linkQuiet)).Wall)...)
		ctx, cancel := context.WithTimeout(context.Background(), testifyWait)
		defer cancel()
		records.deliver(ctx, id, t)
	})
}

// serverSilent reports whether the server is not heard now.
func (c *Client) serverSilent() bool {
	link := c.link.Load()
	return link != nil && time.Since(link.LastHeard()) > linkLate
}

// linkTestimony is what the client saw of the end of its control link; nil: nothing that
// the server does not know, which heard the goodbye or said it.
func linkTestimony(ending control.Ending, heard time.Time, noticed verdict.Moment) *verdict.Testimony {
	silence := time.Since(heard)
	silent := silence > linkQuiet
	if ending.Goodbye && !silent && !lostTouch(ending.Reason) || ending.Reason == disconnect.Unknown {
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

// explain says why a control link ended, or is left, on which bytes last came at heard: as
// a says, unless this machine knows that it slept, or that its own network was down. Who
// leaves over a link that is dead did not end it.
func (c *Client) explain(a disconnect.Attribution, heard time.Time) disconnect.Attribution {
	now := time.Now()
	left := a.Reason == disconnect.ClientClosed && a.Initiator == disconnect.Client
	silence := now.Sub(heard)
	if !left && !ofNetwork(a.Reason) || left && silence <= linkLate {
		return a
	}
	since := heard
	if recently := now.Add(-linkQuiet); recently.Before(since) && !left {
		since = recently // the server has said something since: that it had given us up
	}
	own, known := ownDoing(c.host.Facts(since), clock.Now().Add(-silence), left)
	switch {
	case known:
		return own.On(disconnect.ClientToServer)
	case left && silence > control.Silence:
		return disconnect.Attribution{
			ConnectType: disconnect.ClientToServer, Reason: disconnect.NetworkTimeout, Initiator: disconnect.Network,
			Detail: fmt.Sprintf("nothing heard from the server for %v when the client left", silence.Round(time.Second)),
		}
	}
	return a
}

// ownDoing is what of this machine's own facts ended a connection on which bytes last came
// at heard: it slept, it did not run this process, or its network was down. still: only
// what is so now.
func ownDoing(facts []verdict.Fact, heard time.Time, still bool) (own disconnect.Attribution, known bool) {
	for _, f := range facts {
		lasts := f.Until.IsZero()
		if f.At.Wall.After(heard.Add(linkQuiet)) || still && !lasts || lasts && f.At.Wall.Before(heard.Add(-linkQuiet)) {
			continue // it came later, is over, or did not keep bytes from coming
		}
		lasted := f.Until.Wall.Sub(f.At.Wall).Round(time.Second)
		switch f.Kind {
		case verdict.Slept:
			return disconnect.Attribution{Reason: disconnect.Suspended, Initiator: disconnect.Client,
				Detail: fmt.Sprintf("the client's machine slept for %v", lasted)}, true
		case verdict.TimerLate:
			return disconnect.Attribution{Reason: disconnect.Suspended, Initiator: disconnect.Client,
				Detail: fmt.Sprintf("the client's process stood still for %v", lasted)}, true
		case verdict.LinkDown:
			own, known = disconnect.Attribution{Reason: disconnect.NetworkUnreachable, Initiator: disconnect.Network,
				Detail: disconnect.Scrub("the client's own network was down: " + f.Text)}, true
		}
	}
	return own, known
}

// ofNetwork reports whether a reason says that somebody lost touch, and not why.
func ofNetwork(r disconnect.Reason) bool {
	switch r {
	case disconnect.NetworkError, disconnect.NetworkTimeout, disconnect.ConnectionReset, disconnect.NetworkUnreachable:
		return true
	}
	return false
}

// lostTouch is ofNetwork, or why an end knows that it was so.
func lostTouch(r disconnect.Reason) bool { return ofNetwork(r) || r == disconnect.Suspended }

// before is a moment by so much earlier.
func before(m verdict.Moment, d time.Duration) verdict.Moment {
	return verdict.Moment{Wall: m.Wall.Add(-d), Mono: max(m.Mono-d.Microseconds(), 1)}
}
