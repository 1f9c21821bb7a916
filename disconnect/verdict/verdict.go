package verdict

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"

	"fairlead.dev/fairlead/disconnect"
)

// Rule is which rule decided. In JSON it is R0 to R11.
type Rule uint8

// Rules, in the order in which they are asked. R0 is the order of things; it decides
// nothing by itself.
const (
	R0  Rule = iota // the order
	R1              // the work ended first
	R2              // somebody declared it
	R3              // an obituary
	R4              // a sleeper
	R5              // a link or a route
	R6              // a shared element
	R7              // a program that does not answer on a host that does
	R8              // a reset or an end that nobody sent
	R9              // the relay
	R10             // what the transports said
	R11             // nothing
)

// String returns the rule's name.
func (r Rule) String() string { return "R" + strconv.Itoa(int(r)) }

// MarshalText returns the rule's name.
func (r Rule) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText is the inverse of [Rule.MarshalText].
func (r *Rule) UnmarshalText(b []byte) error {
	for rule := R0; rule <= R11; rule++ {
		if rule.String() == string(b) {
			*r = rule
			return nil
		}
	}
	return fmt.Errorf("%q is not a known rule", disconnect.Scrub(string(b)))
}

// Verdict is who ended a connection and why, by all that is known, and which rule and
// which evidence say so.
type Verdict struct {
	ConnectionID string
	Kind         Kind
	disconnect.Attribution

	Phase string // how far the connection had come
	// Locus is the place of the fault: client, agent, server, relay, client_net, agent_net,
	// path, or empty if it has none.
	Locus      string
	Rule       Rule
	Evidence   disconnect.Evidence
	Confidence disconnect.Confidence
	Observer   disconnect.Initiator // whose word decided
	CausedBy   string               // the decision, notice, relay or connection behind it; may be empty
	ExitCode   *int32               // of the session's process
	ExitSignal string

	// Began and Noticed bound when the trouble began; Over is when an interruption was
	// over. All by the server's clock; zero if not known.
	Began, Noticed, Over time.Time

	// Used are the facts that the rule rests on. Kept are the others: consequences,
	// echoes, denials, and what was not believed; each says which.
	Used, Kept []Item

	Final    bool
	Waiting  []disconnect.Initiator // who has not spoken yet
	Revision int                    // how often the verdict was replaced
}

// Counts reports whether the verdict is on a disconnect. Interruptions are none, nor is a
// connection that never came to be.
func (v *Verdict) Counts() bool { return v.Kind == Ending }

// Lasted is how long an interruption was, at most; 0 if that is not known.
func (v *Verdict) Lasted() time.Duration {
	if v.Over.IsZero() || v.Began.IsZero() {
		return 0
	}
	return v.Over.Sub(v.Began)
}

// Role is what an item is to the verdict.
type Role string

// Roles.
const (
	Decided     Role = "decided"     // the rule rests on it
	Supports    Role = "supports"    // it is believed, and was not needed
	Consequence Role = "consequence" // it came later
	Denied      Role = "denied"      // the party it is about says otherwise
	NotBelieved Role = "not_believed"
	Hearsay     Role = "hearsay"
)

// Item is one fact as the judge saw it, with its source.
type Item struct {
	Source disconnect.Initiator
	Role   Role
	At     time.Time     // by the server's clock; zero if not known
	Until  time.Time     // likewise
	Bound  time.Duration // how far At may be wrong
	Fact   Fact
}

// Says is the item in words, without its time.
func (i *Item) Says() string {
	f := &i.Fact
	text := f.Kind.String()
	if f.About != 0 {
		text += " about=" + f.About.String()
	}
	if f.Leg != 0 {
		text += " leg=" + f.Leg.String()
	}
	if f.Cause.Reason != disconnect.Unknown {
		text += " " + f.Cause.String()
	}
	if f.ExitCode != nil {
		text += " exit_code=" + strconv.Itoa(int(*f.ExitCode))
	}
	for _, field := range [...]struct{ name, value string }{
		{"signal", f.Signal}, {"sent_by", string(f.SentBy)}, {"outcome", string(f.Outcome)},
		{"instance", f.Instance}, {"ref", f.Ref}, {"text", f.Text},
	} {
		if field.value != "" {
			text += " " + field.name + "=" + strconv.Quote(disconnect.Scrub(field.value))
		}
	}
	if f.Proxied {
		text += " proxied"
	}
	return text
}

