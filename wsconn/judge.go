package wsconn

import (
	"errors"
	"net"
	"os"
	"strconv"

	"fairlead.dev/fairlead/disconnect"
)

// Judge says what e means for a connection of layer t between self and peer, in the
// absence of a goodbye and of a cause that self recorded itself. An ending that has
// not happened is Unknown.
func Judge(e Ending, t disconnect.ConnectType, self, peer disconnect.Initiator) disconnect.Attribution {
	switch {
	case e.IsZero():
		return disconnect.Attribution{ConnectType: t, Detail: "websocket has not ended"}
	case e.Code != 0:
		sender, other := peer, self
		if e.Local {
			sender, other = self, peer
		}
		return judgeCode(e, sender, other).On(t)
	}
	a := disconnect.Attribution{ConnectType: t, Detail: disconnect.Scrub(e.Err.Error())}
	switch {
	case errors.Is(e.Err, errWriteDeadline):
		a.Reason, a.Initiator = disconnect.SlowPeer, peer
	case e.Local && errors.Is(e.Err, os.ErrDeadlineExceeded):
		a.Reason, a.Initiator = disconnect.NetworkTimeout, disconnect.Network
	case e.Local && errors.Is(e.Err, net.ErrClosed):
		a.Reason, a.Initiator = disconnect.NetworkError, disconnect.Network
		a.Detail = "closed at this end without a recorded cause"
	case errors.Is(e.Err, ErrProtocol):
		a.Reason, a.Initiator = disconnect.ProtocolError, peer
	default:
		return disconnect.Judge(e.Err, t, self)
	}
	return a
}

// judgeCode judges a close frame of sender to other (RFC 6455 section 7.4.1).
// Libraries and middleboxes send 1000, 1001 and 1005 on failures too, so that only
// 4000 + reason is a goodbye.
func judgeCode(e Ending, sender, other disconnect.Initiator) disconnect.Attribution {
	if g, ok := disconnect.ParseCloseCode(e.Code, e.Text); ok {
		if g.Initiator == disconnect.InitiatorUnknown && g.Reason != disconnect.Unknown {
			g.Initiator = sender
			if g.Reason == disconnect.ProtocolError {
				g.Initiator = other // the sender says that our bytes were bad
			}
		}
		return g.On(0)
	}
	a := disconnect.Attribution{
		Reason: disconnect.NetworkError, Initiator: disconnect.Network,
		Detail: "close=" + strconv.Itoa(e.Code),
	}
	if e.Text != "" {
		a.Detail = disconnect.Scrub(a.Detail + ": " + e.Text)
	}
	switch e.Code {
	case 1002, 1003, 1007, 1010:
		a.Reason, a.Initiator = disconnect.ProtocolError, other
	case 1008, 1009, 1013:
		a.Reason, a.Initiator = disconnect.LimitExceeded, sender
	case 1011:
		a.Reason, a.Initiator = disconnect.InternalError, sender
	case 1012:
		a.Reason, a.Initiator = disconnect.ServerShutdown, sender
	case 1014:
		a.Reason, a.Initiator = disconnect.ConnectionRefused, sender
	case 1015:
		a.Reason, a.Initiator = disconnect.TLSFailure, disconnect.Network
	}
	if e.Code >= 4000 && e.Code <= 4255 {
		// A reason of a newer version.
		a.Reason, a.Initiator = disconnect.Unknown, disconnect.InitiatorUnknown
	}
	return a
}
