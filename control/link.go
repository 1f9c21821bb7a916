package control

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"fairlead.dev/fairlead/control/proto"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/wire"
	"fairlead.dev/fairlead/wsconn"
)

// The control link's place in HTTP.
const (
	// Path of the upgrade request below the access URL.
	Path = "/api/v1/control"
	// Subprotocol that both ends must speak; its number is the protocol's version.
	Subprotocol = "fairlead-control-v1"
	// InstanceHeader carries the dialling process' instance id.
	InstanceHeader = "X-Fairlead-Instance"
)

// Silence is how long a link's end bears to hear nothing, unless its options say otherwise.
const Silence = 12 * time.Second

const (
	// ackWait is how long Close waits for the other end to acknowledge a goodbye.
	ackWait = 200 * time.Millisecond
	// drainWait is how long a goodbye that has arrived just before the socket broke
	// may take through gRPC before the break counts as the cause.
	drainWait = 20 * time.Millisecond
	// linger is how long the rest of an ended link may take to go.
	linger = time.Second
	// endingWait is how long EndingOf waits for the link to end.
	endingWait = 250 * time.Millisecond

	defaultHeartbeat = 4 * time.Second
	defaultSilence   = Silence

	// maxInstance bounds an instance id or version from the wire, in bytes.
	maxInstance = 64
)

// Kind is what kind of peer dialled.
type Kind uint8

// Kinds of peers.
const (
	AgentPeer  Kind = 1
	ClientPeer Kind = 2
	RelayPeer  Kind = 3
)

// Identity is who dialled, as the accepting side's authentication found.
type Identity struct {
	Kind      Kind
	ID        string // agent: workspace id; client: user id; relay: its id
	Principal string // user name, opaque
	TokenID   string
	Expires   time.Time // when the token does; zero: never
	// ConnectionID names the link in the connection log, and the dialling side is told;
	// empty: there is no record of it.
	ConnectionID string
}

// Ending is how a link ended.
type Ending struct {
	disconnect.Attribution
	// Goodbye says that the ending was declared, by the peer or by us, and not
	// inferred.
	Goodbye bool
}

// frames is the part of the Link stream that both sides have.
type frames interface {
	Send(*proto.LinkFrame) error
	Recv() (*proto.LinkFrame, error)
}

// Link is one control link, on either side. It ends once, for the first terminal
// cause that this side learns of. All methods are safe for concurrent use.
type Link struct {
	logger            *slog.Logger
	conn              *wsconn.Conn
	connectType       disconnect.ConnectType
	self, peer        disconnect.Initiator
	identity          Identity
	instance, version string // our own

	ctx    context.Context // ends with the link; its cause is the ending
	cancel context.CancelCauseFunc

	acked     event         // the peer acknowledged our goodbye, or said its own
	greeted   event         // the peer's Hello came
	broken    event         // the socket gave its last byte
	abandoned event         // gRPC has let go of the socket
	nudged    chan struct{} // has one place
	parts     sync.WaitGroup

	unwritable atomic.Bool  // gRPC could not write, which does not tell why
	heard      atomic.Int64 // when bytes last came, in nanoseconds since born
	excused    atomic.Int64 // until when our own standstill excuses silence, likewise
	heardAt    atomic.Int64 // the same by the wall clock, since 1970; 0: never
	born       time.Time

	clientConn *grpc.ClientConn // dialling side only

	mu           sync.Mutex // guards ending, ended, streamOpen, peerInstance, peerVersion, connectionID, timer, pulse, quiet
	ending       Ending
	ended        bool
	streamOpen   bool
	peerInstance string
	peerVersion  string
	connectionID string // as the accepting side calls the link
	timer        *time.Timer
	pulse        pulse
	quiet        bool           // no more ticks
	ticks        sync.WaitGroup // ticks that run; Add is under mu

	sendMu   sync.Mutex // held while a frame is sent; guards stream and sequence
	stream   frames
	sequence uint64
	echo     atomic.Uint64 // the peer's highest heartbeat
	echoed   atomic.Uint64 // our highest that the peer has echoed
}

// event happens once.
type event struct {
	once sync.Once
	ch   chan struct{}
}

func newEvent() event { return event{ch: make(chan struct{})} }

func (e *event) happen() { e.once.Do(func() { close(e.ch) }) }

func (e *event) happened() bool {
	select {
	case <-e.ch:
		return true
	default:
		return false
	}
}

func (e *event) done() <-chan struct{} { return e.ch }

func newLink(conn *wsconn.Conn, heartbeat, silence time.Duration) *Link {
	l := &Link{
		conn: conn, born: time.Now(),
		acked: newEvent(), greeted: newEvent(), broken: newEvent(), abandoned: newEvent(),
		nudged: make(chan struct{}, 1),
	}
	if heartbeat <= 0 {
		heartbeat = defaultHeartbeat
	}
	if silence <= 0 {
		silence = defaultSilence
	}
	l.pulse = pulse{every: heartbeat, silence: silence}
	l.ctx, l.cancel = context.WithCancelCause(context.Background())
	return l
}