type verdictJSON struct {
	ConnectionID string                 `json:"connection_id,omitempty"`
	Kind         Kind                   `json:"kind"`
	ConnectType  disconnect.ConnectType `json:"connect_type,omitzero"`
	Reason       disconnect.Reason      `json:"disconnect_reason"`
	Expected     bool                   `json:"disconnect_expected"`
	Initiator    disconnect.Initiator   `json:"disconnect_initiator"`
	Detail       string                 `json:"disconnect_detail"`
	Phase        string                 `json:"phase,omitempty"`
	Locus        string                 `json:"locus,omitempty"`
	Rule         Rule                   `json:"rule"`
	Evidence     disconnect.Evidence    `json:"evidence,omitzero"`
	Confidence   disconnect.Confidence  `json:"confidence,omitzero"`
	Observer     disconnect.Initiator   `json:"observer,omitzero"`
	CausedBy     string                 `json:"caused_by,omitempty"`
	ExitCode     *int32                 `json:"exit_code,omitempty"`
	ExitSignal   string                 `json:"exit_signal,omitempty"`
	Began        time.Time              `json:"began,omitzero"`
	Noticed      time.Time              `json:"noticed,omitzero"`
	Over         time.Time              `json:"over,omitzero"`
	Used         []itemJSON             `json:"used"`
	Kept         []itemJSON             `json:"kept"`
	Final        bool                   `json:"final"`
	Waiting      []disconnect.Initiator `json:"waiting"`
	Revision     int                    `json:"revision"`
}

type itemJSON struct {
	Source disconnect.Initiator `json:"source"`
	Role   Role                 `json:"role"`
	At     time.Time            `json:"at,omitzero"`
	Until  time.Time            `json:"until,omitzero"`
	Bound  int64                `json:"bound_us,omitempty"`
	Says   string               `json:"says"`
	Fact   Fact                 `json:"fact"`
}

// MarshalJSON writes the verdict in one object, with the five fields under their own keys.
func (v Verdict) MarshalJSON() ([]byte, error) {
	return json.Marshal(verdictJSON{
		ConnectionID: v.ConnectionID, Kind: v.Kind,
		ConnectType: v.ConnectType, Reason: v.Reason, Expected: v.Expected(), Initiator: v.Initiator, Detail: disconnect.Scrub(v.Detail),
		Phase: v.Phase, Locus: v.Locus, Rule: v.Rule, Evidence: v.Evidence, Confidence: v.Confidence, Observer: v.Observer,
		CausedBy: v.CausedBy, ExitCode: v.ExitCode, ExitSignal: v.ExitSignal, Began: v.Began, Noticed: v.Noticed, Over: v.Over,
		Used: itemsJSON(v.Used), Kept: itemsJSON(v.Kept),
		Final: v.Final, Waiting: append([]disconnect.Initiator{}, v.Waiting...), Revision: v.Revision,
	})
}

// UnmarshalJSON is the inverse of [Verdict.MarshalJSON].
func (v *Verdict) UnmarshalJSON(b []byte) error {
	var in verdictJSON
	if err := json.Unmarshal(b, &in); err != nil {
		return err
	}
	*v = Verdict{
		ConnectionID: in.ConnectionID, Kind: in.Kind,
		Attribution: disconnect.Attribution{ConnectType: in.ConnectType, Reason: in.Reason, Initiator: in.Initiator, Detail: disconnect.Scrub(in.Detail)},
		Phase:       in.Phase, Locus: in.Locus, Rule: in.Rule, Evidence: in.Evidence, Confidence: in.Confidence, Observer: in.Observer,
		CausedBy: in.CausedBy, ExitCode: in.ExitCode, ExitSignal: in.ExitSignal, Began: in.Began, Noticed: in.Noticed, Over: in.Over,
		Used: items(in.Used), Kept: items(in.Kept), Final: in.Final, Revision: in.Revision,
	}
	if len(in.Waiting) > 0 {
		v.Waiting = in.Waiting
	}
	return nil
}

func itemsJSON(items []Item) []itemJSON {
	out := make([]itemJSON, len(items))
	for i := range items {
		it := &items[i]
		out[i] = itemJSON{it.Source, it.Role, it.At, it.Until, it.Bound.Microseconds(), it.Says(), it.Fact}
	}
	return out
}

func items(in []itemJSON) (out []Item) {
	for _, it := range in {
		out = append(out, Item{it.Source, it.Role, it.At, it.Until, time.Duration(it.Bound) * time.Microsecond, it.Fact})
	}
	return out
}

// sameAs reports whether two verdicts say the same.
func (v *Verdict) sameAs(w *Verdict) bool {
	sameCode := v.ExitCode == w.ExitCode || (v.ExitCode != nil && w.ExitCode != nil && *v.ExitCode == *w.ExitCode)
	return v.Kind == w.Kind && v.Attribution == w.Attribution && v.Locus == w.Locus && v.Rule == w.Rule &&
		v.Evidence == w.Evidence && v.Confidence == w.Confidence && sameCode && v.Final == w.Final && slices.Equal(v.Waiting, w.Waiting)
}
