package companion

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	pb "google.golang.org/protobuf/proto"

	"fairlead.dev/fairlead/agent/proto"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/wire"
)

const (
	// protocolVersion is the highest version of the exchange that this code speaks;
	// both ends use the lower of the two.
	protocolVersion = 2
	// announcingProtocol is the first version in which a heartbeat announces the next.
	announcingProtocol = 2
	// maxFrame is the largest encoded frame in bytes.
	maxFrame = 64 << 10
	// maxID bounds ids that another process sent, in bytes.
	maxID = 128
	// maxTerminals bounds the terminals that a heartbeat names.
	maxTerminals = 8
	// maxTombstones bounds those in a hello.
	maxTombstones = 32
	// longestLimit bounds the outage limit that an agent may tell.
	longestLimit = 24 * time.Hour
)

// Defaults of both ends.
const (
	DefaultHeartbeat   = 2 * time.Second
	DefaultOutageLimit = 30 * time.Minute
)

const (
	// restingHeartbeat is the interval of heartbeats while a client has nothing open.
	restingHeartbeat = 15 * time.Second
	// restAfter is how long a client must have had nothing open before that.
	restAfter = 10 * time.Second
	// longestBeat bounds the interval that an agent may announce.
	longestBeat = time.Minute
)

// errBadFrame is wrapped by errors about bytes that are no valid frame.
var errBadFrame = errors.New("invalid companion frame")

// readFrame reads one frame. The error wraps errBadFrame when bytes arrived that
// are not valid in the protocol, and is the transport's otherwise.
func readFrame(r *bufio.Reader) (*proto.CompanionFrame, error) {
	size, err := binary.ReadUvarint(r)
	if err != nil {
		if isOverflow(err) {
			return nil, fmt.Errorf("read frame: %w: length is no uvarint", errBadFrame)
		}
		return nil, fmt.Errorf("read frame: %w", err)
	}
	if size == 0 || size > maxFrame {
		return nil, fmt.Errorf("read frame: %w: length %d", errBadFrame, size)
	}
	buf := make([]byte, size)
	if _, err := io.ReadFull(r, buf); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("read frame: %w", err)
	}
	frame := new(proto.CompanionFrame)
	if err := pb.Unmarshal(buf, frame); err != nil {
		return nil, fmt.Errorf("read frame: %w: %v", errBadFrame, err)
	}
	return frame, nil
}

// isOverflow recognises the unexported error of [binary.ReadUvarint] for a number
// of more than 64 bits: the only one of its errors that no reader can return.
func isOverflow(err error) bool { return err.Error() == "binary: varint overflows a 64-bit integer" }

func appendFrame(buf []byte, frame *proto.CompanionFrame) ([]byte, error) {
	buf = binary.AppendUvarint(buf, uint64(pb.Size(frame)))
	buf, err := pb.MarshalOptions{UseCachedSize: true}.MarshalAppend(buf, frame)
	if err != nil {
		return nil, fmt.Errorf("write frame: %w", err)
	}
	return buf, nil
}

func helloFrame(instance, version string, limit time.Duration) *proto.CompanionFrame {
	return &proto.CompanionFrame{Frame: &proto.CompanionFrame_Hello{Hello: &proto.CompanionHello{
		Protocol: protocolVersion, InstanceId: instance, Version: version, OutageLimitMs: uint64(limit.Milliseconds()),
	}}}
}

func heartbeatFrame(sequence, echo uint64, terminals []string, next time.Duration) *proto.CompanionFrame {
	return &proto.CompanionFrame{Frame: &proto.CompanionFrame_Heartbeat{Heartbeat: &proto.CompanionHeartbeat{
		Sequence: sequence, Echo: echo, Terminals: terminals[:min(len(terminals), maxTerminals)], NextMs: uint32(next.Milliseconds()),
	}}}
}

// announced is the interval that a heartbeat announces; otherwise if it does not.
func announced(beat *proto.CompanionHeartbeat, otherwise time.Duration) time.Duration {
	if ms := beat.GetNextMs(); ms > 0 {
		return min(max(time.Duration(ms)*time.Millisecond, otherwise), longestBeat)
	}
	return otherwise
}

func goodbyeFrame(g disconnect.Goodbye) *proto.CompanionFrame {
	return &proto.CompanionFrame{Frame: &proto.CompanionFrame_Goodbye{Goodbye: wire.FromGoodbye(g)}}
}

func flowFrame(port uint16, id string) *proto.CompanionFrame {
	return &proto.CompanionFrame{Frame: &proto.CompanionFrame_Flow{Flow: &proto.CompanionFlow{
		ClientPort: uint32(port), ConnectionId: id,
	}}}
}

// endedFrame leaves the exit code out when it is negative.
func endedFrame(id string, a disconnect.Attribution, exitCode int) *proto.CompanionFrame {
	ended := &proto.CompanionEnded{ConnectionId: id, Attribution: wire.FromAttribution(a)}
	if exitCode >= 0 {
		code := int32(exitCode)
		ended.ExitCode = &code
	}
	return &proto.CompanionFrame{Frame: &proto.CompanionFrame_Ended{Ended: ended}}
}

func explanationFrame(a disconnect.Attribution) *proto.CompanionFrame {
	return &proto.CompanionFrame{Frame: &proto.CompanionFrame_Explanation{Explanation: &proto.CompanionExplanation{
		Attribution: wire.FromAttribution(a),
	}}}
}

// checkHello validates the first frame of the other end.
func checkHello(frame *proto.CompanionFrame) (*proto.CompanionHello, error) {
	hello := frame.GetHello()
	switch {
	case hello == nil:
		return nil, fmt.Errorf("read hello: %w: another frame came first", errBadFrame)
	case hello.GetProtocol() == 0:
		return nil, fmt.Errorf("read hello: %w: no protocol version", errBadFrame)
	case !validID(hello.GetInstanceId()):
		return nil, fmt.Errorf("read hello: %w: no usable instance id", errBadFrame)
	}
	return hello, nil
}

// validID reports whether an id from another process is fit to keep and to log.
func validID(id string) bool {
	return id != "" && len(id) <= maxID && disconnect.Scrub(id) == id
}
