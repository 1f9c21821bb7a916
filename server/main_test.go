package server

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"fairlead.dev/fairlead/sdk"
	"fairlead.dev/fairlead/server/auth"
	"fairlead.dev/fairlead/server/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// logBuffer holds everything that a server logs, at every level.
type logBuffer struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func (b *logBuffer) logger() *slog.Logger {
	return slog.New(slog.NewJSONHandler(b, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// clock is a clock that the test moves.
type clock struct {
	mu  sync.Mutex // guards now
	now time.Time
}

func newClock() *clock { return &clock{now: time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// running is a server that serves.
type running struct {
	*Server
	log  *logBuffer
	stop func() // closes it, and checks that everything ended well
}

// run starts a server; change may adjust its options. It ends with the test at the
// latest.
func run(t *testing.T, change func(*Options)) *running {
	t.Helper()
	log := &logBuffer{}
	opts := Options{Listen: "127.0.0.1:0", StateDir: t.TempDir(), Version: "v1.2.3-test", Logger: log.logger()}
	if change != nil {
		change(&opts)
	}
	s, err := New(t.Context(), opts)
	require.NoError(t, err)
	served := make(chan error, 1)
	go func() { served <- s.Serve() }()
	var once sync.Once
	stop := func() {
		once.Do(func() {
			http.DefaultTransport.(*http.Transport).CloseIdleConnections()
			require.NoError(t, s.Close(context.Background()))
			require.NoError(t, <-served)
		})
	}
	t.Cleanup(stop)
	return &running{Server: s, log: log, stop: stop}
}

// client returns an SDK client of the server.
func (s *running) client(t *testing.T, token string) *sdk.Client {
	t.Helper()
	c, err := sdk.NewClient(s.URL().String(), token)
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

// addUser stores a user and returns a token of theirs.
func (s *running) addUser(t *testing.T, name string, role store.Role) (store.User, string) {
	t.Helper()
	u, err := s.auth.NewUser(name, role)
	require.NoError(t, err)
	require.NoError(t, s.store.CreateUser(t.Context(), u))
	token, row := s.auth.NewUserToken(u.ID, "test")
	require.NoError(t, s.store.CreateToken(t.Context(), row))
	return u, token
}

// addToken stores a token of a user.
func (s *running) addToken(t *testing.T, u store.User, scope store.Scope) string {
	t.Helper()
	token, row := s.auth.NewUserToken(u.ID, "test")
	row.Scope = scope
	require.NoError(t, s.store.CreateToken(t.Context(), row))
	return token
}

// answer is what came back for a request.
type answer struct {
	*http.Response
	body string
}

// send makes one request with the given body and, unless it is empty, token.
func (s *running) send(t *testing.T, method, path, token, body string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, s.URL().String()+path, strings.NewReader(body))
	require.NoError(t, err)
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	return do(t, req)
}

func do(t *testing.T, req *http.Request) answer {
	t.Helper()
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return answer{resp, string(b)}
}

// requireRefusal checks an answer's status and its one error shape.
func requireRefusal(t *testing.T, a answer, status int, code string) sdk.ErrorBody {
	t.Helper()
	require.Equal(t, status, a.StatusCode, a.body)
	require.Equal(t, "v1.2.3-test", a.Header.Get(sdk.HeaderVersion))
	require.Equal(t, "application/json", a.Header.Get("Content-Type"))
	require.NotEmpty(t, a.Header.Get(sdk.HeaderReason))
	var e sdk.ErrorResponse
	d := json.NewDecoder(strings.NewReader(a.body))
	d.DisallowUnknownFields()
	require.NoError(t, d.Decode(&e), a.body)
	require.Equal(t, code, e.Error.Code)
	require.NotEmpty(t, e.Error.Message)
	require.NotContains(t, e.Error.Message, "\n")
	return e.Error
}

// newAgentToken returns a well-formed token that nobody has.
func newAgentToken() string {
	token, _ := auth.NewAgentToken()
	return token
}

// revoke makes a token void.
func revoke(c *sdk.Client, ctx context.Context, id string) error {
	_, err := c.RevokeToken(ctx, id)
	return err
}
