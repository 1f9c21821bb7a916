package server

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/testutil"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/sdk"
	"fairlead.dev/fairlead/server/auth"
	"fairlead.dev/fairlead/server/store"
)

// requireLimited checks a refusal with 429.
func requireLimited(t *testing.T, a answer, retryAfter, part string) {
	t.Helper()
	e := requireRefusal(t, a, http.StatusTooManyRequests, sdk.CodeLimitExceeded)
	require.Equal(t, fmt.Sprint(int(disconnect.LimitExceeded)), a.Header.Get(sdk.HeaderReason))
	require.Equal(t, retryAfter, a.Header.Get("Retry-After"))
	require.Contains(t, e.Message, part)
}

// TestGuessingIsLimited guesses tokens and codes from one address until the server
// has enough; somebody with a right token at that address notices nothing.
func TestGuessingIsLimited(t *testing.T) {
	c := newClock()
	s := run(t, func(o *Options) { o.Now = c.Now })
	_, token := s.addUser(t, "ada", store.RoleMember)
	guess := func() answer { return s.send(t, "GET", "/api/v1/me", "flu_"+strings.Repeat("0", 40), "") }
	code := func() answer {
		return s.send(t, "POST", "/api/v1/login", "", `{"code":"0000-0000-0000-0000","name":"eve"}`)
	}
	for range failedBurst/codeCost - 1 {
		requireRefusal(t, code(), http.StatusUnauthorized, sdk.CodeInvalidCode)
	}
	for range codeCost / tokenCost {
		requireRefusal(t, guess(), http.StatusUnauthorized, sdk.CodeUnauthenticated)
	}
	requireLimited(t, guess(), "1", "too many failed logins from this address: try again in 1s")
	requireLimited(t, code(), "6", "too many failed logins from this address: try again in 6s")
	require.Equal(t, http.StatusOK, s.send(t, "GET", "/api/v1/me", token, "").StatusCode, "a right token is never refused for that")
	requireRefusal(t, s.send(t, "GET", "/api/v1/me", "", ""), http.StatusUnauthorized, sdk.CodeUnauthenticated) // no guess

	c.advance(failedEvery)
	requireRefusal(t, guess(), http.StatusUnauthorized, sdk.CodeUnauthenticated)
	requireLimited(t, guess(), "1", "too many failed logins")
	c.advance(2 * time.Second)
	requireLimited(t, code(), "4", "try again in 4s")
	c.advance(4 * time.Second)
	requireRefusal(t, code(), http.StatusUnauthorized, sdk.CodeInvalidCode)
	n, err := s.store.CountUsers(t.Context())
	require.NoError(t, err)
	require.Equal(t, 1, n)
}

// TestFailuresOfManyAddressesAreBounded: an attacker with a large network costs a
// bounded memory, and does not buy guesses with it.
func TestFailuresOfManyAddressesAreBounded(t *testing.T) {
	c := newClock()
	l := newLimits(Options{Now: c.Now})
	wrong := errors.New("wrong")
	address := func(i int) string {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 1).String()
	}
	for i := range maxAddresses {
		require.Equal(t, wrong, l.failed(address(i), 1, wrong))
	}
	for i := range failedBurst {
		require.Equal(t, wrong, l.failed(address(maxAddresses+i), 1, wrong), "they share the rest")
	}
	require.ErrorContains(t, l.failed(address(2*maxAddresses), 1, wrong), "too many failed logins")
	require.Len(t, l.failures, maxAddresses)
	require.Equal(t, wrong, l.failed(address(1), 1, wrong), "who was known before has its own allowance")
	c.advance(failedBurst * failedEvery)
	require.Equal(t, wrong, l.failed(address(3*maxAddresses), 1, wrong))
	require.Less(t, len(l.failures), 3, "those that have not failed for long are forgotten")
}

// TestOneHostIsOneSource: an IPv6 host can have any address of its network.
func TestOneHostIsOneSource(t *testing.T) {
	require.Equal(t, source("[2001:db8::1]:1"), source("[2001:db8::ffff:2]:99"))
	require.NotEqual(t, source("[2001:db8::1]:1"), source("[2001:db8:0:1::1]:1"))
	require.Equal(t, source("192.0.2.1:1"), source("[::ffff:192.0.2.1]:2"))
	require.NotEqual(t, source("192.0.2.1:1"), source("192.0.2.2:1"))
	require.Equal(t, source("nonsense"), source(""))
}

func TestLinksAreLimited(t *testing.T) {
	l := newLimits(Options{Now: time.Now, MaxLinksPerUser: 2, MaxLinksPerAddress: 3})
	ada := auth.Principal{Kind: auth.KindUser, UserID: "1", UserName: "ada"}
	bob := auth.Principal{Kind: auth.KindUser, UserID: "2", UserName: "bob"}
	dev := auth.Principal{Kind: auth.KindAgent, UserID: "1", UserName: "ada", WorkspaceID: "w"}
	enter := func(p auth.Principal, from string) func() {
		done, err := l.enter(p, from)
		require.NoError(t, err)
		return done
	}
	first := enter(ada, "192.0.2.1:1")
	enter(ada, "192.0.2.2:1")
	_, err := l.enter(ada, "192.0.2.3:1")
	require.EqualError(t, err, "ada has 2 connections to this server already: try again in 10s")
	enter(dev, "192.0.2.1:2") // an agent does not take its owner's place
	enter(bob, "192.0.2.1:3")
	_, err = l.enter(bob, "192.0.2.1:4")
	require.EqualError(t, err, "this address has 3 connections to this server already: try again in 10s")
	first()
	first() // counts once
	enter(ada, "192.0.2.1:5")
	_, err = l.enter(ada, "192.0.2.9:5")
	require.Error(t, err)
}

