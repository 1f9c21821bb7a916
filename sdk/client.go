package sdk

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"fairlead.dev/fairlead/disconnect"
)

// maxAnswer bounds how much of an answer is read, in bytes.
const maxAnswer = 4 << 20

// Error is an answer that is not a success, or the lack of one. Its text is one
// sentence for people, safe to print.
type Error struct {
	Status  int    // of the HTTP answer; 0 when there was none
	Code    string // one of the Code constants, or a newer server's
	Message string
	Err     error // what the client saw, when there was no answer
}

// Error returns the sentence.
func (e *Error) Error() string { return e.Message }

// Unwrap returns what the client saw.
func (e *Error) Unwrap() error { return e.Err }

// IsCode reports whether err is an [Error] with that code.
func IsCode(err error, code string) bool {
	var e *Error
	return errors.As(err, &e) && e.Code == code
}

// Client speaks to one server as one user. It is safe for concurrent use.
type Client struct {
	base  *url.URL
	token string
	http  *http.Client
}

// ParseURL reads an access URL as people type it: http or https with a host, and
// perhaps a path under which the server lives. The path comes back without the last
// slash.
func ParseURL(accessURL string) (*url.URL, error) {
	u, err := url.Parse(strings.TrimSpace(accessURL))
	switch {
	case err != nil, u.Hostname() == "", u.Scheme != "http" && u.Scheme != "https", !validPort(u.Port()):
		return nil, fmt.Errorf("%q is not a server URL: it looks like https://fairlead.example.com", disconnect.Scrub(accessURL))
	case u.User != nil, u.RawQuery != "", u.Fragment != "":
		return nil, fmt.Errorf("the server URL %q must not hold a user, a query or a fragment", disconnect.Scrub(u.Redacted()))
	}
	return &url.URL{Scheme: u.Scheme, Host: u.Host, Path: strings.TrimRight(u.Path, "/")}, nil
}

// validPort reports whether s can be a port, or is empty for the scheme's own.
func validPort(s string) bool {
	port, err := strconv.ParseUint(s, 10, 16)
	return s == "" || (err == nil && port > 0)
}

// NewClient returns a client of the server at accessURL. The token may be empty for
// [Client.Login] and [Client.BuildInfo].
func NewClient(accessURL, token string) (*Client, error) {
	base, err := ParseURL(accessURL)
	if err != nil {
		return nil, err
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.IdleConnTimeout = 30 * time.Second
	return &Client{
		base:  base,
		token: token,
		http: &http.Client{
			Transport: transport,
			Timeout:   30 * time.Second,
			// A redirect leads away from the address that the profile, and later the
			// WebSocket, uses: tell the person instead of following it.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

// URL returns the access URL.
func (c *Client) URL() *url.URL {
	u := *c.base
	return &u
}

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// BuildInfo asks which server this is. It needs no token.
func (c *Client) BuildInfo(ctx context.Context) (BuildInfo, error) {
	var out BuildInfo
	err := c.do(ctx, http.MethodGet, "/api/v1/version", nil, &out)
	return out, err
}

// Login exchanges the one-time code. It needs no token; the answer holds one.
func (c *Client) Login(ctx context.Context, req LoginRequest) (LoginResponse, error) {
	var out LoginResponse
	err := c.do(ctx, http.MethodPost, "/api/v1/login", req, &out)
	return out, err
}

// Workspaces returns what the user reaches: their own and those shared with them, and
// every one for an admin.
func (c *Client) Workspaces(ctx context.Context) ([]Workspace, error) {
	var out WorkspaceList
	err := c.do(ctx, http.MethodGet, "/api/v1/workspaces", nil, &out)
	return out.Workspaces, err
}

// Workspace returns one workspace by name, or somebody else's by "owner/name".
func (c *Client) Workspace(ctx context.Context, name string) (Workspace, error) {
	var out Workspace
	path := "/api/v1/workspaces"
	for _, part := range strings.SplitN(name, "/", 2) {
		if !ValidName(part) {
			return out, &Error{Code: CodeInvalid, Message: fmt.Sprintf("%q is not a workspace name: %s", disconnect.Scrub(name), NameRule)}
		}
		path += "/" + part
	}
	err := c.do(ctx, http.MethodGet, path, nil, &out)
	return out, err
}

// CreateWorkspace makes a workspace of the caller and returns its agent's token.
func (c *Client) CreateWorkspace(ctx context.Context, req CreateWorkspaceRequest) (CreateWorkspaceResponse, error) {
	var out CreateWorkspaceResponse
	err := c.do(ctx, http.MethodPost, "/api/v1/workspaces", req, &out)
	return out, err
}

// do sends one request; in may be nil. It returns nil or an [*Error].
func (c *Client) do(ctx context.Context, method, path string, in, out any) error {
	return c.doQuery(ctx, method, path, nil, in, out)
}

func (c *Client) doQuery(ctx context.Context, method, path string, query url.Values, in, out any) error {
	req, err := c.request(ctx, method, path, query, in)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return c.unreachable(err)
	}
	defer resp.Body.Close()
	return c.answer(resp, out)
}

// stream asks for an answer that lasts: only ctx ends it, and the caller must Close it.
func (c *Client) stream(ctx context.Context, path string, query url.Values) (io.ReadCloser, error) {
	req, err := c.request(ctx, http.MethodGet, path, query, nil)
	if err != nil {
		return nil, err
	}
	lasting := *c.http
	lasting.Timeout = 0
	resp, err := lasting.Do(req)
	if err != nil {
		return nil, c.unreachable(err)
	}
	if resp.StatusCode/100 != 2 || resp.Header.Get(HeaderVersion) == "" {
		defer resp.Body.Close()
		return nil, c.answer(resp, nil)
	}
	return resp.Body, nil
}

func (c *Client) request(ctx context.Context, method, path string, query url.Values, in any) (*http.Request, error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, &Error{Code: CodeInvalid, Message: "encode request: " + err.Error(), Err: err}
		}
		body = bytes.NewReader(b)
	}
	target := c.base.JoinPath(path)
	target.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, method, target.String(), body)
	if err != nil {
		return nil, &Error{Code: CodeInvalid, Message: "make request: " + err.Error(), Err: err}
	}
	req.Header.Set("Accept", "application/json")
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	return req, nil
}

