package verdict

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"fairlead.dev/fairlead/disconnect"
)

// Bounds of what one party may say. More is an error of [Testimony.Validate].
const (
	MaxFacts = 64
	maxID    = 64
)

// Kind is what a testimony, or a verdict, is about.
type Kind string

// Kinds. Only an ending is a disconnect.
const (
	Ending       Kind = "ending"
	Interruption Kind = "interruption" // the connection was silent for a while and went on
	Attempt      Kind = "attempt"      // a verdict only: the connection never came to be
	Remark       Kind = "remark"       // a testimony only: facts of somebody who does not know whether it ended
)

// Testimony is one observer's account of one ending or interruption, with the facts it
// rests on. It is a plain value. Raw testimonies are stored as they came and never
// changed; what follows from them is computed anew.
type Testimony struct {
	// ID is minted by the observer. The same testimony may arrive twice, on two ways; with
	// the same ID it counts once, and the one with more facts replaces the other.
	ID       string               `json:"id,omitempty"`
	Observer disconnect.Initiator `json:"observer"`           // client, agent, server or relay
	Instance string               `json:"instance,omitempty"` // this life of the observer's process

	ConnectionID string                 `json:"connection_id,omitempty"`
	ConnectType  disconnect.ConnectType `json:"connect_type"`
	Kind         Kind                   `json:"kind"`
	Phase        string                 `json:"phase,omitempty"` // dial, handshake or open

	// Account is what the observer judged by itself, and Evidence what that rests on:
	// declared, local or inferred. Both are zero if it brings facts only.
	Account  disconnect.Attribution `json:"account,omitzero"`
	Evidence disconnect.Evidence    `json:"evidence,omitzero"`

	// LastGood is when the connection was last known to work, FirstNoticed when the
	// observer first saw that something was wrong. The trouble began between the two.
	LastGood     Moment `json:"last_good,omitzero"`
	FirstNoticed Moment `json:"first_noticed,omitzero"`
	Clock        Clock  `json:"clock,omitzero"`
	Facts        []Fact `json:"facts,omitempty"`

	// What follows is filled in by whoever takes the testimony, never by the observer.

	// Principal is who was authenticated as the sender: a user's id, a workspace's id.
	Principal string `json:"principal,omitempty"`
	// Via is who passed the testimony on for its observer without proof that it is the
	// observer's (hearsay); zero if it came from the observer itself, or with the
	// connection's secret.
	Via disconnect.Initiator `json:"via,omitzero"`
	// Received is when it was taken, by the server's clock.
	Received time.Time `json:"received,omitzero"`
}

// Moment is a time by the observer's clocks. Mono is its monotonic clock that runs on
// while the host sleeps, in microseconds from any zero that is the same for the whole
// testimony; 0 is not known. With it the order of moments survives a wall clock that is
// set.
type Moment struct {
	Wall time.Time `json:"wall,omitzero"`
	Mono int64     `json:"mono_us,omitempty"`
}

// IsZero reports whether the moment is not known.
func (m Moment) IsZero() bool { return m.Wall.IsZero() && m.Mono == 0 }

// Clock relates the observer's clocks to the server's. Wall and Mono were read at one
// moment; then the server's clock was Offset ahead of Wall, give or take Bound. Without a
// measurement, which heartbeats bring, Bound is 0 and two seconds are assumed.
type Clock struct {
	Wall   time.Time `json:"wall,omitzero"`
	Mono   int64     `json:"mono_us,omitempty"`
	Offset int64     `json:"offset_us,omitempty"` // microseconds
	Bound  int64     `json:"bound_us,omitempty"`  // microseconds
}

// Fact is one thing that an observer saw, by its clocks. Which fields count depends on
// the kind; [FactKind.Sentence] says so.
type Fact struct {
	Kind  FactKind               `json:"kind"`
	About disconnect.Initiator   `json:"about,omitzero"` // whom it is about
	Leg   disconnect.ConnectType `json:"leg,omitzero"`   // on which layer; zero: the testimony's own
	At    Moment                 `json:"at,omitzero"`
	Until Moment                 `json:"until,omitzero"`
	Cause disconnect.Attribution `json:"cause,omitzero"`

	ExitCode *int32  `json:"exit_code,omitempty"`
	Signal   string  `json:"signal,omitempty"` // without SIG
	SentBy   Sender  `json:"sent_by,omitempty"`
	Outcome  Outcome `json:"outcome,omitempty"`
	Instance string  `json:"instance,omitempty"`
	Proxied  bool    `json:"proxied,omitempty"`
	Ref      string  `json:"ref,omitempty"`
	Text     string  `json:"text,omitempty"`
}