// TestRefusedLinkSaysWhen asks for a control link over HTTP, as a peer does.
func TestRefusedLinkSaysWhen(t *testing.T) {
	s := run(t, func(o *Options) { o.MaxLinksPerUser = 1 })
	_, token := s.addUser(t, "ada", store.RoleMember)
	p, err := s.auth.Authenticate(t.Context(), token)
	require.NoError(t, err)
	done, err := s.limits.enter(p, "192.0.2.1:1")
	require.NoError(t, err)
	requireLimited(t, s.send(t, "GET", "/api/v1/control", token, ""), "10", "ada has 1 connections to this server already")
	done()
	require.NotEqual(t, http.StatusTooManyRequests, s.send(t, "GET", "/api/v1/control", token, "").StatusCode)
	require.Empty(t, s.limits.links, "what was no link is not counted")
}

// TestIdleConnectionsAreLimited has one address keep connections that asked one question
// each: a newcomer is served, in the place of the one that has been idle for longest.
func TestIdleConnectionsAreLimited(t *testing.T) {
	s := run(t, nil)
	type kept struct {
		net.Conn
		answers *bufio.Reader
	}
	ask := func(k kept) error {
		if _, err := io.WriteString(k, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			return err
		}
		resp, err := http.ReadResponse(k.answers, nil)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, resp.Body)
		return errors.Join(err, resp.Body.Close())
	}
	open := func() kept {
		conn, err := net.Dial("tcp", s.Addr().String())
		require.NoError(t, err)
		t.Cleanup(func() { _ = conn.Close() })
		return kept{conn, bufio.NewReader(conn)}
	}
	idle := func() int {
		s.conns.mu.Lock()
		defer s.conns.mu.Unlock()
		n := 0
		for _, src := range s.conns.sources {
			n += src.idle.Len()
		}
		return n
	}
	var all []kept
	for i := range maxConns {
		k := open()
		require.NoError(t, ask(k))
		all = append(all, k)
		require.Eventually(t, func() bool { return idle() == i+1 }, 10*time.Second, time.Millisecond)
	}
	require.NoError(t, ask(all[0]), "it is used again, and so the next one goes first")
	require.Eventually(t, func() bool { return idle() == maxConns }, 10*time.Second, time.Millisecond)
	for i := range 10 {
		require.NoError(t, ask(open()), "a newcomer is served")
		require.NoError(t, all[i+1].SetReadDeadline(time.Now().Add(10*time.Second)))
		_, err := all[i+1].answers.ReadByte()
		require.ErrorIs(t, err, io.EOF)
	}
	require.NoError(t, ask(all[0]))
	require.LessOrEqual(t, idle(), maxConns)

	// A trusted proxy stands for many.
	var h httpConns
	h.exempt = func(netip.Addr) bool { return true }
	for range 2 * maxConns {
		near, far := net.Pipe()
		defer near.Close()
		defer far.Close()
		h.note(near, http.StateNew)
	}
	require.Len(t, h.conns, 2*maxConns)
}

// TestSilentConnectionsAreLimited opens connections that say nothing until the server
// hangs up on one, and a connection that speaks meanwhile is served once one has gone.
func TestSilentConnectionsAreLimited(t *testing.T) {
	s := run(t, nil)
	silent := make([]net.Conn, maxConns)
	for i := range silent {
		conn, err := net.Dial("tcp", s.Addr().String())
		require.NoError(t, err)
		defer conn.Close()
		silent[i] = conn
	}
	hungUp := func(conn net.Conn) bool {
		_, err := io.WriteString(conn, "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		if err != nil {
			return true
		}
		_, err = http.ReadResponse(bufio.NewReader(conn), nil)
		return err != nil
	}
	last, err := net.Dial("tcp", s.Addr().String())
	require.NoError(t, err)
	defer last.Close()
	require.True(t, hungUp(last), "one address does not take it all")
	require.Positive(t, s.conns.silent.Load())
	require.False(t, hungUp(silent[0]), "who came before is served")
	require.NoError(t, silent[1].Close())
	require.Eventually(t, func() bool {
		conn, err := net.Dial("tcp", s.Addr().String())
		require.NoError(t, err)
		defer conn.Close()
		return !hungUp(conn)
	}, 10*time.Second, 10*time.Millisecond)
}

// TestStrangersAreNoted: who speaks to the port and makes no request is told of, with who
// lost patience with whom; a port scan, which says nothing, is not.
func TestStrangersAreNoted(t *testing.T) {
	s, logged := recorded(t, nil)
	speak := func(text string) {
		conn, err := net.Dial("tcp", s.Addr().String())
		require.NoError(t, err)
		defer conn.Close()
		_, err = io.WriteString(conn, text)
		require.NoError(t, err)
		if text == "" {
			return
		}
		_, _ = io.Copy(io.Discard, conn) // until the server has had enough
	}
	speak("")
	speak("\x16\x03noise\r\n\r\n")
	r := logged.WaitForMessage(testutil.Context(t, 10*time.Second), "dial failed")
	require.Equal(t, []any{"client_to_server", "protocol_error", "client"}, []any{r.Attrs["layer"], r.Attrs["reason"], r.Attrs["initiator"]})
}
