package control

import (
	"errors"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/wsconn"
)

// Judge says what the error of an RPC means for a connection of layer t between self
// and peer, when nothing is known of its link's ending; [EndingOf] asks that first. A
// nil error is a status OK without a goodbye: graceful, by the peer. A bare io.EOF
// never is; whoever knows that it stands for a status OK passes nil.
func Judge(err error, t disconnect.ConnectType, self, peer disconnect.Initiator) disconnect.Attribution {
	if err == nil {
		return disconnect.Attribution{ConnectType: t, Reason: disconnect.Graceful, Initiator: peer}
	}
	if a, ok := disconnect.FromError(err); ok {
		return a.On(t)
	}
	st, ok := status.FromError(err)
	if !ok {
		return disconnect.Judge(err, t, self)
	}
	a := judgeStatus(st, self, peer)
	a.Detail = disconnect.Scrub("rpc " + st.Code().String() + ": " + st.Message())
	return a.On(t)
}

// judgeStatus judges a gRPC status. Where the reason that fits best is of a kind that
// nothing produces yet, the nearest of the set stands for it.
func judgeStatus(st *status.Status, self, peer disconnect.Initiator) disconnect.Attribution {
	as := func(r disconnect.Reason, i disconnect.Initiator) disconnect.Attribution {
		return disconnect.Attribution{Reason: r, Initiator: i}
	}
	switch st.Code() {
	case codes.OK:
		return as(disconnect.Graceful, peer)
	case codes.Canceled:
		return judgeCanceled(st.Message(), self)
	case codes.Internal:
		if strings.Contains(st.Message(), "frame") {
			return as(disconnect.ProtocolError, peer)
		}
		return as(disconnect.InternalError, peer)
	case codes.DeadlineExceeded:
		return as(disconnect.NetworkTimeout, disconnect.Network)
	case codes.InvalidArgument, codes.Unimplemented, codes.FailedPrecondition:
		return as(disconnect.VersionMismatch, peer)
	case codes.NotFound, codes.PermissionDenied, codes.Unauthenticated:
		return as(disconnect.AuthFailed, peer)
	case codes.ResourceExhausted, codes.AlreadyExists:
		return as(disconnect.LimitExceeded, peer)
	case codes.DataLoss, codes.OutOfRange:
		return as(disconnect.ProtocolError, peer)
	case codes.Unavailable:
		return judgeUnavailable(st.Message(), self, peer)
	default: // Unknown, Aborted
		return as(disconnect.InternalError, peer)
	}
}

// judgeCanceled judges a cancelled RPC. On the dialling side it is our own context;
// on the server a lost transport looks the same, so nothing is claimed there.
func judgeCanceled(text string, self disconnect.Initiator) disconnect.Attribution {
	lost := disconnect.Attribution{Reason: disconnect.NetworkError, Initiator: disconnect.Network}
	if strings.Contains(text, "client connection is closing") {
		return lost // the link was torn down, for a reason that only the link knows
	}
	switch self {
	case disconnect.Client:
		return disconnect.Attribution{Reason: disconnect.ClientClosed, Initiator: disconnect.Client}
	case disconnect.Agent:
		return disconnect.Attribution{Reason: disconnect.ServerShutdown, Initiator: disconnect.Agent}
	case disconnect.Relay:
		return disconnect.Attribution{Reason: disconnect.ServerShutdown, Initiator: disconnect.Relay}
	default:
		return lost
	}
}

// judgeUnavailable reads gRPC's account of a lost transport, of which only the text
// is left: the GOAWAY that came before, or the raw error.
func judgeUnavailable(text string, self, peer disconnect.Initiator) disconnect.Attribution {
	a := disconnect.Attribution{Reason: disconnect.NetworkError, Initiator: disconnect.Network}
	if _, code, ok := strings.Cut(text, "received prior goaway: code: "); ok {
		code, _, _ = strings.Cut(code, ",")
		return judgeGoAway(code, self, peer)
	}
	for _, known := range []struct {
		text      string
		reason    disconnect.Reason
		initiator disconnect.Initiator
	}{
		{"connection reset by peer", disconnect.ConnectionReset, disconnect.Network},
		{"broken pipe", disconnect.ConnectionReset, disconnect.Network},
		{"connection refused", disconnect.ConnectionRefused, peer},
		{"timed out", disconnect.NetworkTimeout, disconnect.Network},
		{"i/o timeout", disconnect.NetworkTimeout, disconnect.Network},
		{"no route to host", disconnect.NetworkUnreachable, disconnect.Network},
		{"network is unreachable", disconnect.NetworkUnreachable, disconnect.Network},
	} {
		if strings.Contains(text, known.text) {
			a.Reason, a.Initiator = known.reason, known.initiator
			break
		}
	}
	return a
}

