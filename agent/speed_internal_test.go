package agent

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/agent/proto"
	"fairlead.dev/fairlead/sdk"
)

// TestSpeed: bytes come for as long as was asked for, those that go are counted, one
// client measures at a time, and nobody gets more than the bounds.
func TestSpeed(t *testing.T) {
	srv := httptest.NewServer(newSpeed())
	defer srv.Close()
	ask := func(ctx context.Context, method, query string, body io.Reader) *http.Response {
		req, err := http.NewRequestWithContext(ctx, method, srv.URL+"?"+query, body)
		require.NoError(t, err)
		answer, err := srv.Client().Do(req)
		require.NoError(t, err)
		t.Cleanup(func() { _ = answer.Body.Close() })
		return answer
	}
	for query, method := range map[string]string{
		"": http.MethodGet, "seconds=0": http.MethodGet, "seconds=31": http.MethodPost, "seconds=x": http.MethodGet,
		"seconds=-1": http.MethodPost, "seconds=999999999999999999999": http.MethodGet, "seconds=9223372037": http.MethodGet,
	} {
		require.Equal(t, http.StatusBadRequest, ask(t.Context(), method, query, nil).StatusCode, query)
	}
	require.Equal(t, http.StatusMethodNotAllowed, ask(t.Context(), http.MethodPut, "seconds=1", nil).StatusCode)

	answer := ask(t.Context(), http.MethodPost, "seconds=1", strings.NewReader(strings.Repeat("x", 1<<20)))
	var received proto.SpeedReceived
	require.NoError(t, json.NewDecoder(answer.Body).Decode(&received))
	require.EqualValues(t, 1<<20, received.Bytes)

	ctx, leave := context.WithCancel(t.Context())
	endless := ask(ctx, http.MethodGet, "seconds=30", nil)
	_, err := io.ReadFull(endless.Body, make([]byte, 1<<20))
	require.NoError(t, err)
	busy := ask(t.Context(), http.MethodGet, "seconds=1", nil)
	require.Equal(t, http.StatusTooManyRequests, busy.StatusCode)
	var refused sdk.ErrorResponse
	require.NoError(t, json.NewDecoder(busy.Body).Decode(&refused))
	require.Equal(t, sdk.ErrorBody{Code: sdk.CodeLimitExceeded, Message: "another speed test is under way in this workspace"}, refused.Error)
	leave()
	var last *http.Response
	require.Eventually(t, func() bool {
		last = ask(t.Context(), http.MethodGet, "seconds=1", nil)
		return last.StatusCode == http.StatusOK
	}, 20*time.Second, time.Millisecond, "a client that leaves frees the place")
	n, err := io.Copy(io.Discard, last.Body)
	require.NoError(t, err)
	require.Positive(t, n)
}
