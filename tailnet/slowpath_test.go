package tailnet

import (
	"bytes"
	"context"
	"io"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"fairlead.dev/fairlead/tailnet/proto"
)

// delayed carries packets from one stack to another, each of them late by the same time.
func delayed(ctx context.Context, from, to *channel.Endpoint, late time.Duration) {
	type packet struct {
		due time.Time
		pkt *stack.PacketBuffer
	}
	queue := make(chan packet, 4096)
	go func() {
		defer close(queue)
		for {
			pkt := from.ReadContext(ctx)
			if pkt == nil {
				return
			}
			queue <- packet{time.Now().Add(late), pkt}
		}
	}()
	for p := range queue {
		select {
		case <-time.After(time.Until(p.due)):
			copied := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: p.pkt.ToBuffer()})
			to.InjectInbound(header.IPv6ProtocolNumber, copied)
			copied.DecRef()
		case <-ctx.Done():
		}
		p.pkt.DecRef()
	}
}

// TestSlowPath: a path whose round trip is longer than the longest retransmission timer
// carries a connection all the same.
func TestSlowPath(t *testing.T) {
	t.Parallel()
	const late = 700 * time.Millisecond // of each way
	addrs := []netip.Addr{NewPrivateKey().Public().Address(), NewPrivateKey().Public().Address()}
	var links []*channel.Endpoint
	var stacks []*netstack
	for _, addr := range addrs {
		link := channel.New(outboundQueue, mtu, "")
		link.LinkEPCapabilities = stack.CapabilityRXChecksumOffload
		s, err := newNetstack(link, addr)
		require.NoError(t, err)
		links, stacks = append(links, link), append(stacks, s)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{}, 2)
	for i := range links {
		go func() { delayed(ctx, links[i], links[1-i], late); done <- struct{}{} }()
	}
	defer func() {
		for _, s := range stacks {
			s.close()
		}
		cancel()
		<-done
		<-done
	}()
	l, err := stacks[1].listen(testPort, func(netip.Addr) (proto.NodeKey, bool) { return proto.NodeKey{1}, true })
	require.NoError(t, err)
	const size = 16 << 10
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = io.Copy(conn, conn)
	}()
	dialling, stop := context.WithTimeout(t.Context(), 30*time.Second)
	defer stop()
	conn, err := stacks[0].dial(dialling, netip.AddrPortFrom(addrs[1], testPort), proto.NodeKey{2})
	require.NoError(t, err)
	defer conn.Close()
	sent := bytes.Repeat([]byte("0123456789abcdef"), size/16)
	go func() { _, _ = conn.Write(sent) }()
	got := make([]byte, size)
	begin := time.Now()
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(100*time.Second)))
	_, err = io.ReadFull(conn, got)
	require.NoError(t, err)
	require.Equal(t, sent, got)
	t.Logf("%d bytes there and back took %v", size, time.Since(begin))
}
