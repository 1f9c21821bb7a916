package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"fairlead.dev/fairlead/agent/proto"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/sdk"
)

// contextTimeout bounds the question for a workspace's context, its answer included.
const contextTimeout = 30 * time.Second

// ContextConfig asks the agent what the workspace has to tell coding agents. An error
// is one sentence; [disconnect.FromError] tells its attribution if the agent was not
// reached. What the answer says is the workspace's word, made safe to show.
func (w *Workspace) ContextConfig(ctx context.Context) (proto.ContextConfig, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, contextTimeout, &disconnect.EndedError{Attribution: disconnect.Attribution{
		ConnectType: disconnect.AgentToClient,
		Reason:      disconnect.NetworkTimeout,
		Initiator:   disconnect.Network,
		Detail:      fmt.Sprintf("no answer for %v, as from an agent that is too old to have a context to tell", contextTimeout),
	}})
	defer cancel()
	what := "read the context of workspace " + disconnect.Scrub(w.config.name)
	body, status, err := w.get(ctx, proto.ContextConfigPath, proto.MaxContextConfig)
	switch {
	case errors.Is(err, errAnswerTooLarge):
		return proto.ContextConfig{}, fmt.Errorf("%s: %w", what, err)
	case err != nil:
		return proto.ContextConfig{}, failed(what, w.notConnected(ctx, err), err)
	}
	if status != http.StatusOK {
		var refused sdk.ErrorResponse
		_ = json.Unmarshal(body, &refused) // what is no refusal says nothing more
		return proto.ContextConfig{}, fmt.Errorf("%s: the agent answered %d %s", what, status, disconnect.Scrub(refused.Error.Message))
	}
	var config proto.ContextConfig
	if err := json.Unmarshal(body, &config); err != nil {
		return proto.ContextConfig{}, fmt.Errorf("%s: the agent's answer makes no sense", what)
	}
	config.Clean()
	return config, nil
}

var errAnswerTooLarge = errors.New("the agent's answer is too large")

// get asks the agent's HTTP API, on a connection of its own, for a body of at most
// limit bytes.
func (w *Workspace) get(ctx context.Context, path string, limit int64) (body []byte, status int, err error) {
	transport := &http.Transport{
		DialContext:            func(ctx context.Context, _, _ string) (net.Conn, error) { return w.config.dialAPI(ctx) },
		DisableKeepAlives:      true,
		DisableCompression:     true, // which would hide how large it is
		MaxResponseHeaderBytes: 16 << 10,
	}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://agent"+path, nil)
	if err != nil {
		return nil, 0, err
	}
	answer, err := transport.RoundTrip(request) // not a client: nothing is followed
	if err != nil {
		return nil, 0, err
	}
	defer answer.Body.Close()
	body, err = io.ReadAll(io.LimitReader(answer.Body, limit+1))
	if err == nil && int64(len(body)) > limit {
		err = errAnswerTooLarge
	}
	return body, answer.StatusCode, err
}
