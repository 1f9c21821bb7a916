//go:build unix

package reconnectingpty_test

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/agent/reconnectingpty"
	"fairlead.dev/fairlead/pty"
)

const written = 256 << 20

// writer is a program that writes so many bytes of text to its terminal, as fast as that
// takes them.
func writer(b *testing.B) string {
	text := filepath.Join(b.TempDir(), "text")
	line := strings.Repeat("0123456789", 8) + "\n"
	require.NoError(b, os.WriteFile(text, bytes.Repeat([]byte(line), (16<<20)/len(line)), 0o600))
	return "stty raw -echo; read go; for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do cat " + text + "; done; exit 0"
}

// BenchmarkProgram compares a terminal that is only read with one that is kept.
func BenchmarkProgram(b *testing.B) {
	b.Run("bare", func(b *testing.B) {
		command := writer(b)
		for b.Loop() {
			tty, err := pty.Open()
			require.NoError(b, err)
			cmd := exec.Command("/bin/sh", "-c", command)
			require.NoError(b, tty.Start(cmd))
			_, err = tty.Write([]byte("\n"))
			require.NoError(b, err)
			_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{tty}, make([]byte, 16<<10))
			require.NoError(b, cmd.Wait())
			require.NoError(b, tty.Close())
		}
		b.SetBytes(written)
	})
	for name, look := range map[string]bool{"detached": false, "attached": true} {
		b.Run(name, func(b *testing.B) {
			command := writer(b)
			a := newAgent(b, reconnectingpty.Config{})
			for b.Loop() {
				v := a.attach("main", command, usual, false)
				_, err := v.Write([]byte("\n"))
				require.NoError(b, err)
				if look {
					_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{v}, make([]byte, 32<<10))
					_, _ = v.Wait()
				} else {
					require.NoError(b, v.Close())
					for len(a.List("ann")) > 0 {
						<-time.After(time.Millisecond)
					}
				}
			}
			b.SetBytes(written)
		})
	}
}

// BenchmarkAttach is the time from attaching to the first paint of a program on the
// alternate screen, and to the end of a full history on the main one.
func BenchmarkAttach(b *testing.B) {
	for name, command := range map[string]string{
		"alternate": repainter,
		"main":      "seq 1 200000; printf 'the end'; read x",
	} {
		b.Run(name, func(b *testing.B) {
			last := map[string]string{"alternate": "24 of 24", "main": "the end"}[name]
			a := newAgent(b, reconnectingpty.Config{})
			see := func() {
				v := a.attach("main", command, usual, false)
				var all []byte
				piece := make([]byte, 32<<10)
				for !bytes.Contains(all, []byte(last)) {
					n, err := v.Read(piece)
					require.NoError(b, err)
					all = append(all, piece[:n]...)
				}
				require.NoError(b, v.Close())
			}
			see()
			for b.Loop() {
				see()
			}
		})
	}
}

// BenchmarkMemory reports what a detached terminal costs in this process, beyond what its
// history holds, which is nothing here.
func BenchmarkMemory(b *testing.B) {
	a := newAgent(b, reconnectingpty.Config{MaxTerminals: 1000})
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	n := 0
	for b.Loop() {
		v := a.attach("t"+string(rune('a'+n%26))+strings.Repeat("x", n/26%32), "read x", usual, false)
		require.NoError(b, v.Close())
		n++
		if n >= 100 {
			break
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(n)/(1<<20), "MiB/terminal")
}
