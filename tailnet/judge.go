package tailnet

import (
	"errors"
	"net"
	"syscall"

	"fairlead.dev/fairlead/disconnect"
)

// Texts of the userspace TCP stack's errors. It exports no errors to compare with
// (gVisor pkg/tcpip/errors.go), and other packages may see the bare texts.
const (
	textReset         = "connection reset by peer"
	textTimedOut      = "operation timed out"
	textNoRoute       = "no route to host"
	textNoNetwork     = "machine is not on the network"
	textRefused       = "connection was refused"
	textClosedForSend = "endpoint is closed for send"
	textAborted       = "operation aborted"
	textInvalidState  = "endpoint is in invalid state"
	textUnreachable   = "network is unreachable"
	textHostDown      = "host is down"
	textPortInUse     = "port is in use"
)

// Judge says why a connection through the tailnet ended for the layer t, seen by
// self: errors of the userspace TCP stack, and for all others what
// [disconnect.Judge] says. It is an inference from one side: a caller that has a
// goodbye, or a local cause of its own, must prefer that. Local closes (net.ErrClosed)
// without a recorded cause read as network errors.
func Judge(err error, t disconnect.ConnectType, self disconnect.Initiator) disconnect.Attribution {
	if err == nil {
		return disconnect.Judge(err, t, self)
	}
	if a, ok := disconnect.FromError(err); ok {
		return a.On(t)
	}
	errno := errnoOf(stackText(err))
	if errno == nil {
		return disconnect.Judge(err, t, self)
	}
	a := disconnect.Judge(errno, t, self)
	a.Detail = disconnect.Scrub(err.Error())
	return a
}

// errnoOf returns the standard error that means the same as a text of the stack; nil
// for a text that needs no special name.
func errnoOf(text string) error {
	switch {
	case isStackReset(text):
		return syscall.ECONNRESET
	case isStackTimeout(text):
		return syscall.ETIMEDOUT
	case isStackUnreachable(text):
		return syscall.EHOSTUNREACH
	case isStackRefused(text):
		return syscall.ECONNREFUSED
	case isStackClosed(text):
		return net.ErrClosed
	case text == textPortInUse:
		return syscall.EADDRINUSE
	default:
		return nil
	}
}

// isStackReset: the peer's stack sent a reset, for it knows the flow no more (its
// process restarted) or its owner cut it.
func isStackReset(text string) bool { return text == textReset }

// isStackTimeout: the peer did not acknowledge; in the handshake, or a flow that was
// already closed here.
func isStackTimeout(text string) bool { return text == textTimedOut }

// isStackUnreachable: the stack has no route, as for an address outside the tailnet.
func isStackUnreachable(text string) bool {
	return text == textNoRoute || text == textNoNetwork || text == textUnreachable || text == textHostDown
}

// isStackRefused: the peer answered with a reset to a new flow; nothing listens there.
func isStackRefused(text string) bool { return text == textRefused }

// isStackClosed: this side's flow is not open any more. Whoever closed it knows why.
func isStackClosed(text string) bool {
	return text == textClosedForSend || text == textAborted || text == textInvalidState
}

// stackText returns the innermost text of err, or that of the stack's error in it.
// Whole texts are compared, so that remote text that quotes one is not taken for it.
func stackText(err error) string {
	var text *textError
	if errors.As(err, &text) {
		return text.text
	}
	for inner := errors.Unwrap(err); inner != nil; inner = errors.Unwrap(err) {
		err = inner
	}
	return err.Error()
}

// textError is an error of the stack, which speaks in texts only, with the errno
// that means the same.
type textError struct {
	text  string
	errno error
}

func (e *textError) Error() string { return e.text }
func (e *textError) Unwrap() error { return e.errno }

// stackError returns the error for a text of the stack.
func stackError(text string) error {
	if errno := errnoOf(text); errno != nil {
		return &textError{text: text, errno: errno}
	}
	return errors.New(text)
}
