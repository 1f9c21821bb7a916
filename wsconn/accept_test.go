package wsconn

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestWhatComesWithTheUpgradeIsKept sends messages in one segment with the request, to
// ends with buffers smaller and larger than them.
func TestWhatComesWithTheUpgradeIsKept(t *testing.T) {
	for _, buffer := range []int{0, 16, 512, 8192} {
		t.Run(fmt.Sprint(buffer), func(t *testing.T) {
			got := make(chan []byte, 1)
			server := serve(t, func(w http.ResponseWriter, r *http.Request) {
				conn, err := Accept(w, r, AcceptOptions{ReadBuffer: buffer, WriteBuffer: buffer})
				if err != nil {
					t.Error(err)
					return
				}
				defer conn.Close()
				all := make([]byte, 4000)
				_, err = io.ReadFull(conn, all)
				got <- all
				if err == nil {
					_, err = conn.Write(all)
				}
				if err != nil {
					t.Error(err)
				}
			})
			first, second := bytes.Repeat([]byte{'a'}, 3000), bytes.Repeat([]byte{'b'}, 1000)
			sent := strings.NewReader("GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
				"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n" +
				string(unmaskedByZero(first)) + string(unmaskedByZero(second)))
			client, err := net.Dial("tcp", server.Listener.Addr().String())
			require.NoError(t, err)
			defer client.Close()
			_, err = sent.WriteTo(client)
			require.NoError(t, err)
			require.Equal(t, append(first, second...), <-got)
			answer, err := io.ReadAll(client) // one message
			require.Contains(t, string(answer), "101 Switching Protocols")
			require.True(t, bytes.HasSuffix(answer, append(first, second...)), err)
		})
	}
}

// unmaskedByZero is a binary message with the mask 0.
func unmaskedByZero(data []byte) []byte {
	head := []byte{0x82, 0x80 | 126, byte(len(data) >> 8), byte(len(data)), 0, 0, 0, 0}
	return append(head, data...)
}
