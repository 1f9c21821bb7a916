package cli

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	"fairlead.dev/fairlead/client"
)

// specField is one part of a forward, between colons.
type specField struct {
	text string
	path bool // it holds a slash outside of brackets
}

// specFields splits a forward as OpenSSH does: at colons, but not inside brackets, where
// an IPv6 address is, nor in what is a path from its slash on; a backslash takes the
// meaning of the next character away.
func specFields(spec string) (fields []specField, err error) {
	for rest := spec; ; {
		var f specField
		var more bool
		if f, rest, more, err = specFieldOf(rest); err != nil {
			return nil, err
		}
		if fields = append(fields, f); !more {
			return fields, nil
		}
	}
}

func specFieldOf(spec string) (f specField, rest string, more bool, err error) {
	if inside, ok := strings.CutPrefix(spec, "["); ok {
		address, after, closed := strings.Cut(inside, "]")
		rest, more := strings.CutPrefix(after, ":")
		if !closed || (after != "" && !more) {
			return f, "", false, errors.New("a bracket is not closed, or something stands behind it")
		}
		return specField{text: address}, rest, more, nil
	}
	var b strings.Builder
	for i := 0; i < len(spec); i++ {
		switch c := spec[i]; {
		case c == '\\':
			if i++; i == len(spec) {
				return f, "", false, errors.New("it ends with a backslash")
			}
			b.WriteByte(spec[i])
		case c == ':' && !f.path:
			f.text = b.String()
			return f, spec[i+1:], true, nil
		case c == ':': // a path ends there too
			f.text = b.String()
			return f, spec[i+1:], true, nil
		default:
			f.path = f.path || c == '/'
			b.WriteByte(c)
		}
	}
	f.text = b.String()
	return f, "", false, nil
}

// Forms of a forward, for the sentence about a wrong one.
const (
	localForm   = "[ADDRESS:]PORT:HOST:PORT, [ADDRESS:]PORT:SOCKET, SOCKET:HOST:PORT or SOCKET:SOCKET"
	remoteForm  = localForm + ", or [ADDRESS:]PORT for SOCKS"
	dynamicForm = "[ADDRESS:]PORT"
	portForm    = "PORT, or PORT:PORT with the one of this machine first"
)

func badForward(flag, spec, form string, why error) error {
	text := fmt.Sprintf("%s%q is not a forward; it has the form %s", flag, plain(spec), form)
	if why != nil {
		text += " (" + why.Error() + ")"
	}
	return withCode(exitUsage, errors.New(text))
}

// parseForward reads what stands behind -L or -R.
func parseForward(spec string, remote bool) (client.Forward, error) {
	flag, form := "-L ", localForm
	if remote {
		flag, form = "-R ", remoteForm
	}
	fields, err := specFields(spec)
	if err != nil {
		return client.Forward{}, badForward(flag, spec, form, err)
	}
	f := client.Forward{Remote: remote}
	rest, err := takeListen(&f, fields)
	switch {
	case err != nil:
	case len(rest) == 0 && remote:
		return f, nil // SOCKS
	default:
		f.Target, err = targetOf(rest)
	}
	if err != nil {
		return f, badForward(flag, spec, form, err)
	}
	return f, nil
}

// takeListen reads where a forward listens, and returns the fields behind that.
func takeListen(f *client.Forward, fields []specField) ([]specField, error) {
	if fields[0].path {
		f.Listen = client.Endpoint{Network: "unix", Address: fields[0].text}
		return fields[1:], nil
	}
	// PORT, PORT:SOCKET and PORT:HOST:PORT begin with the port; one field more, and an
	// address is before it.
	address, n := "localhost", len(fields)
	if n == 4 || n == 2 && !fields[1].path || n == 3 && fields[2].path {
		address, fields = fields[0].text, fields[1:]
		if address == "*" {
			address = ""
		}
	}
	port, err := portOf(fields[0], 0)
	f.Listen = client.Endpoint{Network: "tcp", Address: net.JoinHostPort(address, port)}
	return fields[1:], err
}

func targetOf(fields []specField) (client.Endpoint, error) {
	switch {
	case len(fields) == 1 && fields[0].path:
		return client.Endpoint{Network: "unix", Address: fields[0].text}, nil
	case len(fields) != 2 || fields[0].path || fields[0].text == "":
		return client.Endpoint{}, errors.New("what it leads to is not HOST:PORT and no socket's path")
	}
	port, err := portOf(fields[1], 1)
	return client.Endpoint{Network: "tcp", Address: net.JoinHostPort(fields[0].text, port)}, err
}

func portOf(f specField, least uint64) (string, error) {
	n, err := strconv.ParseUint(f.text, 10, 16)
	if err != nil || n < least || f.path {
		return "", fmt.Errorf("%q is no port from %d to 65535", plain(f.text), least)
	}
	return strconv.FormatUint(n, 10), nil
}

// parseDynamic reads what stands behind -D.
func parseDynamic(spec string) (client.Forward, error) {
	var f client.Forward
	fields, err := specFields(spec)
	if err == nil && (fields[0].path || len(fields) > 2) {
		err = errors.New("SOCKS is spoken on a port")
	}
	if err == nil {
		_, err = takeListen(&f, fields)
	}
	if err != nil {
		return f, badForward("-D ", spec, dynamicForm, err)
	}
	return f, nil
}

// parsePort reads an argument: a port of the workspace, by the same number here or by
// another.
func parsePort(spec string) (client.Forward, error) {
	here, there, both := strings.Cut(spec, ":")
	if !both {
		there = here
	}
	remote, err := portOf(specField{text: there}, 1)
	local, err2 := portOf(specField{text: here}, 0)
	if err = errors.Join(err, err2); err != nil {
		return client.Forward{}, badForward("", spec, portForm, nil)
	}
	return client.Forward{
		Listen: client.Endpoint{Network: "tcp", Address: net.JoinHostPort("localhost", local)},
		Target: client.Endpoint{Network: "tcp", Address: net.JoinHostPort("localhost", remote)},
	}, nil
}
