package sdk

import (
	"context"
	"net/http"
)

// Settings are how sessions in a workspace begin.
type Settings struct {
	// Directory is where, on the workspace's host; empty: the home directory. A relative
	// one is below that.
	Directory string `json:"directory"`
	// Environment is set for each of them.
	Environment map[string]string `json:"environment"`
	// MOTDFile is shown before a login shell on a terminal; empty: none.
	MOTDFile string `json:"motd_file"`
}

// UpdateSettingsRequest changes what is not nil. A variable whose value is nil goes.
type UpdateSettingsRequest struct {
	Directory   *string            `json:"directory,omitempty"`
	Environment map[string]*string `json:"environment,omitempty"`
	MOTDFile    *string            `json:"motd_file,omitempty"`
}

// Settings returns how sessions in a workspace begin.
func (c *Client) Settings(ctx context.Context, name string) (Settings, error) {
	var out Settings
	err := c.ofWorkspace(ctx, http.MethodGet, name, "/settings", nil, &out)
	return out, err
}

// UpdateSettings changes that.
func (c *Client) UpdateSettings(ctx context.Context, name string, req UpdateSettingsRequest) (Settings, error) {
	var out Settings
	err := c.ofWorkspace(ctx, http.MethodPatch, name, "/settings", req, &out)
	return out, err
}
