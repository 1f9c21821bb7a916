package cli

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"

	"fairlead.dev/fairlead/control"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/sdk"
	"fairlead.dev/fairlead/wsconn"
)

const (
	// probeTimeout bounds one request of a check.
	probeTimeout = 15 * time.Second
	// maxSkew is how far two clocks may be apart.
	maxSkew = time.Minute
	// soonExpired is when a certificate that was not renewed yet is worth a failure.
	soonExpired = 48 * time.Hour
)

// probe runs the checks of one server.
type probe struct {
	url       *url.URL
	transport *http.Transport
	found     map[string]finding
	answer    *http.Response // the first one, its body read; nil: none came
}

func (p *probe) close() {
	if p.transport != nil {
		p.transport.CloseIdleConnections()
	}
}

func (p *probe) ok(name, format string, args ...any) {
	p.found[name] = finding{Name: name, Status: checkOK, Found: disconnect.Scrub(fmt.Sprintf(format, args...))}
}

func (p *probe) fail(name, found, meaning, advice string) {
	p.found[name] = finding{Name: name, Status: checkFail, Found: disconnect.Scrub(found), Meaning: meaning, Advice: advice}
}

func (p *probe) encryption(insecure bool) {
	switch {
	case p.url.Scheme == "https":
		p.ok("encryption", "the URL is https")
	case !plainBeyondLoopback(p.url):
		p.ok("encryption", "the URL is http, but leads to this machine only")
	case insecure:
		p.ok("encryption", "the URL is http, which --insecure-http accepts")
	default:
		p.fail("encryption", "the URL is http: nothing encrypts the way to the server",
			"Whoever is in between can read tokens, and act as their owners.",
			"give the server --tls-cert and --tls-key or put a proxy with TLS in front of it; or accept it with --insecure-http")
	}
}

// reach asks the server about this way, and finds who answers instead.
func (p *probe) reach(ctx context.Context) (sdk.CheckInfo, bool) {
	p.transport = http.DefaultTransport.(*http.Transport).Clone()
	client, err := sdk.NewClient(p.url.String(), "")
	if err != nil {
		p.fail("connection", err.Error(), "There is nothing to check.", "give the URL of a server")
		return sdk.CheckInfo{}, false
	}
	defer client.Close()
	resp, err := p.get(ctx, p.url.JoinPath(sdk.CheckPath).String())
	if err != nil {
		p.unreachable(err)
		return sdk.CheckInfo{}, false
	}
	p.answer = resp
	p.ok("connection", "connected%s", p.through())
	p.certificate(resp)
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	info, err := client.Check(ctx)
	switch {
	case err == nil:
		p.ok("answer", "Fairlead %s answers", info.Version)
		return info, true
	case sdk.IsCode(err, sdk.CodeNotFound):
		p.fail("answer", "a Fairlead server answers, but it does not know this check",
			"Its version is older than this program, or the path of the URL is wrong.", "update the server, or look at the path of its URL")
	case resp.StatusCode >= 502 && resp.StatusCode <= 504:
		p.fail("answer", err.Error(), "A proxy is there, but the server behind it does not answer the proxy.",
			"start the server, and compare its --listen with the address that the proxy forwards to")
	case resp.StatusCode == http.StatusUnauthorized, resp.StatusCode == http.StatusForbidden:
		p.fail("answer", err.Error(), "Something in front of the server wants a login of its own, which agents and clients do not have.",
			"let the proxy pass everything below this URL without a login: Fairlead checks its own tokens")
	default:
		p.fail("answer", err.Error(), "A web page or another program is at this URL, so that agents and clients cannot find the server.",
			"use the server's own address; if it lives under a path, the URL must have it and the proxy must forward it")
	}
	return sdk.CheckInfo{}, false
}

// get makes one request, follows nothing, and reads the answer away.
func (p *probe) get(ctx context.Context, target string) (*http.Response, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return nil, err
	}
	resp, err := p.transport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20)) // what matters is in the header
	return resp, nil
}

// proxy is the one that the environment prescribes for the URL; "" is none.
func (p *probe) proxy() string {
	proxy, err := http.ProxyFromEnvironment(&http.Request{URL: p.url})
	if err != nil || proxy == nil {
		return ""
	}
	return proxy.Redacted()
}

