package site

import (
	"fmt"
	"math/rand/v2"
	"net"
	"time"
)

// Eventually asks again until ok says yes. Each question is a process of its own or a
// look at collected output, so it needs no pause but a short one.
func Eventually(t T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(Patience)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			fatalf(t, "waiting for %s: it did not happen", what)
		case <-tick.C:
		}
	}
}

// FreeAddress returns a loopback address that nobody listens on. Whoever restarts
// must come back at the same one, so port 0 will not do, nor any port that the kernel
// gives to connections meanwhile: on Linux it takes those from 32768 on.
func FreeAddress(t T) string {
	t.Helper()
	for range 100 {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 16384+rand.IntN(16384)))
		if err == nil {
			defer l.Close()
			return l.Addr().String()
		}
	}
	fatalf(t, "no port is free")
	return ""
}

// AwaitPort waits until somebody listens at address; p is who should.
func AwaitPort(p *Process, address string) {
	p.T.Helper()
	Eventually(p.T, "somebody at "+address, func() bool {
		select {
		case <-p.Done:
			fatalf(p.T, "%q ended with:\n%s%s", p.Cmd.Args, p.Stdout, p.Stderr)
		default:
		}
		conn, err := net.Dial("tcp", address)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	})
}