// start makes the link live: its timer and its winding up.
func (l *Link) start() {
	l.parts.Add(1)
	context.AfterFunc(l.ctx, l.windUp)
	l.startPulse()
}

// RPC returns the connection for generated stubs. It is nil on the accepting side.
func (l *Link) RPC() grpc.ClientConnInterface {
	if l.clientConn == nil {
		return nil
	}
	return l.clientConn
}

// Done is closed when the link's ending is known, which is before its socket and its
// RPCs are gone; Close waits for those.
func (l *Link) Done() <-chan struct{} { return l.ctx.Done() }

// Context ends with the link; its cause is a *disconnect.EndedError.
func (l *Link) Context() context.Context { return l.ctx }

// Ending returns how the link ended, or the zero value while it lives.
func (l *Link) Ending() Ending {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ending
}

// Err returns the ending as a *disconnect.EndedError, or nil while the link lives.
func (l *Link) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.ended {
		return nil
	}
	return &disconnect.EndedError{Attribution: l.ending.Attribution}
}

// Peer returns who dialled. It is the zero value on the dialling side.
func (l *Link) Peer() Identity { return l.identity }

// PeerInstance names the life of the process at the other end.
func (l *Link) PeerInstance() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.peerInstance
}

// PeerVersion is the other end's software version, for logs; "" until its hello.
func (l *Link) PeerVersion() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.peerVersion
}

// ConnectionID is the link's name in the accepting side's connection log, which both
// sides know once the link is up; empty: it has none.
func (l *Link) ConnectionID() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.connectionID
}

// LastHeard is when bytes of the other end last came, by the local wall clock: the time that
// the machine slept since counts.
func (l *Link) LastHeard() time.Time {
	if at := l.heardAt.Load(); at != 0 {
		return time.Unix(0, at)
	}
	return l.born.Round(0)
}

// RemoteAddr is the address of the socket's other end, which may be a proxy.
func (l *Link) RemoteAddr() string { return l.conn.RemoteAddr().String() }

// Close records g as the ending, says goodbye, waits up to 200 ms for the
// acknowledgement, closes the socket with the code of g, and waits until the link's
// goroutines have finished. On a link that has ended it only waits. It takes less
// than two seconds, returns nil always, and must not be called by what it waits for:
// on the accepting side nothing but the link's own frames, so that an RPC's handler
// may close its link.
func (l *Link) Close(g disconnect.Goodbye) error {
	ending := Ending{Attribution: g.On(l.connectType), Goodbye: true}
	guard := time.AfterFunc(linger, l.cut)
	defer guard.Stop()
	if l.latch(ending) {
		if l.send(&proto.LinkFrame{Frame: &proto.LinkFrame_Goodbye{Goodbye: wire.FromGoodbye(g)}}) {
			l.announce()
			l.await(ackWait, l.acked.done())
		}
		l.announce()
	} else {
		<-l.ctx.Done()
		l.await(ackWait, l.abandoned.done()) // whoever ended it is at it
	}
	l.hangUp()
	l.parts.Wait()
	return nil
}

// Abort records a as the ending and cuts the socket without telling the other end
// anything. It does not wait; Close does.
func (l *Link) Abort(a disconnect.Attribution) {
	l.end(Ending{Attribution: a.On(l.connectType)})
	l.cut()
}

// await waits for what, for the socket's end or for d.
func (l *Link) await(d time.Duration, what <-chan struct{}) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-what:
	case <-l.broken.done():
	case <-timer.C:
	}
}

// latch records e unless an ending was recorded before, and reports whether it did.
func (l *Link) latch(e Ending) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return false
	}
	l.ending, l.ended = e, true
	return true
}

// announce tells everybody on this side of the recorded ending.
func (l *Link) announce() { l.cancel(l.Err()) }

// end records e and announces it, unless the link had ended before.
func (l *Link) end(e Ending) {
	if l.latch(e) {
		l.announce()
	}
}

// hangUp closes the socket with the code of the recorded ending.
func (l *Link) hangUp() {
	code, text := l.Ending().Attribution.Goodbye().CloseCode()
	_ = l.conn.CloseWith(code, text)
}

// cut closes the socket without a word.
func (l *Link) cut() { _ = l.conn.Close() }

// windUp runs when the link has ended: it stops the heartbeats and sees to it that
// the socket goes, whatever the other end does.
func (l *Link) windUp() {
	defer l.parts.Done()
	timer := time.NewTimer(linger)
	defer timer.Stop()
	select {
	case <-l.abandoned.done():
	case <-timer.C:
	}
	l.stopPulse()
	l.cut()
}