// through names that proxy.
func (p *probe) through() string {
	proxy := p.proxy()
	if proxy == "" {
		return ""
	}
	return " through the proxy " + proxy + " of the environment"
}

// unreachable tells apart why there was no answer.
func (p *probe) unreachable(err error) {
	if p.badTLS(err) {
		return
	}
	var dns *net.DNSError
	var netErr net.Error
	const noWay = "Nobody can reach the server by this URL from here."
	switch {
	case p.through() != "":
		p.fail("connection", "no connection"+p.through()+": "+err.Error(), "The proxy does not let this program through to the server.",
			"correct HTTPS_PROXY or HTTP_PROXY, allow the server's address in the proxy, or name its host in NO_PROXY")
	case strings.Contains(err.Error(), "malformed HTTP"), strings.Contains(err.Error(), "readLoopPeekFailLocked"): // it spoke first, as SSH does
		p.ok("connection", "connected")
		p.fail("answer", p.port()+" does not speak HTTP", "Another program is at this URL, so that agents and clients cannot find the server.", "look at the port in the URL")
	case errors.As(err, &dns):
		p.fail("connection", fmt.Sprintf("the name %q does not resolve", dns.Name), noWay, "correct the name in the URL, or give it an address in DNS")
	case errors.Is(err, syscall.ECONNREFUSED):
		p.fail("connection", "the host refuses connections to "+p.port(), noWay, "start the server or the proxy, and look at the port it listens on")
	case errors.As(err, &netErr) && netErr.Timeout():
		p.fail("connection", "no answer from "+p.port(), noWay, "look at the address, and at firewalls on the way")
	default:
		p.fail("connection", "no answer: "+err.Error(), noWay, "look at the address and at what listens on its port")
	}
}

func (p *probe) port() string {
	return "port " + cmp.Or(p.url.Port(), map[string]string{"https": "443", "http": "80"}[p.url.Scheme])
}

// badTLS reports whether err is about TLS, and what.
func (p *probe) badTLS(err error) bool {
	const refused = "Agents, clients and browsers refuse the connection."
	var (
		notTLS  tls.RecordHeaderError
		expired x509.CertificateInvalidError
		name    x509.HostnameError
		issuer  x509.UnknownAuthorityError
		alert   tls.AlertError
	)
	switch {
	case errors.As(err, &notTLS), strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		p.fail("tls", p.port()+" does not speak TLS", refused, "use the http URL on this host, or turn TLS on in the server or the proxy at this port")
	case errors.As(err, &expired) && expired.Reason == x509.Expired:
		p.fail("tls", fmt.Sprintf("the certificate is valid from %s to %s, and here it is %s", expired.Cert.NotBefore.UTC().Format(time.DateTime),
			expired.Cert.NotAfter.UTC().Format(time.DateTime), time.Now().UTC().Format(time.DateTime)), refused, "renew the certificate; if it is valid, correct this machine's clock")
	case errors.As(err, &name):
		p.fail("tls", fmt.Sprintf("the certificate is for %s, not for %q", certNames(name.Certificate), name.Host), refused,
			"use the name of the certificate in the URL, or get a certificate for the URL's name")
	case errors.As(err, &issuer):
		p.fail("tls", "the certificate is signed by nobody whom this machine trusts", refused,
			"serve the whole chain in the certificate file; for an authority of your own, add it to this machine's trusted ones or name its file in SSL_CERT_FILE")
	case errors.As(err, &expired), errors.As(err, &alert):
		p.fail("tls", "the TLS handshake failed: "+err.Error(), refused, "look at the certificate and the TLS settings of the server or the proxy")
	default:
		return false
	}
	p.ok("connection", "connected%s", p.through())
	return true
}

func certNames(cert *x509.Certificate) string {
	names := cert.DNSNames
	for _, ip := range cert.IPAddresses {
		names = append(names, ip.String())
	}
	if len(names) == 0 {
		return "no name"
	}
	return strings.Join(names, ", ")
}

