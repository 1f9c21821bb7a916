package sdk

import (
	"context"
	"net/http"
	"time"
)

// ConnectionGap is a time in which a workspace's agent may have had connections that are
// not in the connection log.
type ConnectionGap struct {
	Workspace string    `json:"workspace"`
	Owner     string    `json:"owner"`
	Began     time.Time `json:"began_at"`
	Ended     time.Time `json:"ended_at"`
	Detail    string    `json:"detail"`
}

// ConnectionGapList is a list of gaps, the newest first.
type ConnectionGapList struct {
	Gaps []ConnectionGap `json:"gaps"`
}

// ConnectionGaps returns the gaps of one workspace, NAME or OWNER/NAME, or of all that
// the caller owns (an admin: of all) when it is empty, that ended since a time.
func (c *Client) ConnectionGaps(ctx context.Context, workspace string, since time.Time) ([]ConnectionGap, error) {
	var out ConnectionGapList
	query := ConnectionQuery{Workspace: workspace, Since: since}.Values()
	err := c.doQuery(ctx, http.MethodGet, "/api/v1/connections/gaps", query, nil, &out)
	return out.Gaps, err
}