func judgeGoAway(code string, self, peer disconnect.Initiator) disconnect.Attribution {
	switch code {
	case "NO_ERROR":
		return disconnect.Attribution{Reason: disconnect.ServerShutdown, Initiator: peer}
	case "ENHANCE_YOUR_CALM":
		return disconnect.Attribution{Reason: disconnect.LimitExceeded, Initiator: self}
	case "INTERNAL_ERROR":
		return disconnect.Attribution{Reason: disconnect.InternalError, Initiator: peer}
	case "INADEQUATE_SECURITY":
		return disconnect.Attribution{Reason: disconnect.TLSFailure, Initiator: peer}
	default:
		return disconnect.Attribution{Reason: disconnect.ProtocolError, Initiator: self}
	}
}

// Patience is how long the peer of a link that ended so must have missed us to have closed
// it for that; 0 if it did not close it. A shorter standstill of ours is not why.
func Patience(ending disconnect.Attribution) time.Duration {
	if ending.Reason == disconnect.NetworkError || ending.Reason == disconnect.ConnectionReset {
		return Silence - defaultHeartbeat // it heard us last up to a heartbeat before
	}
	return 0
}

// JudgeDial says what a failed [Dial] means. The reason that the server gave with its
// HTTP answer decides; an answer without one may be a proxy's.
func JudgeDial(err error, t disconnect.ConnectType, self, peer disconnect.Initiator) disconnect.Attribution {
	var failed *wsconn.DialError
	switch {
	case err == nil || !errors.As(err, &failed):
		return disconnect.Judge(err, t, self)
	case errors.Is(err, wsconn.ErrSubprotocol):
		return disconnect.Attribution{
			ConnectType: t, Reason: disconnect.VersionMismatch, Initiator: peer,
			Detail: disconnect.Scrub(failed.Error()),
		}
	case failed.Status == 0:
		return disconnect.Judge(err, t, self)
	}
	a := disconnect.Attribution{ConnectType: t, Detail: disconnect.Scrub(failed.Error())}
	reason, ours := failed.Reason()
	if ours {
		a.Reason, a.Initiator = reason, peer
		return a
	}
	note := ""
	a.Reason, a.Initiator, note = judgeHTTP(failed, peer)
	if note != "" {
		a.Detail = disconnect.Scrub(note + ": " + a.Detail)
	}
	return a
}

// judgeHTTP judges an HTTP answer that does not say that it is a Fairlead server's.
func judgeHTTP(e *wsconn.DialError, peer disconnect.Initiator) (disconnect.Reason, disconnect.Initiator, string) {
	html := strings.Contains(e.Header.Get("Content-Type"), "html") || strings.HasPrefix(e.Body, "<")
	const stranger = "not a fairlead server"
	switch status := e.Status; {
	case status >= 300 && status < 400:
		return disconnect.NetworkUnreachable, disconnect.Network, "captive_portal to " + e.Header.Get("Location")
	case status == http.StatusNetworkAuthenticationRequired, status == http.StatusOK && html:
		return disconnect.NetworkUnreachable, disconnect.Network, "captive_portal"
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return disconnect.AuthFailed, peer, stranger
	case status == http.StatusProxyAuthRequired:
		return disconnect.NetworkUnreachable, disconnect.Network, "proxy_auth"
	case status == http.StatusRequestTimeout:
		return disconnect.SlowPeer, disconnect.Network, ""
	case status == http.StatusUpgradeRequired:
		return disconnect.VersionMismatch, peer, stranger
	case status == http.StatusTooManyRequests:
		return disconnect.LimitExceeded, peer, retryAfter(e.Header)
	case status == http.StatusServiceUnavailable:
		return disconnect.LimitExceeded, peer, retryAfter(e.Header)
	case status == http.StatusInternalServerError:
		return disconnect.InternalError, peer, ""
	case status == http.StatusBadGateway:
		return disconnect.ConnectionRefused, peer, ""
	case status == http.StatusGatewayTimeout:
		return disconnect.NetworkTimeout, disconnect.Network, "behind a proxy"
	default: // 404 and whatever else speaks HTTP
		return disconnect.ProtocolError, peer, stranger
	}
}

func retryAfter(h http.Header) string {
	if n, ok := retrySeconds(h); ok {
		return "retry_after=" + strconv.Itoa(n) + "s"
	}
	return ""
}

func retrySeconds(h http.Header) (int, bool) {
	n, err := strconv.Atoi(h.Get("Retry-After"))
	return n, err == nil && n >= 0
}

// longestRetryAfter bounds what whoever answers can make us wait.
const longestRetryAfter = 5 * time.Minute

// RetryAfter returns how long to wait at least before the next [Dial], as the answer to
// the last one asked, with up to half of it added so that not all who were sent away
// come back at once. It is 0 when nothing was asked.
func RetryAfter(err error) time.Duration {
	var failed *wsconn.DialError
	if !errors.As(err, &failed) {
		return 0
	}
	n, ok := retrySeconds(failed.Header)
	if !ok || n == 0 {
		return 0
	}
	wait := longestRetryAfter
	if n < int(wait/time.Second) {
		wait = time.Duration(n) * time.Second
	}
	return wait + rand.N(wait/2)
}