func (p *probe) certificate(resp *http.Response) {
	if resp.TLS == nil || len(resp.TLS.PeerCertificates) == 0 {
		p.ok("tls", "not in use")
		return
	}
	until := resp.TLS.PeerCertificates[0].NotAfter
	if left := time.Until(until); left < soonExpired {
		p.fail("tls", fmt.Sprintf("the certificate expires in %s, on %s", left.Round(time.Minute), until.UTC().Format(time.DateTime)),
			"From then on agents, clients and browsers refuse the connection.", "renew the certificate, and look why that did not happen by itself")
		return
	}
	p.ok("tls", "the certificate is valid until %s", until.UTC().Format(time.DateTime))
}

func (p *probe) clock(info sdk.CheckInfo) {
	skew := time.Since(info.Time).Round(time.Second)
	if skew.Abs() <= maxSkew {
		p.ok("clock", "the clocks agree")
		return
	}
	direction := "behind"
	if skew < 0 {
		direction = "ahead of"
	}
	p.fail("clock", fmt.Sprintf("the server's clock is %s %s this machine's", skew.Abs(), direction),
		"Certificates, tokens and grants look expired or not yet valid, and times in logs do not fit together.",
		"run a time service (systemd-timesyncd, chrony) on both machines")
}

// accessURL compares the address that the server tells others with the one that works.
func (p *probe) accessURL(ctx context.Context, info sdk.CheckInfo) {
	told, err := sdk.ParseURL(info.AccessURL)
	if err == nil && sameURL(told, p.url) {
		p.ok("access_url", "the server tells others this URL")
		return
	}
	const meaning = "Those whom the server tells its address do not find it: login hints, and every link that it makes."
	advice := "start the server with --access-url " + p.url.String()
	switch {
	case err != nil:
		p.fail("access_url", "the server's access URL cannot be read: "+err.Error(), meaning, advice)
		return
	case isLoopbackHost(told.Hostname()) && !isLoopbackHost(p.url.Hostname()):
		p.fail("access_url", fmt.Sprintf("the server tells others %s, which is a machine's own address", told), meaning, advice)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	other, err := sdk.NewClient(told.String(), "")
	if err == nil {
		defer other.Close()
		var there sdk.CheckInfo
		if there, err = other.Check(ctx); err == nil && there.Instance != info.Instance {
			err = errors.New("another server answers there")
		}
	}
	if err != nil {
		p.fail("access_url", fmt.Sprintf("the server tells others %s, which does not lead to it: %v", told, err), meaning, advice)
		return
	}
	p.ok("access_url", "the server tells others %s, which leads to it as well", told)
}

// sameURL compares two URLs as [sdk.ParseURL] returns them.
func sameURL(a, b *url.URL) bool {
	port := func(u *url.URL) string {
		return cmp.Or(u.Port(), map[string]string{"https": "443", "http": "80"}[u.Scheme])
	}
	return a.Scheme == b.Scheme && strings.EqualFold(a.Hostname(), b.Hostname()) && port(a) == port(b) && a.Path == b.Path
}

func (p *probe) caller(info sdk.CheckInfo) {
	if info.UntrustedProxy {
		p.fail("caller", "a proxy forwards requests, and the server does not trust it: it sees everybody at "+info.Caller,
			"Limits meant for one address hit everybody at once, and logs do not tell who came from where.",
			"start the server with --trusted-proxies "+info.Caller+" if that is your proxy")
		return
	}
	p.ok("caller", "the server sees this machine at %s", info.Caller)
}

// paths looks whether the two connections of agents and clients lead to the server as
// well: it refuses both, for want of a token, in its own words.
func (p *probe) paths(ctx context.Context) {
	for _, path := range []string{control.Path, "/api/v1/relay"} {
		resp, err := p.get(ctx, p.url.JoinPath(path).String())
		if err != nil || resp.Header.Get(sdk.HeaderVersion) == "" || resp.StatusCode != http.StatusUnauthorized {
			found := "no answer"
			if err == nil {
				found = "status " + resp.Status
			}
			p.fail("paths", fmt.Sprintf("%s does not lead to the server: %s", p.url.JoinPath(path), found),
				"Agents and clients cannot connect, although the rest works.", "let the proxy forward everything below this URL")
			return
		}
	}
	p.ok("paths", "control and relay lead to the server")
}

// socket opens a WebSocket, and waits on it in silence.
func (p *probe) socket(ctx context.Context, info sdk.CheckInfo) {
	opening, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	conn, err := wsconn.Dial(opening, p.url.JoinPath(sdk.CheckSocketPath).String(), wsconn.DialOptions{Subprotocols: []string{sdk.CheckSubprotocol}})
	if err != nil {
		p.noUpgrade(err)
		return
	}
	defer func() {
		_ = conn.CloseWith(disconnect.Goodbye{Reason: disconnect.Graceful, Initiator: disconnect.Client}.CloseCode())
	}()
	_ = conn.SetReadDeadline(time.Now().Add(probeTimeout)) // an error shows at Read
	lines := bufio.NewReader(conn)
	if line, err := lines.ReadString('\n'); err != nil || line != sdk.CheckBegin {
		p.fail("upgrade", "the WebSocket opens, but nothing comes through it: "+describeEnd(err),
			"Agents and clients connect and hear nothing.", "turn response buffering and inspection off in the proxy for this URL")
		return
	}
	p.ok("upgrade", "WebSockets pass")
	begin := time.Now()
	_ = conn.SetReadDeadline(begin.Add(info.Silence + probeTimeout))
	line, err := lines.ReadString('\n')
	after := time.Since(begin).Round(100 * time.Millisecond)
	switch {
	case err == nil && line == sdk.CheckEnd:
		p.ok("idle", "a WebSocket that was silent for %s is still open; Fairlead pings every %s", info.Silence, info.Ping)
	case conn.Ending().Code != 0 && disconnect.Reason(conn.Ending().Code-4000) == disconnect.ServerShutdown:
		p.fail("idle", "the server stopped meanwhile", "Whether silence is borne is not known.", "run the check again")
	case errors.Is(err, os.ErrDeadlineExceeded):
		p.fail("idle", fmt.Sprintf("a WebSocket that was silent for %s is dead, although nobody closed it", info.Silence),
			"Connections hang and are lost whenever nobody types.", "find the firewall or proxy that forgets connections, and raise its idle time-out to a minute or more")
	default:
		p.fail("idle", fmt.Sprintf("a WebSocket was cut after %s of silence; Fairlead pings every %s", after, info.Ping),
			"A proxy's idle time-out is shorter than the ping: agents and clients lose their connection again and again.",
			"raise the proxy's time-out for WebSockets to a minute or more (nginx: proxy_read_timeout and proxy_send_timeout; Caddy: none by default, look at stream_timeout)")
	}
}

// noUpgrade tells apart why there is no WebSocket where HTTP works.
func (p *probe) noUpgrade(err error) {
	const meaning = "Agents and clients cannot connect: their connections are WebSockets."
	var failed *wsconn.DialError
	switch {
	case errors.Is(err, wsconn.ErrSubprotocol):
		p.fail("upgrade", "the header Sec-WebSocket-Protocol was stripped or changed on the way", meaning, "let the proxy pass that header in both directions")
	case !errors.As(err, &failed) || failed.Status == 0:
		p.fail("upgrade", "there is no answer to a WebSocket upgrade: "+err.Error(), meaning, "look at what inspects HTTP on the way")
	case failed.Header.Get(sdk.HeaderVersion) != "" && failed.Status == http.StatusTooManyRequests:
		p.fail("upgrade", "the server has too many checks under way", "Whether WebSockets pass is not known.", "run the check again in a few seconds")
	case failed.Header.Get(sdk.HeaderVersion) != "":
		p.fail("upgrade", "the upgrade was stripped: a plain HTTP request reached the server", meaning,
			`let the proxy pass WebSocket upgrades (nginx: proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "upgrade";)`)
	case strings.Contains(failed.Header.Get("Content-Type"), "html"):
		p.fail("upgrade", fmt.Sprintf("a page of HTML with status %d came instead of 101 Switching Protocols", failed.Status), meaning,
			"let the proxy forward WebSocket upgrades below this URL to the server instead of answering them itself")
	default:
		p.fail("upgrade", fmt.Sprintf("status %d came instead of 101 Switching Protocols", failed.Status), meaning,
			"let the proxy forward WebSocket upgrades below this URL to the server instead of answering them itself")
	}
}

func describeEnd(err error) string {
	if err == nil {
		return "something else than the server's words"
	}
	return err.Error()
}
