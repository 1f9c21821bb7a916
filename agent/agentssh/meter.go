package agentssh

import (
	"io"
	"sync/atomic"
)

// meter counts the bytes of a session, as the process writes and reads them. It is
// safe for concurrent use.
type meter struct {
	sent, received atomic.Uint64 // to the client, and from it
}

// total changes with each byte that passes.
func (m *meter) total() uint64 { return m.sent.Load() + m.received.Load() }

// output returns a writer to the client that counts; w's other methods are hidden.
func (m *meter) output(w io.Writer) io.Writer { return &countedWriter{w: w, n: &m.sent} }

type countedWriter struct {
	w io.Writer
	n *atomic.Uint64
}

// Write implements io.Writer.
func (c *countedWriter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n.Add(uint64(n))
	return n, err
}
