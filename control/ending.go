package control

import (
	"context"
	"errors"
	"io"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/wsconn"
)

// EndingOf returns the best evidence of why an RPC over l ended with rpcErr, always a
// *disconnect.EndedError that wraps rpcErr. A broken link fails all its RPCs at about
// the time that it ends itself, so EndingOf waits up to 250 ms for the link's ending
// if rpcErr may be a consequence of it; that ending then decides, otherwise [Judge].
// A nil rpcErr, or io.EOF from a stream's Recv, is a status OK.
func EndingOf(l *Link, rpcErr error) error {
	if mayBeLink(rpcErr) {
		timer := time.NewTimer(endingWait)
		defer timer.Stop()
		select {
		case <-l.ctx.Done():
			return &disconnect.EndedError{Attribution: l.Ending().Attribution, Err: rpcErr}
		case <-timer.C:
		}
	}
	judged := rpcErr
	if errors.Is(rpcErr, io.EOF) {
		judged = nil
	}
	return &disconnect.EndedError{Attribution: Judge(judged, l.connectType, l.self, l.peer), Err: rpcErr}
}

// mayBeLink reports whether an RPC could end with err because its link ended. The
// other statuses are answers that only a living peer gives.
func mayBeLink(err error) bool {
	if err == nil || errors.Is(err, io.EOF) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return true
	}
	st, ok := status.FromError(err)
	if !ok {
		return true
	}
	switch st.Code() {
	case codes.Unavailable, codes.Canceled, codes.Internal, codes.Unknown, codes.DeadlineExceeded:
		return true
	default:
		return false
	}
}

// declared returns the ending that the peer's goodbye means.
func (l *Link) declared(g disconnect.Goodbye) Ending {
	return Ending{Attribution: g.From(l.peer).On(l.connectType), Goodbye: true}
}

// socketEnded judges the socket's ending when no goodbye and no own cause came
// before it. It runs where gRPC reads, so that the link has ended, with its cause,
// before any RPC learns that the transport is gone.
func (l *Link) socketEnded() {
	defer l.broken.happen()
	e := l.conn.Ending()
	if ending, ok := l.closeCode(e); ok {
		l.end(ending)
		return
	}
	if l.greeted.happened() {
		// gRPC has all bytes, and perhaps a goodbye on its way to our stream.
		timer := time.NewTimer(drainWait)
		defer timer.Stop()
		select {
		case <-l.ctx.Done():
		case <-timer.C:
		}
	}
	l.end(Ending{Attribution: wsconn.Judge(e, l.connectType, l.self, l.peer)})
}

// closeCode returns the ending that a received close frame declares: only 4000 +
// reason is sent by nobody but the peer itself.
func (l *Link) closeCode(e wsconn.Ending) (Ending, bool) {
	if e.Local || e.Code == 0 {
		return Ending{}, false
	}
	if _, ok := disconnect.ParseCloseCode(e.Code, e.Text); !ok {
		return Ending{}, false
	}
	return l.declared(wsconn.Judge(e, l.connectType, l.self, l.peer).Goodbye()), true
}

// transportClosed runs when gRPC lets go of the socket. If nothing has ended before,
// gRPC has found bytes that are not gRPC's.
func (l *Link) transportClosed() {
	defer l.abandoned.happen()
	if l.unwritable.Load() {
		l.await(endingWait, l.ctx.Done()) // whoever reads is about to find the close frame
	}
	if l.ctx.Err() == nil && l.conn.Ending().IsZero() {
		l.end(Ending{Attribution: disconnect.Attribution{
			ConnectType: l.connectType, Reason: disconnect.ProtocolError, Initiator: l.peer,
			Detail: "bytes that are not valid gRPC",
		}})
		l.hangUp()
		return
	}
	l.cut()
	if l.ctx.Err() == nil {
		l.socketEnded()
	}
}
