package disconnect

import (
	"encoding/json"
	"fmt"
)

// The words of this package are text in JSON: the same that the log lines hold. A
// number outside a set is an error, both ways.

// MarshalText returns the reason's word.
func (r Reason) MarshalText() ([]byte, error) { return wordOf(r.Valid(), "reason", r) }

// UnmarshalText is the inverse of [Reason.MarshalText].
func (r *Reason) UnmarshalText(b []byte) (err error) {
	*r, err = ParseReason(string(b))
	return err
}

// MarshalText returns the initiator's word.
func (i Initiator) MarshalText() ([]byte, error) { return wordOf(i.Valid(), "initiator", i) }

// UnmarshalText is the inverse of [Initiator.MarshalText].
func (i *Initiator) UnmarshalText(b []byte) (err error) {
	*i, err = ParseInitiator(string(b))
	return err
}

// MarshalText returns the layer's word.
func (t ConnectType) MarshalText() ([]byte, error) { return wordOf(t.Valid(), "connect type", t) }

// UnmarshalText is the inverse of [ConnectType.MarshalText].
func (t *ConnectType) UnmarshalText(b []byte) (err error) {
	*t, err = ParseConnectType(string(b))
	return err
}

// MarshalText returns the word for e.
func (e Evidence) MarshalText() ([]byte, error) { return wordOf(e.Valid(), "kind of evidence", e) }

// UnmarshalText is the inverse of [Evidence.MarshalText].
func (e *Evidence) UnmarshalText(b []byte) (err error) {
	*e, err = ParseEvidence(string(b))
	return err
}

// MarshalText returns the word for c.
func (c Confidence) MarshalText() ([]byte, error) {
	return wordOf(c.Valid(), "degree of confidence", c)
}

// UnmarshalText is the inverse of [Confidence.MarshalText].
func (c *Confidence) UnmarshalText(b []byte) (err error) {
	*c, err = ParseConfidence(string(b))
	return err
}

func wordOf(valid bool, set string, word fmt.Stringer) ([]byte, error) {
	if !valid {
		return nil, fmt.Errorf("%s is not a known %s", word, set)
	}
	return []byte(word.String()), nil
}

// attributionJSON has the five fields under the keys of the log line.
type attributionJSON struct {
	ConnectType ConnectType `json:"connect_type,omitzero"`
	Reason      Reason      `json:"disconnect_reason"`
	Expected    *bool       `json:"disconnect_expected"`
	Initiator   Initiator   `json:"disconnect_initiator"`
	Detail      string      `json:"disconnect_detail"`
}

// MarshalJSON writes all five fields; connect_type is left out while it is not filled in.
func (a Attribution) MarshalJSON() ([]byte, error) {
	expected := a.Expected()
	return json.Marshal(attributionJSON{a.ConnectType, a.Reason, &expected, a.Initiator, Scrub(a.Detail)})
}

// UnmarshalJSON reads what [Attribution.MarshalJSON] writes. Whether it was expected is
// not read, for it follows from the reason. The detail is scrubbed: it may come from
// anywhere.
func (a *Attribution) UnmarshalJSON(b []byte) error {
	var in attributionJSON
	if err := json.Unmarshal(b, &in); err != nil {
		return err
	}
	*a = Attribution{ConnectType: in.ConnectType, Reason: in.Reason, Initiator: in.Initiator, Detail: Scrub(in.Detail)}
	return nil
}
