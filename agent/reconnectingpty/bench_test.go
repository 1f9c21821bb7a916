//go:build unix

package reconnectingpty_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/agent/reconnectingpty"
	"fairlead.dev/fairlead/pty"
)

// written is how many bytes a program writes in one turn.
const written = 64 << 20

// writer is a program that writes so many bytes of text to its terminal, as fast as that
// takes them, once it reads a line.
func writer(b *testing.B) string {
	text := filepath.Join(b.TempDir(), "text")
	line := strings.Repeat("0123456789", 8) + "\n"
	require.NoError(b, os.WriteFile(text, bytes.Repeat([]byte(line), (16<<20)/len(line)), 0o600))
	return "stty raw -echo; echo ready; read go; for i in 1 2 3 4; do cat " + text + "; done; exit 0"
}

// BenchmarkProgram compares a terminal that is only read with one that is kept, with a
// viewer and without. They take turns, so that all of them meet the same machine: what
// counts are the ratios.
func BenchmarkProgram(b *testing.B) {
	command := writer(b)
	a := newAgent(b, reconnectingpty.Config{})
	ways := []struct {
		name string
		run  func() time.Duration
	}{
		{"bare", func() time.Duration { return programOnBare(b, command) }},
		{"detached", func() time.Duration { return programKept(b, a, command, false) }},
		{"attached", func() time.Duration { return programKept(b, a, command, true) }},
	}
	took, used := map[string][]float64{}, map[string][]float64{}
	for n := 0; b.Loop(); n++ {
		for i := range ways {
			way, before := ways[(n+i)%len(ways)], processorTime(b)
			took[way.name] = append(took[way.name], way.run().Seconds())
			used[way.name] = append(used[way.name], processorTime(b)-before)
		}
	}
	for _, way := range ways {
		b.ReportMetric(written/median(took[way.name])/1e6, way.name+"-MB/s")
		b.ReportMetric(median(took[way.name])/median(took["bare"]), way.name+"/bare")
		b.ReportMetric(median(used[way.name])/median(used["bare"]), way.name+"/bare-cpu")
	}
}

func median(samples []float64) float64 { return slices.Sorted(slices.Values(samples))[len(samples)/2] }

// processorTime is what this process and its children have used so far, in seconds: unlike
// the time by the clock it does not depend on who else is on the machine.
func processorTime(b *testing.B) (seconds float64) {
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var used syscall.Rusage
		require.NoError(b, syscall.Getrusage(who, &used))
		seconds += float64(used.Utime.Nano()+used.Stime.Nano()) / 1e9
	}
	return seconds
}

// programOnBare is how long the program takes whose terminal is read and thrown away.
func programOnBare(b *testing.B, command string) time.Duration {
	tty, err := pty.Open()
	require.NoError(b, err)
	cmd := exec.Command("/bin/sh", "-c", command)
	require.NoError(b, tty.Start(cmd))
	untilReady(b, tty)
	began := time.Now()
	_, err = tty.Write([]byte("\n"))
	require.NoError(b, err)
	_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{tty}, make([]byte, 16<<10))
	took := time.Since(began)
	require.NoError(b, cmd.Wait())
	require.NoError(b, tty.Close())
	return took
}

// programKept is the same for a terminal that is kept, with a viewer that throws away what
// it reads, or without one.
func programKept(b *testing.B, a *agent, command string, look bool) time.Duration {
	v := a.attach("main", command, usual, false)
	untilReady(b, v)
	began := time.Now()
	_, err := v.Write([]byte("\n"))
	require.NoError(b, err)
	if look {
		_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{v}, make([]byte, 32<<10))
		took := time.Since(began)
		_, _ = v.Wait()
		return took
	}
	require.NoError(b, v.Close())
	for len(a.List("ann")) > 0 {
		<-time.After(time.Millisecond)
	}
	return time.Since(began)
}

func untilReady(b *testing.B, r io.Reader) {
	var all []byte
	piece := make([]byte, 4096)
	for !bytes.Contains(all, []byte("ready\r\n")) && !bytes.Contains(all, []byte("ready\n")) {
		n, err := r.Read(piece)
		require.NoError(b, err)
		all = append(all, piece[:n]...)
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

// BenchmarkMemory reports what each of 100 detached terminals costs in this process, with
// its history, which is full, and beyond it.
func BenchmarkMemory(b *testing.B) {
	const terminals = 100
	for b.Loop() {
		a := newAgent(b, reconnectingpty.Config{MaxTerminals: terminals})
		before := memory()
		for i := range terminals {
			v := a.attach(fmt.Sprint("t", i), "stty raw -echo; seq 1 200000; echo ready; read x", usual, false)
			untilReady(b, v)
			require.NoError(b, v.Close())
		}
		each := float64(memory()-before) / terminals / (1 << 20)
		b.ReportMetric(each, "MiB/terminal")
		b.ReportMetric(each-float64(reconnectingpty.DefaultHistory)/(1<<20), "MiB-beyond-history")
		ctx, cancel := context.WithTimeout(b.Context(), patience)
		a.Close(ctx, shutdown)
		cancel()
	}
}

// memory is what lives on the heap, and the stacks, in bytes.
func memory() uint64 {
	var now runtime.MemStats
	runtime.GC()
	runtime.GC() // what pools keep goes with the second
	runtime.ReadMemStats(&now)
	return now.HeapAlloc + now.StackInuse
}
