package agentssh

import (
	"io"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMeterCountsWhatWasWritten(t *testing.T) {
	var m meter
	w := m.output(limitedWriter{3})
	n, err := w.Write([]byte("four"))
	require.Equal(t, 3, n)
	require.ErrorIs(t, err, io.ErrShortWrite)
	require.EqualValues(t, 3, m.sent.Load())
}

type limitedWriter struct{ n int }

func (l limitedWriter) Write([]byte) (int, error) { return l.n, io.ErrShortWrite }

// BenchmarkMeteredWrite is what accounting adds to a Write of a session.
func BenchmarkMeteredWrite(b *testing.B) {
	var m meter
	w, buf := m.output(io.Discard), make([]byte, copyBuffer)
	b.ReportAllocs()
	for b.Loop() {
		_, _ = w.Write(buf)
	}
}
