package control

import (
	"fairlead.dev/fairlead/control/proto"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/wire"
)

// attach gives the link its stream and sends our hello.
func (l *Link) attach(stream frames) error {
	l.sendMu.Lock()
	defer l.sendMu.Unlock()
	l.stream = stream
	return stream.Send(&proto.LinkFrame{Frame: &proto.LinkFrame_Hello{
		Hello: &proto.Hello{InstanceId: l.instance, Version: l.version, ConnectionId: l.identity.ConnectionID},
	}})
}

// detach takes the stream away: a stream must not be used after its handler.
func (l *Link) detach() {
	l.sendMu.Lock()
	defer l.sendMu.Unlock()
	l.stream = nil
}

// send sends a frame and reports whether there was a stream that took it.
func (l *Link) send(f *proto.LinkFrame) bool {
	l.sendMu.Lock()
	defer l.sendMu.Unlock()
	return l.stream != nil && l.stream.Send(f) == nil
}

// receive handles the other end's frames until the stream ends, and returns the
// stream's error.
func (l *Link) receive(stream frames) error {
	for {
		frame, err := stream.Recv()
		if err != nil {
			return err
		}
		if frame.GetHello() == nil && !l.greeted.happened() {
			l.end(Ending{Attribution: disconnect.Attribution{
				ConnectType: l.connectType, Reason: disconnect.ProtocolError, Initiator: l.peer,
				Detail: "the first frame is no hello",
			}})
			l.hangUp()
			continue
		}
		l.handle(frame)
	}
}

// handle handles one frame. One of a kind that a newer version sends is ignored.
func (l *Link) handle(frame *proto.LinkFrame) {
	switch f := frame.GetFrame().(type) {
	case *proto.LinkFrame_Hello:
		l.gotHello(f.Hello)
	case *proto.LinkFrame_Heartbeat:
		l.echo.Store(f.Heartbeat.GetSequence())
		l.echoed.Store(f.Heartbeat.GetEcho())
		if f.Heartbeat.GetAnswer() {
			l.sendMu.Lock()
			l.beatLocked(false)
			l.sendMu.Unlock()
		}
	case *proto.LinkFrame_Goodbye:
		// If we have said goodbye too, ours was first for us.
		l.end(l.declared(wire.ToGoodbye(f.Goodbye)))
		l.acked.happen()
		l.send(&proto.LinkFrame{Frame: &proto.LinkFrame_GoodbyeAck{GoodbyeAck: &proto.GoodbyeAck{}}})
	case *proto.LinkFrame_GoodbyeAck:
		l.acked.happen()
	case *proto.LinkFrame_Nudge:
		select {
		case l.nudged <- struct{}{}:
		default: // one that was not taken yet says the same
		}
	}
}

// Nudge tells the other end to ask again for what it wants to know. On a link that is
// not up, or has ended, it does nothing: the other end asks whenever it connects.
func (l *Link) Nudge() {
	l.send(&proto.LinkFrame{Frame: &proto.LinkFrame_Nudge{Nudge: &proto.Nudge{}}})
}

// Nudged gives a value after the other end's Nudge; several that nobody took are one.
func (l *Link) Nudged() <-chan struct{} { return l.nudged }

func (l *Link) gotHello(hello *proto.Hello) {
	if l.greeted.happened() {
		return // a life has one name
	}
	l.mu.Lock()
	if id := disconnect.ScrubTo(hello.GetInstanceId(), maxInstance); id != "" {
		l.peerInstance = id
	}
	l.peerVersion = disconnect.ScrubTo(hello.GetVersion(), maxInstance)
	if l.identity.Kind == 0 { // who accepts gives the name
		l.connectionID = disconnect.ScrubTo(hello.GetConnectionId(), maxInstance)
	}
	l.mu.Unlock()
	l.greeted.happen()
}
