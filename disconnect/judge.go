package disconnect

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"os"
	"strings"
	"syscall"
)

// Judge says what an error of the standard library means for a connection of layer
// t, seen by self (Client, Agent or Server). The detail keeps the error's text,
// scrubbed, so that no evidence is lost.
//
// An [EndedError] in err, and so a context cause that carries one, decides before
// anything else: ask it by passing context.Cause(ctx). The rest is an inference from
// one side: a caller that has a goodbye or its own recorded cause must prefer that.
// A bare EOF or net.ErrClosed is never graceful here, for it looks the same after a
// polite close and after kill -9.
//
// Whether a nil error is a graceful end only the caller can know; Judge answers nil
// with Unknown. No other error gives Unknown or InitiatorUnknown, unless an
// EndedError says so: what is not recognised is a network error.
func Judge(err error, t ConnectType, self Initiator) Attribution {
	if err == nil {
		return Attribution{ConnectType: t, Detail: "judged without an error"}
	}
	if a, ok := FromError(err); ok {
		return a.On(t)
	}
	a := Attribution{ConnectType: t, Reason: NetworkError, Initiator: Network, Detail: Scrub(err.Error())}
	for _, judge := range judges {
		if reason, initiator, note := judge(err, partyOr(self, Network), peerOf(t, self)); reason != Unknown {
			a.Reason, a.Initiator = reason, initiator
			if note != "" {
				a.Detail = Scrub(note + ": " + err.Error())
			}
			break
		}
	}
	return a
}

// judges are asked in order; the first that knows the error decides. Our own
// cancellation comes first, then what names its cause exactly, then what does not.
var judges = []func(err error, self, peer Initiator) (_ Reason, _ Initiator, note string){
	judgeCancellation,
	judgeDNS, // before the time-outs: a DNSError may be one
	judgeTLS,
	judgeWrongProtocol,
	judgeErrno, // before the time-outs: some errnos report Timeout()
	judgeTimeout,
}

// judgeCancellation is for a context that nobody gave a cause: the process itself
// is stopping.
func judgeCancellation(err error, self, _ Initiator) (Reason, Initiator, string) {
	switch {
	case !errors.Is(err, context.Canceled):
		return Unknown, InitiatorUnknown, ""
	case self == Client:
		return ClientClosed, Client, ""
	default:
		return ServerShutdown, self, ""
	}
}

// judgeDNS tells a name that does not resolve from a resolver that is out of reach.
// With its link down Go reports the latter in the DNSError's text only.
func judgeDNS(err error, _, _ Initiator) (Reason, Initiator, string) {
	var dnsErr *net.DNSError
	switch {
	case !errors.As(err, &dnsErr):
		return Unknown, InitiatorUnknown, ""
	case strings.Contains(dnsErr.Err, "network is unreachable"):
		return NetworkUnreachable, Network, ""
	default:
		return DNSFailure, Network, ""
	}
}

// judgeTLS names what was wrong with a certificate in the note. An issuer that
// nobody knows is most often a box in between that intercepts; the rest is the
// server's own certificate.
func judgeTLS(err error, _, peer Initiator) (Reason, Initiator, string) {
	if reason := alertReason(err); reason != Unknown {
		return reason, peer, ""
	}
	var (
		invalid  x509.CertificateInvalidError
		issuer   x509.UnknownAuthorityError
		name     x509.HostnameError
		verify   *tls.CertificateVerificationError
		noRoots  x509.SystemRootsError
		critical x509.UnhandledCriticalExtension
	)
	switch {
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		// One reason for both; only the text tells which.
		if strings.Contains(invalid.Detail, "is before") {
			return TLSFailure, Server, "not_yet_valid"
		}
		return TLSFailure, Server, "expired"
	case errors.As(err, &issuer):
		return TLSFailure, Network, "unknown_ca"
	case errors.As(err, &name):
		return TLSFailure, Server, "name"
	case errors.As(err, &invalid), errors.As(err, &verify), errors.As(err, &noRoots), errors.As(err, &critical):
		return TLSFailure, Server, ""
	}
	return Unknown, InitiatorUnknown, ""
}

