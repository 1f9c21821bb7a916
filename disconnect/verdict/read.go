package verdict

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
)

// MaxFile bounds what Read takes, in bytes.
const MaxFile = 64 << 20

// Case is all that is there about one connection.
type Case struct {
	Context     Context     `json:"context,omitzero"`
	Testimonies []Testimony `json:"testimonies"`
}

// Read reads testimonies as JSON: a case, an array of testimonies, or any number of
// values one after the other, each of which is a testimony, a case or a
// {"context": {…}} (JSON lines). There is one case for each connection id, in the order in
// which they first come up; a context without a connection id is that of all of them.
// Errors name the line.
func Read(r io.Reader) ([]Case, error) {
	all, err := io.ReadAll(io.LimitReader(r, MaxFile+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read testimonies: %w", err)
	case len(all) > MaxFile:
		return nil, fmt.Errorf("read testimonies: more than %d MB", MaxFile>>20)
	}
	in := reader{all: all}
	values := json.NewDecoder(bytes.NewReader(all))
	for {
		var raw json.RawMessage
		if err := values.Decode(&raw); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, in.syntax(err, values.InputOffset())
		}
		if err := in.value(raw, int(values.InputOffset())-len(raw)); err != nil {
			return nil, err
		}
	}
	if len(in.testimonies) == 0 {
		return nil, errors.New("there are no testimonies in it")
	}
	return in.cases(), nil
}

type reader struct {
	all         []byte
	contexts    []Context
	testimonies []Testimony
}

// line is the number of the line at an offset, from 1.
func (in *reader) line(offset int) int {
	return 1 + bytes.Count(in.all[:min(max(offset, 0), len(in.all))], []byte("\n"))
}

func (in *reader) syntax(err error, offset int64) error {
	var syntax *json.SyntaxError
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("line %d: the JSON is cut off", in.line(len(bytes.TrimRight(in.all, " \t\r\n"))))
	case errors.As(err, &syntax):
		return fmt.Errorf("line %d: not JSON: %w", in.line(int(syntax.Offset)-1), err)
	}
	return fmt.Errorf("line %d: %w", in.line(int(offset)), err)
}

// value takes one value that begins at an offset.
func (in *reader) value(raw json.RawMessage, at int) error {
	if raw[0] == '[' {
		return in.array(raw, at)
	}
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(raw, &keys); err != nil {
		return fmt.Errorf("line %d: not a testimony, which is an object", in.line(at))
	}
	_, hasContext := keys["context"]
	many, hasMany := keys["testimonies"]
	if !hasContext && !hasMany {
		return in.testimony(raw, at)
	}
	var c struct {
		Context     Context         `json:"context"`
		Testimonies json.RawMessage `json:"testimonies"`
	}
	if err := in.strictly(raw, at, &c); err != nil {
		return err
	}
	if hasContext {
		if !c.Context.ConnectType.Valid() && c.Context.ConnectType != 0 {
			return fmt.Errorf("line %d: connect_type is not known", in.line(at))
		}
		in.contexts = append(in.contexts, c.Context)
	}
	if hasMany {
		if len(many) == 0 || many[0] != '[' {
			return fmt.Errorf("line %d: testimonies is not an array", in.line(at))
		}
		return in.array(many, at+bytes.Index(raw, many))
	}
	return nil
}

func (in *reader) array(raw json.RawMessage, at int) error {
	elements := json.NewDecoder(bytes.NewReader(raw))
	if _, err := elements.Token(); err != nil {
		return in.syntax(err, int64(at))
	}
	for elements.More() {
		var element json.RawMessage
		if err := elements.Decode(&element); err != nil {
			return in.syntax(err, int64(at))
		}
		if err := in.testimony(element, at+int(elements.InputOffset())-len(element)); err != nil {
			return err
		}
	}
	return nil
}

func (in *reader) testimony(raw json.RawMessage, at int) error {
	var t Testimony
	if err := in.strictly(raw, at, &t); err != nil {
		return err
	}
	if err := t.Validate(); err != nil {
		return fmt.Errorf("line %d: %w", in.line(at), err)
	}
	in.testimonies = append(in.testimonies, t)
	return nil
}

// strictly refuses fields that are not known: a misspelt one would be evidence that is
// missing.
func (in *reader) strictly(raw json.RawMessage, at int, v any) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	err := d.Decode(v)
	var wrong *json.UnmarshalTypeError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &wrong):
		return fmt.Errorf("line %d: %s is a JSON %s, which it cannot be", in.line(at+int(wrong.Offset)), wrong.Field, wrong.Value)
	}
	return fmt.Errorf("line %d: %w", in.line(at), err)
}

// cases sorts testimonies and contexts by connection.
func (in *reader) cases() []Case {
	var all []Case
	for _, t := range in.testimonies {
		i := slices.IndexFunc(all, func(c Case) bool { return c.Context.ConnectionID == t.ConnectionID })
		if i < 0 {
			i = len(all)
			all = append(all, Case{Context: in.contextOf(t.ConnectionID)})
		}
		all[i].Testimonies = append(all[i].Testimonies, t)
	}
	return all
}

func (in *reader) contextOf(connection string) Context {
	ctx := Context{}
	for _, c := range in.contexts {
		if c.ConnectionID == connection || c.ConnectionID == "" {
			ctx = c
		}
		if c.ConnectionID == connection {
			break
		}
	}
	ctx.ConnectionID = connection
	return ctx
}
