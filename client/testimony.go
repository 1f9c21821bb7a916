package client

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"

	"fairlead.dev/fairlead/companion"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/verdict"
)

func newTestimony(id string, leg disconnect.ConnectType) *verdict.Testimony {
	return &verdict.Testimony{
		ID: id, Observer: disconnect.Client, ConnectType: leg, Kind: verdict.Ending, Phase: verdict.PhaseOpen,
	}
}

// testify tells the server what the client saw of a session's end, while others go on.
// That its process ended the agent knows best, and tells.
func (w *Workspace) testify(ctx context.Context, end *SessionEnd) {
	if end.Err != nil || end.Attribution.Reason == disconnect.Unknown {
		return
	}
	if end.noticed.IsZero() {
		end.noticed = companion.Moment()
	}
	t := sessionTestimony(*end)
	t.Instance = w.config.instance
	w.watch.Testify(t, end.noticed)
	w.addHost(t)
	sent := *t // whose clock is set when it is told
	end.Testimony = t
	r := w.config.records
	if r == nil {
		return
	}
	r.rememberEnd(w.config.name, *end, *t)
	if end.Exited || uuid.Validate(end.ConnectionID) != nil {
		return
	}
	w.tasks.Go(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), testifyWait)
		defer cancel()
		r.deliver(ctx, sent.ConnectionID, &sent)
	})
}

// sessionTestimony is what a session itself saw of its end.
func sessionTestimony(end SessionEnd) *verdict.Testimony {
	t := newTestimony("ended", disconnect.AgentToClient)
	t.ConnectionID, t.FirstNoticed = end.ConnectionID, end.noticed
	t.Account, t.Evidence = end.Attribution, restsOn(end.Attribution)
	own := verdict.Fact{Kind: verdict.OwnCause, Cause: end.Attribution, At: end.noticed}
	switch {
	case end.parentKilled:
		t.Facts = append(t.Facts, verdict.Fact{Kind: verdict.ParentKilled, At: end.noticed, Text: end.Attribution.Detail})
	case end.Attribution.Initiator == disconnect.Client:
		t.Facts = append(t.Facts, own)
	}
	if end.broken.Reason != disconnect.Unknown {
		t.Facts = append(t.Facts, verdict.Fact{Kind: verdict.Error, Cause: end.broken, At: end.noticed})
	}
	return t
}

// restsOn is what the client's account of an ending rests on.
func restsOn(a disconnect.Attribution) disconnect.Evidence {
	switch {
	case a.Reason == disconnect.Unknown:
		return 0
	case a.Initiator == disconnect.Client:
		return disconnect.EvidenceLocal
	case a.Initiator == disconnect.Network, a.Reason == disconnect.PeerCrashed, a.Reason == disconnect.PeerUnresponsive:
		return disconnect.EvidenceInferred
	}
	return disconnect.EvidenceDeclared
}

// testifyInterruption tells the server of a silence that the connections to the workspace
// survived, while others go on.
func (w *Workspace) testifyInterruption(i companion.Interruption) {
	r := w.config.records
	if r == nil {
		return
	}
	resumed := companion.Moment()
	for _, id := range i.Connections {
		t := newTestimony(fmt.Sprintf("interruption-%d", i.Began.UnixMicro()), disconnect.AgentToClient)
		t.Kind, t.Instance = verdict.Interruption, w.config.instance
		t.Account, t.Evidence = i.Attribution, restsOn(i.Attribution)
		t.LastGood = verdict.Moment{Wall: i.Began.Round(0)}
		t.FirstNoticed = verdict.Moment{Wall: i.Began.Add(min(i.Duration, 2*companion.DefaultHeartbeat)).Round(0)}
		again := verdict.Moment{Wall: i.Began.Add(i.Duration).Round(0)}
		if again.Wall.After(resumed.Wall) {
			again = resumed
		}
		t.Facts = append(t.Facts,
			verdict.Fact{Kind: verdict.HeartbeatSilence, About: disconnect.Agent, At: t.LastGood, Until: again},
			verdict.Fact{Kind: verdict.Resumed, At: again})
		w.addHost(t)
		w.tasks.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), testifyWait)
			defer cancel()
			r.deliver(ctx, id, t)
		})
	}
}

// addHost adds what this machine can testify of itself since the connection last worked.
func (w *Workspace) addHost(t *verdict.Testimony) {
	if w.config.facts != nil {
		t.Facts = append(t.Facts, w.config.facts(t.LastGood.Wall.Add(-time.Second))...)
	}
}