// Validate says what in t cannot be. A testimony that is not valid is not judged; call it
// where testimonies come in.
func (t *Testimony) Validate() error {
	switch {
	case !slices.Contains(anyone, t.Observer):
		return fmt.Errorf("observer %s cannot testify", t.Observer)
	case !t.ConnectType.Valid():
		return errors.New("connect_type is missing")
	case t.Kind != Ending && t.Kind != Interruption && t.Kind != Remark:
		return fmt.Errorf("kind %q is not known; use ending, interruption or remark", disconnect.Scrub(string(t.Kind)))
	case t.Phase != "" && t.Phase != PhaseDial && t.Phase != PhaseHandshake && t.Phase != PhaseOpen:
		return fmt.Errorf("phase %q is not known; use dial, handshake or open", disconnect.Scrub(t.Phase))
	case t.Account.Reason == disconnect.Unknown && t.Evidence != 0:
		return errors.New("there is evidence of an account that is not there")
	case t.Account.Reason != disconnect.Unknown && (!t.Evidence.Valid() || t.Evidence == disconnect.EvidenceCorrelated):
		return errors.New("what the account rests on is missing; use declared, local or inferred")
	case len(t.Facts) > MaxFacts:
		return fmt.Errorf("%d facts are more than the %d that one testimony may have", len(t.Facts), MaxFacts)
	case len(t.ID) > maxID, len(t.Instance) > maxID, len(t.ConnectionID) > maxID, len(t.Principal) > maxID:
		return fmt.Errorf("an id is longer than %d characters", maxID)
	case t.Clock.Bound < 0:
		return errors.New("a clock's error bound is below zero")
	}
	for i := range t.Facts {
		if err := t.Facts[i].validate(t.Observer); err != nil {
			return fmt.Errorf("fact %d: %w", i+1, err)
		}
	}
	return nil
}

func (f *Fact) validate(by disconnect.Initiator) error {
	switch {
	case !f.Kind.Valid() || f.Kind == Account:
		return errors.New("the kind is missing")
	case !f.Kind.Known(by):
		return fmt.Errorf("%s is nothing that the %s can know", f.Kind, by)
	case !slices.Contains(senders, f.SentBy):
		return fmt.Errorf("sent_by %q is not known", disconnect.Scrub(string(f.SentBy)))
	case f.Outcome != "" && !slices.Contains(outcomes, f.Outcome):
		return fmt.Errorf("outcome %q is not known", disconnect.Scrub(string(f.Outcome)))
	case (f.Kind == Obituary || f.Kind == Supervisor) && f.Outcome == "":
		return fmt.Errorf("%s without an outcome", f.Kind)
	case f.needsCause() && f.Cause.Reason == disconnect.Unknown:
		return fmt.Errorf("%s without a cause", f.Kind)
	case f.needsAbout() && !slices.Contains(anyone, f.About):
		return fmt.Errorf("%s does not say whom it is about", f.Kind)
	case len(f.Instance) > maxID, len(f.Ref) > maxID, len(f.Signal) > maxID:
		return fmt.Errorf("an id is longer than %d characters", maxID)
	}
	return nil
}

func (f *Fact) needsCause() bool {
	switch f.Kind {
	case GoodbyeReceived, GoodbyeSent, OwnCause, StopOrder, PlatformNotice:
		return true
	}
	return false
}

func (f *Fact) needsAbout() bool {
	switch f.Kind {
	case SocketClosed, SocketReset, HeartbeatSilence, ProbeAnswered, HeardAgain, NewInstance, Supervisor, RelayClientGone:
		return true
	}
	return false
}

// How far a connection had come.
const (
	PhaseDial      = "dial"
	PhaseHandshake = "handshake"
	PhaseOpen      = "open"
)
