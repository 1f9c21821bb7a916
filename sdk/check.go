package sdk

import (
	"context"
	"net/http"
	"time"
)

// With these paths `fairlead server check` finds out what lies between it and the
// server. Neither needs a token.
const (
	// CheckPath answers a [CheckInfo].
	CheckPath = "/api/v1/check"
	// CheckSocketPath is a WebSocket on which the server says [CheckBegin], nothing for
	// CheckInfo.Silence, and then [CheckEnd].
	CheckSocketPath = "/api/v1/check/socket"
	// CheckSubprotocol is the sub-protocol of that WebSocket.
	CheckSubprotocol = "fairlead-check-1"
	// CheckBegin and CheckEnd are what the server says.
	CheckBegin, CheckEnd = "begin\n", "end\n"
)

// CheckInfo is what the server knows of the way by which a request came.
type CheckInfo struct {
	Version   string    `json:"version"`
	Instance  string    `json:"instance"` // names this life of the server
	AccessURL string    `json:"access_url"`
	Time      time.Time `json:"time"`
	// Caller is the address of the caller as the server sees it.
	Caller string `json:"caller"`
	// UntrustedProxy says that a proxy has named another caller, and that the server
	// does not trust that proxy.
	UntrustedProxy bool `json:"untrusted_proxy"`
	// Ping is how often at least something crosses each of Fairlead's connections, and
	// Silence, which is a little longer, how long the check's WebSocket is silent.
	Ping    time.Duration `json:"ping_ns"`
	Silence time.Duration `json:"silence_ns"`
}

// Check asks the server how the request came. It needs no token.
func (c *Client) Check(ctx context.Context) (CheckInfo, error) {
	var out CheckInfo
	err := c.do(ctx, http.MethodGet, CheckPath, nil, &out)
	return out, err
}
