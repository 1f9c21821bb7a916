package client

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"
)

func TestEscapeReader(t *testing.T) {
	for name, test := range map[string]struct {
		in, out string
		left    bool
		help    bool
	}{
		"plain":                    {in: "ls\rexit\r", out: "ls\rexit\r"},
		"first keys":               {in: "~.", left: true},
		"after return":             {in: "ls\r~.rest", out: "ls\r", left: true},
		"after line feed":          {in: "ls\n~.", out: "ls\n", left: true},
		"not at the line's start":  {in: "cd ~.\r", out: "cd ~.\r"},
		"after a space":            {in: "\r ~.", out: "\r ~."},
		"doubled":                  {in: "~~", out: "~"},
		"doubled, then a dot":      {in: "\r~~.", out: "\r~."},
		"another key":              {in: "\r~/bin\r", out: "\r~/bin\r"},
		"return after the tilde":   {in: "~\r~.", out: "~\r", left: true},
		"help":                     {in: "\r~?ls", out: "\rls", help: true},
		"leave right after help":   {in: "~?~.", help: true, left: true},
		"ends with a tilde":        {in: "\r~", out: "\r~"},
		"nothing":                  {},
		"control keys are no line": {in: "\x03~.", out: "\x03~."},
	} {
		t.Run(name, func(t *testing.T) {
			for _, wrap := range []func(io.Reader) io.Reader{
				func(r io.Reader) io.Reader { return r }, iotest.OneByteReader, iotest.DataErrReader,
			} {
				var help bytes.Buffer
				got, err := io.ReadAll(NewEscapeReader(wrap(strings.NewReader(test.in)), &help))
				require.Equal(t, test.left, errors.Is(err, ErrLeave))
				require.Equal(t, test.out, string(got))
				require.Equal(t, test.help, help.Len() > 0)
			}
		})
	}
}

func TestEscapeReaderPassesManyKeysInSmallPieces(t *testing.T) {
	in := strings.Repeat("~~line\r", 3000)
	got, err := io.ReadAll(iotest.OneByteReader(NewEscapeReader(strings.NewReader(in), nil)))
	require.NoError(t, err)
	require.Equal(t, strings.Repeat("~line\r", 3000), string(got))
}

func TestEscapeReaderKeepsTheError(t *testing.T) {
	broken := errors.New("broken")
	r := NewEscapeReader(iotest.ErrReader(broken), nil)
	_, err := r.Read(make([]byte, 1))
	require.ErrorIs(t, err, broken)
	n, err := r.Read(nil)
	require.Zero(t, n)
	require.NoError(t, err)
}
