package agentssh

import (
	"context"
	"encoding/binary"
	"io"
	"log/slog"
	"strconv"
	"time"

	"golang.org/x/crypto/ssh"

	"fairlead.dev/fairlead/disconnect"
)

// What one peer may hold of the agent. Both are far above what people and editors
// use, and low enough that a peer cannot make the agent run out of memory or
// descriptors.
const (
	// maxChannels bounds the sessions of one connection, those included whose process
	// is still being ended.
	maxChannels = 256
	// maxPeerConns bounds the connections from one tailnet address, in any state.
	maxPeerConns = 128
)

// What a refused peer reads: the reason's word and the rule.
var (
	tooManyChannels = disconnect.LimitExceeded.String() + ": this connection has " + strconv.Itoa(maxChannels) + " sessions already"
	tooManyConns    = disconnect.LimitExceeded.String() + ": this client has " + strconv.Itoa(maxPeerConns) + " connections already"
)

// The SSH disconnect message of RFC 4253 section 11.1, as it may be sent before the
// key exchange.
const (
	msgDisconnect      = 1
	tooManyConnections = 12
)

// refuse says why in plain SSH, before any key exchange, and closes. Nothing was
// there that could end, so the log has it for debugging only.
func (c *conn) refuse(a disconnect.Attribution) {
	defer c.nc.Close()
	c.end.Set(a)
	c.srv.logger.LogAttrs(context.Background(), slog.LevelDebug, "ssh connection refused", a.Attr())
	_ = c.nc.SetDeadline(time.Now().Add(tellTimeout))
	if _, err := c.nc.Write(append([]byte(serverVersion+"\r\n"), disconnectPacket(a.Detail)...)); err != nil {
		return
	}
	// What the peer sent already must be read: closing on top of it would be a reset,
	// which overtakes the message.
	_, _ = io.Copy(io.Discard, io.LimitReader(c.nc, 64<<10))
}

// disconnectPacket is a disconnect message as an unencrypted packet (RFC 4253
// section 6): length, length of padding, payload, padding to a multiple of 8.
func disconnectPacket(text string) []byte {
	payload := append([]byte{msgDisconnect}, ssh.Marshal(struct {
		Code       uint32
		Text, Lang string
	}{tooManyConnections, text, "en"})...)
	padding := 8 - (5+len(payload))%8
	if padding < 4 {
		padding += 8
	}
	packet := binary.BigEndian.AppendUint32(nil, uint32(1+len(payload)+padding))
	packet = append(packet, byte(padding))
	packet = append(packet, payload...)
	return append(packet, make([]byte, padding)...)
}