// answer reads an HTTP answer into out, or into an error.
func (c *Client) answer(resp *http.Response, out any) error {
	if resp.Header.Get(HeaderVersion) == "" {
		return c.notFairlead(resp)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return c.unreachable(err)
	}
	if resp.StatusCode/100 == 2 {
		if err := json.Unmarshal(b, out); err != nil {
			return &Error{Status: resp.StatusCode, Code: CodeNotFairlead, Err: err,
				Message: fmt.Sprintf("the server at %s sent an answer that cannot be read", c.base)}
		}
		return nil
	}
	var e ErrorResponse
	if err := json.Unmarshal(b, &e); err != nil || e.Error.Message == "" {
		return &Error{Status: resp.StatusCode, Code: CodeInternal, Message: fmt.Sprintf("the server at %s answered with status %d", c.base, resp.StatusCode)}
	}
	return &Error{Status: resp.StatusCode, Code: disconnect.Scrub(e.Error.Code), Message: disconnect.Scrub(e.Error.Message)}
}

// notFairlead tells what answered instead of a Fairlead server.
func (c *Client) notFairlead(resp *http.Response) error {
	e := &Error{Status: resp.StatusCode, Code: CodeNotFairlead}
	kind, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil {
		kind = "no readable type"
	}
	page, _ := io.ReadAll(io.LimitReader(resp.Body, 1024)) // only to recognise a hint
	switch {
	case c.base.Scheme == "http" && bytes.Contains(page, []byte("HTTP request to an HTTPS server")):
		e.Message = fmt.Sprintf("the server at %s speaks https: use https://%s%s", c.base, c.base.Host, c.base.Path)
	case resp.StatusCode/100 == 3:
		e.Message = fmt.Sprintf("%s redirects to %q: use the address of the Fairlead server itself", c.base, disconnect.Scrub(resp.Header.Get("Location")))
	case resp.StatusCode >= 502 && resp.StatusCode <= 504:
		e.Message = fmt.Sprintf("a proxy at %s answered with status %d: the Fairlead server behind it does not answer", c.base, resp.StatusCode)
	default:
		e.Message = fmt.Sprintf("%s is not a Fairlead server: it answered with status %d and %s", c.base, resp.StatusCode, disconnect.Scrub(kind))
	}
	return e
}

// unreachable makes one sentence of a request that got no answer.
func (c *Client) unreachable(err error) error {
	if errors.Is(err, context.Canceled) {
		return &Error{Code: CodeUnreachable, Message: fmt.Sprintf("the request to %s was cancelled", c.base), Err: err}
	}
	cause := err
	var urlErr *url.Error
	if errors.As(err, &urlErr) { // its text repeats method and URL
		cause = urlErr.Err
	}
	if isForeign(cause) {
		return &Error{Code: CodeNotFairlead, Err: err,
			Message: fmt.Sprintf("%s is not a Fairlead server: it does not speak %s", c.base, strings.ToUpper(c.base.Scheme))}
	}
	why := cause.Error()
	var netErr net.Error
	switch {
	case errors.As(err, &netErr) && netErr.Timeout():
		why = "no answer in time"
	case errors.Is(err, io.EOF):
		why = "it closed the connection without an answer"
	}
	return &Error{Code: CodeUnreachable, Err: err, Message: fmt.Sprintf("cannot reach the server at %s%s: %s", c.base, c.through(), disconnect.Scrub(why))}
}

// through names the proxy that the environment prescribes, without its password.
func (c *Client) through() string {
	proxy, err := http.ProxyFromEnvironment(&http.Request{URL: c.base})
	if err != nil || proxy == nil {
		return ""
	}
	return disconnect.Scrub(" through the proxy " + proxy.Redacted())
}

// isForeign reports whether an error of net/http means that the other end speaks
// something else than was asked of it. For most of these there is only the text.
func isForeign(err error) bool {
	var record tls.RecordHeaderError
	if errors.As(err, &record) {
		return true
	}
	text := err.Error()
	for _, mark := range []string{
		"malformed HTTP",
		"server gave HTTP response to HTTPS client",
		"readLoopPeekFailLocked: %!w(<nil>)", // it spoke before it was asked, as SSH does
	} {
		if strings.Contains(text, mark) {
			return true
		}
	}
	return false
}