// alertReason judges a TLS alert that the other end sent. crypto/tls does not
// export the type, but its text is that of [tls.AlertError].
func alertReason(err error) Reason {
	var opErr *net.OpError
	if !errors.As(err, &opErr) || opErr.Op != "remote error" || opErr.Err == nil {
		return Unknown
	}
	text := opErr.Err.Error()
	for alert, reason := range alertReasons {
		if alert.Error() == text {
			return reason
		}
	}
	return TLSFailure
}

// alertReasons holds the alerts that do not simply mean TLSFailure (RFC 8446
// section 6).
var alertReasons = map[tls.AlertError]Reason{
	10:  ProtocolError,   // unexpected message
	20:  ProtocolError,   // bad record MAC
	21:  ProtocolError,   // decryption failed
	22:  ProtocolError,   // record overflow
	40:  VersionMismatch, // handshake failure: nothing in common
	47:  ProtocolError,   // illegal parameter
	49:  AuthFailed,      // access denied
	50:  ProtocolError,   // decode error
	51:  ProtocolError,   // decrypt error
	70:  VersionMismatch, // protocol version
	71:  VersionMismatch, // insufficient security
	80:  InternalError,
	86:  VersionMismatch, // inappropriate fallback
	109: VersionMismatch, // missing extension
	110: VersionMismatch, // unsupported extension
	115: AuthFailed,      // unknown PSK identity
	116: AuthFailed,      // certificate required
	120: VersionMismatch, // no application protocol
	121: VersionMismatch, // ECH required
}

// judgeWrongProtocol recognises an answer from a service of another kind.
func judgeWrongProtocol(err error, _, peer Initiator) (Reason, Initiator, string) {
	var header tls.RecordHeaderError
	if errors.As(err, &header) || strings.Contains(err.Error(), "malformed HTTP") {
		return ProtocolError, peer, ""
	}
	return Unknown, InitiatorUnknown, ""
}

func judgeErrno(err error, self, peer Initiator) (Reason, Initiator, string) {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return Unknown, InitiatorUnknown, ""
	}
	switch reason := errnoReason(errno); reason {
	case ResourceExhausted:
		return reason, self, ""
	case ConnectionRefused:
		return reason, peer, ""
	case Unknown:
		var opErr *net.OpError
		if errors.Is(errno, os.ErrPermission) && errors.As(err, &opErr) && opErr.Op == "dial" {
			return NetworkUnreachable, Network, "local_policy"
		}
		return Unknown, InitiatorUnknown, ""
	default:
		return reason, Network, ""
	}
}

// judgeTimeout asks every error of the chain, because the outer ones answer only
// for what they wrap directly. Which timer it was only the caller knows.
func judgeTimeout(err error, _, _ Initiator) (Reason, Initiator, string) {
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) {
		return NetworkTimeout, Network, ""
	}
	for ; err != nil; err = errors.Unwrap(err) {
		if timeout, ok := err.(interface{ Timeout() bool }); ok && timeout.Timeout() {
			return NetworkTimeout, Network, ""
		}
	}
	return Unknown, InitiatorUnknown, ""
}

// peerOf returns the party at the other end of layer t, or Network if self is at
// neither.
func peerOf(t ConnectType, self Initiator) Initiator {
	ends := map[ConnectType][2]Initiator{
		ServerToAgent:  {Server, Agent},
		AgentToClient:  {Agent, Client},
		ClientToServer: {Client, Server},
	}[t]
	switch {
	case self == InitiatorUnknown:
		return Network
	case self == ends[0]:
		return ends[1]
	case self == ends[1]:
		return ends[0]
	default:
		return Network
	}
}

// partyOr returns i if it can be at an end of a connection, or else other.
func partyOr(i, other Initiator) Initiator {
	if i == Client || i == Agent || i == Server {
		return i
	}
	return other
}
