//go:build unix

package agentssh

import (
	"crypto/ed25519"
	"encoding/binary"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"
)

// mute is a channel that takes everything and says nothing.
type mute struct{}

func (mute) Read([]byte) (int, error)                       { return 0, io.EOF }
func (mute) Write(b []byte) (int, error)                    { return len(b), nil }
func (mute) Close() error                                   { return nil }
func (mute) CloseWrite() error                              { return nil }
func (mute) SendRequest(string, bool, []byte) (bool, error) { return false, nil }
func (m mute) Stderr() io.ReadWriter                        { return m }

// FuzzSessionRequest: a channel request is handled or refused, whatever it holds. Those
// that run something have their text as it is, and are left out.
func FuzzSessionRequest(f *testing.F) {
	pty := ssh.Marshal(ptyPayload{Term: "xterm", Cols: 1 << 31, Rows: 1, Modes: "\x01\x00\x00\x00\x03\x00"})
	f.Add("pty-req", pty)
	f.Add("pty-req", pty[:len(pty)-2])
	f.Add("window-change", ssh.Marshal(windowPayload{80, 24, 0, 0}))
	f.Add("env", ssh.Marshal(envPayload{"LD_PRELOAD", "/tmp/x.so"}))
	f.Add("env", ssh.Marshal(envPayload{"LANG", "C"}))
	f.Add("env", []byte{0xff, 0xff, 0xff, 0xff})
	f.Add("signal", ssh.Marshal(textPayload{"KILL"}))
	f.Add("subsystem", ssh.Marshal(textPayload{"sftp\x1b[2J"}))
	f.Add("x11-req", []byte{1})
	key, err := ssh.NewSignerFromKey(ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)))
	require.NoError(f, err)
	srv := New(Config{HostKey: key})
	f.Fuzz(func(t *testing.T, kind string, payload []byte) {
		if kind == "shell" || kind == "exec" {
			return
		}
		c := &conn{srv: srv, stopped: make(chan struct{}), sessions: make(map[*session]struct{})}
		s := newSession(c, mute{})
		defer func() {
			s.closePTY()
			c.goroutines.Wait()
		}()
		s.handle(&ssh.Request{Type: kind, Payload: payload})
		require.Empty(t, s.kind, "nothing runs")
		for _, kv := range s.env {
			name, value, _ := strings.Cut(kv, "=")
			require.True(t, clientMaySet(name, value))
			require.NotContains(t, kv, "\x00")
		}
	})
}

func FuzzTerminalModes(f *testing.F) {
	f.Add("")
	f.Add("\x01\x00\x00\x00\x03\x35\x00\x00\x00\x01\x00")
	f.Add("\xa0\x00\x00\x00\x01")
	f.Fuzz(func(t *testing.T, encoded string) {
		for mode := range parseModes(encoded) {
			require.True(t, mode > 0 && mode < 160)
		}
	})
}

// FuzzDisconnectMessage: the message that we send has the form of RFC 4253.
func FuzzDisconnectMessage(f *testing.F) {
	f.Add("disconnected by user")
	f.Fuzz(func(t *testing.T, text string) {
		packet := disconnectPacket(text)
		require.Zero(t, len(packet)%8)
		require.EqualValues(t, len(packet)-4, binary.BigEndian.Uint32(packet))
		require.GreaterOrEqual(t, packet[4], byte(4))
	})
}
