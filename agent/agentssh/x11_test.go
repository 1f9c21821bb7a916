//go:build unix

package agentssh_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"fairlead.dev/fairlead/agent/agentssh"
	"fairlead.dev/fairlead/disconnect"
)

const magicCookie = "MIT-MAGIC-COOKIE-1"

// x11Hello is how an X client begins.
func x11Hello(cookie []byte) []byte {
	b := []byte{'l', 0}
	for _, n := range []int{11, 0, len(magicCookie), len(cookie), 0} {
		b = binary.LittleEndian.AppendUint16(b, uint16(n))
	}
	b = append(b, magicCookie+"\x00\x00"...)
	return append(b, cookie...)
}

// x11Server is the client's display: it takes one connection after another, and answers
// the cookie that it gets.
func x11Server(t *testing.T) (display string) {
	t.Helper()
	for number := 900; number < 1000; number++ {
		l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(6000+number))
		if err != nil {
			continue
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				hello := make([]byte, len(x11Hello(make([]byte, 16))))
				if _, err := io.ReadFull(c, hello); err == nil {
					_, _ = c.Write(hello[len(hello)-16:])
				}
				_ = c.Close()
			}
		}()
		t.Cleanup(func() { _ = l.Close(); <-done })
		return "127.0.0.1:" + strconv.Itoa(number)
	}
	t.Fatal("no free display")
	return ""
}

// TestOpenSSHX11: programs of a session reach the display of a stock client, which checks
// the cookie that they found; X11's own program finds the same. All is gone with the session.
func TestOpenSSHX11(t *testing.T) {
	t.Parallel()
	xauth, err := exec.LookPath("xauth")
	if err != nil {
		t.Skip("xauth is not installed (package xauth): the client wants it, an agent does not")
	}
	h := newHost(t, nil)
	display := x11Server(t)
	cookies := filepath.Join(t.TempDir(), "theirs")
	secret := bytes.Repeat([]byte{0xfa}, 16)
	out, err := exec.Command(xauth, "-f", cookies, "add", display, magicCookie, hex.EncodeToString(secret)).CombinedOutput()
	require.NoError(t, err, "%s", out)
	cmd := h.openSSH("-Y", "127.0.0.1", `echo "$DISPLAY $XAUTHORITY"; `+xauth+` list "$DISPLAY"; read x`)
	cmd.Env = append(cmd.Env, "DISPLAY="+display, "XAUTHORITY="+cookies)
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	pipe, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	lines := bufio.NewReader(pipe)
	line, err := lines.ReadString('\n')
	require.NoError(t, err)
	ours, file, _ := strings.Cut(strings.TrimSpace(line), " ")
	require.Regexp(t, `^localhost:[0-9]+\.0$`, ours)
	line, err = lines.ReadString('\n')
	require.NoError(t, err)
	found := regexp.MustCompile(magicCookie + `\s+([0-9a-f]{32})\n`).FindStringSubmatch(line)
	require.NotNil(t, found, line)
	cookie, _ := hex.DecodeString(found[1])
	require.NotEqual(t, secret, cookie, "the client gives none away")

	number, _ := strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(ours, "localhost:"), ".0"))
	c, err := net.Dial("tcp", "127.0.0.1:"+strconv.Itoa(6000+number))
	require.NoError(t, err)
	_, err = c.Write(x11Hello(cookie))
	require.NoError(t, err)
	got, err := io.ReadAll(c)
	require.NoError(t, err)
	require.Equal(t, secret, got, "as the client's display saw it")
	require.NoError(t, c.Close())
	h.expect(disconnect.Graceful, disconnect.Client, "normal close", -1)
	h.mu.Lock()
	row := h.sessions[1]
	h.mu.Unlock()
	require.Equal(t, []any{agentssh.KindForward, "x11"}, []any{row.Kind, row.Target})

	c, err = net.Dial("tcp", "127.0.0.1:"+strconv.Itoa(6000+number))
	require.NoError(t, err)
	_, err = c.Write(x11Hello(secret)) // not what the session was given
	require.NoError(t, err)
	got, _ = io.ReadAll(c)
	require.Empty(t, got, "the client lets nobody in")
	require.NoError(t, c.Close())
	require.NoError(t, in.Close())
	_ = cmd.Wait()
	h.endings(3)
	require.Eventually(t, func() bool {
		_, err := os.Stat(filepath.Dir(file))
		c, dialed := net.Dial("tcp", "127.0.0.1:"+strconv.Itoa(6000+number))
		if dialed == nil {
			_ = c.Close()
		}
		return os.IsNotExist(err) && dialed != nil
	}, patience, 10*time.Millisecond, "nothing is left of it")
}

// TestX11Requests: a display for one connection, and what is no request for one.
func TestX11Requests(t *testing.T) {
	t.Parallel()
	h := newHost(t, nil)
	s, client, _ := h.session()
	arrived := client.HandleChannelOpen("x11")
	var stderr bytes.Buffer
	s.Stderr = &stderr
	type request struct {
		Single           bool
		Protocol, Cookie string
		Screen           uint32
	}
	for _, bad := range []request{{Protocol: magicCookie}, {Protocol: magicCookie, Cookie: "odd"}, {Cookie: "aa"}} {
		ok, err := s.SendRequest("x11-req", true, ssh.Marshal(bad))
		require.NoError(t, err)
		require.False(t, ok)
	}
	good := ssh.Marshal(request{true, magicCookie, strings.Repeat("ab", 16), 3})
	ok, err := s.SendRequest("x11-req", true, good)
	require.NoError(t, err)
	require.True(t, ok)
	ok, err = s.SendRequest("x11-req", true, good)
	require.NoError(t, err)
	require.False(t, ok, "a session has one")
	in, err := s.StdinPipe()
	require.NoError(t, err)
	out, err := s.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, s.Start(`echo "$DISPLAY"; read x`))
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	require.Regexp(t, `^localhost:[0-9]+\.3\n$`, line)
	number, _ := strconv.Atoi(line[len("localhost:") : len(line)-len(".3\n")])
	address := "127.0.0.1:" + strconv.Itoa(6000+number)
	c, err := net.Dial("tcp", address)
	require.NoError(t, err)
	ch := wait(t, arrived, "no channel")
	require.NoError(t, ch.Reject(ssh.Prohibited, "not now"))
	_, err = io.ReadAll(c)
	require.Error(t, err, "a reset")
	require.NoError(t, c.Close())
	_, err = net.Dial("tcp", address)
	require.Error(t, err, "it was for one connection")
	e := h.ending()
	require.Equal(t, []any{disconnect.ConnectionRefused, disconnect.Client, "not now"}, []any{e.A.Reason, e.A.Initiator, e.A.Detail})
	require.NoError(t, in.Close())
	_ = s.Wait()
	require.Equal(t, strings.Repeat("fairlead: X11 forwarding is refused: protocol_error: malformed request\n", 3), stderr.String())
	h.endings(2)
}
