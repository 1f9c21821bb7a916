package sshend

import (
	"strconv"
	"strings"

	"fairlead.dev/fairlead/disconnect"
)

// Request is the global request by which one end tells the other why it is about to
// close, for x/crypto/ssh cannot send a disconnect message of the application's. Its
// payload is a [Cause].
const Request = "disconnect@fairlead.dev"

// Cause is what [Request] carries, in SSH encoding.
type Cause struct {
	Reason    uint32
	Initiator uint32
	Detail    string
}

// Code is a reason code of an SSH disconnect message (RFC 4253 section 11.1).
type Code uint32

// The codes, by the names of the RFC.
const (
	HostNotAllowedToConnect     Code = 1
	ProtocolError               Code = 2
	KeyExchangeFailed           Code = 3
	MACError                    Code = 5
	CompressionError            Code = 6
	ServiceNotAvailable         Code = 7
	ProtocolVersionNotSupported Code = 8
	HostKeyNotVerifiable        Code = 9
	ConnectionLost              Code = 10
	ByApplication               Code = 11
	TooManyConnections          Code = 12
	AuthCancelledByUser         Code = 13
	NoMoreAuthMethods           Code = 14
	IllegalUserName             Code = 15
)

// FromError reads a disconnect message of the other end back from x/crypto/ssh, whose
// type for it is not exported: `ssh: disconnect, reason 11: "disconnected by user"`. The
// text is the other end's and not clean.
func FromError(err error) (code Code, text string, ok bool) {
	if err == nil {
		return 0, "", false
	}
	message := strings.TrimPrefix(err.Error(), "ssh: handshake failed: ")
	rest, ok := strings.CutPrefix(message, "ssh: disconnect, reason ")
	if !ok {
		return 0, "", false
	}
	number, quoted, _ := strings.Cut(rest, ": ")
	n, perr := strconv.ParseUint(number, 10, 32)
	if perr != nil {
		return 0, "", false
	}
	if text, perr = strconv.Unquote(quoted); perr != nil {
		text = quoted
	}
	return Code(n), text, true
}

// Judge says what a disconnect message from sender means to its receiver. Who complains
// of bytes names whose they are.
func (c Code) Judge(text string, sender, receiver disconnect.Initiator) disconnect.Attribution {
	a := disconnect.Attribution{
		ConnectType: disconnect.AgentToClient,
		Initiator:   sender,
		Detail:      disconnect.Scrub("ssh disconnect " + strconv.FormatUint(uint64(c), 10) + ": " + text),
	}
	switch c {
	case ByApplication, AuthCancelledByUser:
		a.Reason = disconnect.ServerShutdown
		if sender == disconnect.Client {
			a.Reason = disconnect.ClientClosed
		}
	case HostNotAllowedToConnect, NoMoreAuthMethods, IllegalUserName:
		a.Reason = disconnect.AuthFailed
	case ProtocolError, MACError, CompressionError:
		a.Reason, a.Initiator = disconnect.ProtocolError, receiver
	case KeyExchangeFailed, ProtocolVersionNotSupported:
		a.Reason = disconnect.VersionMismatch
	case ServiceNotAvailable:
		a.Reason = disconnect.ResourceExhausted
	case HostKeyNotVerifiable:
		a.Reason, a.Initiator = disconnect.TLSFailure, disconnect.Network
	case ConnectionLost:
		a.Reason, a.Initiator = disconnect.NetworkError, disconnect.Network
	case TooManyConnections:
		a.Reason = disconnect.LimitExceeded
	default: // no such code: the message itself is the fault
		a.Reason = disconnect.ProtocolError
	}
	return a
}
