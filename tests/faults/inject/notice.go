package inject

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"fairlead.dev/fairlead/tests/faults/netlab"
)

// PlatformNotice tells the server, as the platform below a workspace does, that the host of
// the workspace, given as owner/name, will be gone at the deadline. The kind is the platform's word, as in
// "preempted". It speaks from the host from, with an admin's token. The undo withdraws it.
func PlatformNotice(ctx context.Context, from *netlab.Host, url, token, workspace, kind string, deadline time.Time) (*Injection, error) {
	ask := func(ctx context.Context, method, body string) error {
		req, err := http.NewRequestWithContext(ctx, method, url+"/api/v1/workspaces/"+workspace+"/notice", strings.NewReader(body))
		if err != nil {
			return err
		}
		req.Header.Set("Authorization", "Bearer "+token)
		req.Header.Set("Content-Type", "application/json")
		client := http.Client{Transport: &http.Transport{DialContext: from.Dial, DisableKeepAlives: true}, Timeout: patience}
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode/100 != 2 {
			text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10)) // as much as there is
			return fmt.Errorf("the server says %s: %s", resp.Status, text)
		}
		return nil
	}
	body := fmt.Sprintf(`{"kind":%q,"deadline":%q}`, kind, deadline.UTC().Format(time.RFC3339Nano))
	return inject(ctx, Truth{Fault: "platform notice", Whom: workspace, Detail: kind},
		func(ctx context.Context) error { return ask(ctx, http.MethodPost, body) },
		func(ctx context.Context) error { return ask(ctx, http.MethodDelete, "") })
}
