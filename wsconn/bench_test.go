package wsconn

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
)

// BenchmarkThroughput moves data over loopback in writes of one size.
func BenchmarkThroughput(b *testing.B) {
	for _, scheme := range []string{"http", "https"} {
		for _, name := range []string{"client to server", "server to client"} {
			for _, size := range []int{1 << 10, 16 << 10, 64 << 10} {
				b.Run(scheme+"/"+name+"/"+strconv.Itoa(size), func(b *testing.B) {
					accepted := make(chan *Conn, 1)
					srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						if c, err := Accept(w, r, AcceptOptions{}); err == nil {
							accepted <- c
						}
					}))
					if scheme == "https" {
						srv.StartTLS()
					} else {
						srv.Start()
					}
					defer srv.Close()
					from, err := Dial(b.Context(), srv.URL, DialOptions{HTTPClient: srv.Client()})
					if err != nil {
						b.Fatal(err)
					}
					to := <-accepted
					if name == "server to client" {
						from, to = to, from
					}
					done := make(chan struct{})
					go func() {
						defer close(done)
						_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, to, make([]byte, 64<<10))
					}()
					p := make([]byte, size)
					b.SetBytes(int64(size))
					b.ReportAllocs()
					for b.Loop() {
						if _, err := from.Write(p); err != nil {
							b.Fatal(err)
						}
					}
					_ = from.CloseWith(4010, "")
					<-done
					_ = to.Close()
				})
			}
		}
	}
}
