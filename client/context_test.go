package client

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/agent/proto"
	"fairlead.dev/fairlead/disconnect"
)

// answerAPI makes b's agent answer each question for its context with says.
func answerAPI(t *testing.T, b *bench, says func(io.Writer)) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var serve sync.WaitGroup
	serve.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
				says(c)
			}
			_ = c.Close()
		}
	})
	t.Cleanup(func() {
		require.NoError(t, l.Close())
		serve.Wait()
	})
	b.config.dialAPI = func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", l.Addr().String())
	}
}

// TestContextOfAHostileAgent: whatever answers costs bounded memory and shows nothing
// that a terminal obeys.
func TestContextOfAHostileAgent(t *testing.T) {
	b := open(t)
	const head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n"
	for name, tt := range map[string]struct {
		says func(io.Writer)
		err  string
	}{
		"nothing":    {func(io.Writer) {}, "read the context of workspace dev: "},
		"noise":      {func(w io.Writer) { _, _ = io.WriteString(w, strings.Repeat("\xff", 5000)) }, "read the context of workspace dev: "},
		"no JSON":    {func(w io.Writer) { _, _ = io.WriteString(w, head+"<html>") }, "the agent's answer makes no sense"},
		"half of it": {func(w io.Writer) { _, _ = io.WriteString(w, head+`{"parts":[`) }, "the agent's answer makes no sense"},
		"refusal": {func(w io.Writer) {
			_, _ = io.WriteString(w, "HTTP/1.1 503 no\r\n\r\n"+`{"error":{"code":"unavailable","message":"stopping\u001b[2J\u202e"}}`)
		}, "the agent answered 503 stopping [2J"},
		"elsewhere": {func(w io.Writer) {
			_, _ = io.WriteString(w, "HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\n\r\n")
		}, "the agent answered 302"},
		"huge header":  {func(w io.Writer) { _, _ = io.WriteString(w, "HTTP/1.1 200 OK\r\nX: "+strings.Repeat("x", 1<<20)) }, "read the context of workspace dev: "},
		"without end":  {func(w io.Writer) { endless(w, head+`{"parts":[`) }, "the agent's answer is too large"},
		"packed bomb":  {func(w io.Writer) { _, _ = io.WriteString(w, strings.Replace(head, "Type", "Encoding", 1)+"\x1f\x8b") }, "the agent's answer makes no sense"},
		"deep nesting": {func(w io.Writer) { _, _ = io.WriteString(w, head+strings.Repeat("[", 1<<20)) }, "the agent's answer makes no sense"},
	} {
		t.Run(name, func(t *testing.T) {
			answerAPI(t, b, tt.says)
			_, err := b.ContextConfig(t.Context())
			require.ErrorContains(t, err, tt.err)
			require.NotContains(t, err.Error(), "\x1b")
		})
	}
	t.Run("escape sequences", func(t *testing.T) {
		answerAPI(t, b, func(w io.Writer) {
			_, _ = fmt.Fprint(w, head, `{"parts":[{"type":"context-file","context_file_path":"/\u001b[2J","context_file_content":"a\u009b2J\u202e\nb"}]}`)
		})
		got, err := b.ContextConfig(t.Context())
		require.NoError(t, err)
		require.Equal(t, proto.ContextConfig{
			Parts:          []proto.ContextPart{{Type: proto.ContextFile, Path: "/ [2J", Content: "a2J\nb", Cleaned: true}},
			MCPConfigFiles: []string{}, Skipped: []proto.ContextSkipped{},
		}, got)
	})
}

func endless(w io.Writer, begin string) {
	_, err := io.WriteString(w, begin)
	for part := strings.Repeat("[],", 1<<14); err == nil; {
		_, err = io.WriteString(w, part)
	}
}

// TestContextOfAnAgentThatIsSilent, as one that is too old: its packet filter drops
// what comes to a port that it does not know.
func TestContextOfAnAgentThatIsSilent(t *testing.T) {
	b := open(t)
	b.config.dialAPI = func(ctx context.Context) (net.Conn, error) {
		<-ctx.Done()
		return nil, context.Cause(ctx)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := b.ContextConfig(ctx)
	require.ErrorContains(t, err, "read the context of workspace dev: ")
	a, ok := disconnect.FromError(err)
	require.True(t, ok)
	require.Equal(t, disconnect.NetworkTimeout, a.Reason, a.String())

	b.config.dialAPI = func(context.Context) (net.Conn, error) { return nil, errors.New("gone") }
	b.Goodbye(t.Context(), disconnect.Goodbye{Reason: disconnect.ClientClosed, Initiator: disconnect.Client, Detail: "left"})
	_, err = b.ContextConfig(t.Context())
	a, _ = disconnect.FromError(err)
	require.Equal(t, disconnect.ClientClosed, a.Reason, "the ending of the workspace is the cause")
}
