package server

import (
	"bufio"
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/sdk"
	"fairlead.dev/fairlead/testutil"
	"fairlead.dev/fairlead/wsconn"
)

func TestCheckTellsHowTheRequestCame(t *testing.T) {
	clock := newClock()
	s := run(t, func(o *Options) {
		o.Now, o.AccessURL, o.TrustedProxies = clock.Now, "https://fairlead.example.com/x", []string{"127.0.0.1"}
	})
	ask := func(forwarded string) (info sdk.CheckInfo) {
		req, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+s.Addr().String()+sdk.CheckPath, nil)
		require.NoError(t, err)
		if forwarded != "" {
			req.Header.Set("X-Forwarded-For", forwarded)
		}
		require.NoError(t, json.Unmarshal([]byte(do(t, req).body), &info))
		return info
	}
	want := sdk.CheckInfo{
		Version: "v1.2.3-test", Instance: s.instance, AccessURL: "https://fairlead.example.com/x", Time: clock.Now(),
		Caller: "127.0.0.1", Ping: slowestPing, Silence: checkSilence,
	}
	require.Equal(t, want, ask(""))
	want.Caller = "203.0.113.9"
	require.Equal(t, want, ask("203.0.113.9"))
	s.proxies = nil
	want.Caller, want.UntrustedProxy = "127.0.0.1", true
	require.Equal(t, want, ask("203.0.113.9"))
}

// openCheck opens a check's WebSocket and waits for its first word.
func openCheck(t *testing.T, s *running) (*wsconn.Conn, error) {
	t.Helper()
	conn, err := wsconn.Dial(testutil.Context(t, patience), s.URL().JoinPath(sdk.CheckSocketPath).String(),
		wsconn.DialOptions{Subprotocols: []string{sdk.CheckSubprotocol}})
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { _ = conn.Close() })
	line, err := bufio.NewReader(conn).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, sdk.CheckBegin, line)
	return conn, nil
}

// TestChecksAreBounded: anybody may begin one, but not many, and one who leaves makes
// room at once.
func TestChecksAreBounded(t *testing.T) {
	s := run(t, nil)
	var conns []*wsconn.Conn
	for range maxChecks {
		conn, err := openCheck(t, s)
		require.NoError(t, err)
		conns = append(conns, conn)
	}
	_, err := openCheck(t, s)
	var failed *wsconn.DialError
	require.ErrorAs(t, err, &failed)
	require.Equal(t, http.StatusTooManyRequests, failed.Status)
	reason, _ := failed.Reason()
	require.Equal(t, disconnect.LimitExceeded, reason)

	require.NoError(t, conns[0].Close())
	require.Eventually(t, func() bool { _, err := openCheck(t, s); return err == nil }, patience, 20*time.Millisecond)

	begin := time.Now()
	s.stop() // does not wait for the silence to be over
	require.Less(t, time.Since(begin), checkSilence)
	_, err = conns[1].Read(make([]byte, 1))
	require.Error(t, err)
	code, _ := disconnect.Goodbye{Reason: disconnect.ServerShutdown}.CloseCode()
	require.Equal(t, code, conns[1].Ending().Code)
}

func TestCheckNeedsAnUpgrade(t *testing.T) {
	s := run(t, nil)
	a := s.send(t, "GET", sdk.CheckSocketPath, "", "")
	require.Equal(t, http.StatusUpgradeRequired, a.StatusCode)
	require.NotEmpty(t, a.Header.Get(sdk.HeaderVersion), "how the check knows that the server itself has answered")
}
