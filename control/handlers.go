package control

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"fairlead.dev/fairlead/control/proto"
)

// LinkFrom returns the link over which an RPC came, inside its handler.
func LinkFrom(ctx context.Context) (*Link, bool) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil, false
	}
	auth, ok := p.AuthInfo.(linkAuth)
	if !ok {
		return nil, false
	}
	return auth.link, true
}

// handlerContext is the context of an RPC's handler: it ends when its link ends, with
// the ending as its cause, and has the values and the deadline of the RPC's own.
type handlerContext struct {
	context.Context                 // a child of the link's
	rpc             context.Context // gRPC's
}

// Value implements context.Context. The link's side is asked first, so that package
// context finds the cancellation there.
func (c handlerContext) Value(key any) any {
	if v := c.Context.Value(key); v != nil {
		return v
	}
	return c.rpc.Value(key)
}

// withLink returns the handler's context for an RPC with the context rpc. The
// returned function releases it.
func withLink(rpc context.Context) (context.Context, func()) {
	l, ok := LinkFrom(rpc)
	if !ok {
		return rpc, func() {}
	}
	child, cancel := context.WithCancelCause(l.ctx)
	stopDeadline := func() {}
	if at, ok := rpc.Deadline(); ok {
		child, stopDeadline = context.WithDeadline(child, at)
	}
	stop := context.AfterFunc(rpc, func() { cancel(context.Cause(rpc)) })
	return handlerContext{Context: child, rpc: rpc}, func() {
		stop()
		stopDeadline()
		cancel(nil)
	}
}

func unaryWithLink(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	ctx, release := withLink(ctx)
	defer release()
	return handler(ctx, req)
}

func streamWithLink(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	ctx, release := withLink(stream.Context())
	defer release()
	return handler(srv, linkStream{ServerStream: stream, ctx: ctx})
}

type linkStream struct {
	grpc.ServerStream
	ctx context.Context
}

// Context implements grpc.ServerStream.
func (s linkStream) Context() context.Context { return s.ctx }

// frameService answers the Link stream of every dialling peer.
type frameService struct {
	proto.UnimplementedControlServiceServer
}

// Link implements proto.ControlServiceServer. It stays until the transport is gone,
// which is after the link has ended.
func (frameService) Link(stream proto.ControlService_LinkServer) error {
	l, ok := LinkFrom(stream.Context())
	if !ok {
		return status.Error(codes.Internal, "no control link")
	}
	if !l.openStream() {
		return status.Error(codes.FailedPrecondition, "the link has its stream already, or has ended")
	}
	defer l.parts.Done()
	defer l.detach()
	err := l.attach(stream)
	if err == nil {
		err = l.receive(stream)
	}
	l.await(drainWait, l.ctx.Done()) // the transport's end may be the reason
	if l.streamClosed(err) {
		l.hangUp()
	}
	return status.Error(codes.Unavailable, "the control link has ended")
}

// openStream reports whether the stream that has come is the link's only one, and
// counts it as one of the link's parts.
func (l *Link) openStream() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.streamOpen || l.ended {
		return false
	}
	l.streamOpen = true
	l.parts.Add(1)
	return true
}
