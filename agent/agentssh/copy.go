package agentssh

import (
	"errors"
	"io"
	"os"
	"sync"
	"time"
)

const copyBuffer = 32 << 10

// copyInput feeds the process from the client. The end of the client's input is not
// the end of the session. It ends with the channel, not with the session: x/crypto
// gives no way to interrupt the read.
func (s *session) copyInput(p *process) {
	buf := make([]byte, copyBuffer)
	for {
		n, err := s.ch.Read(buf)
		if n > 0 {
			s.bytes.received.Add(uint64(n))
			if _, werr := p.stdin.Write(buf[:n]); werr != nil {
				// The process does not want it. Take it anyway: a client that is
				// stuck in sending would not notice the end.
				_, _ = io.Copy(io.Discard, s.ch)
				return
			}
		}
		if err != nil {
			now := time.Now()
			s.inputEnd.Store(&now)
			if s.pty == nil {
				_ = p.stdin.Close()
			}
			return
		}
	}
}

// copyOutput feeds the client from the process until all writers are gone or the
// client is. When the client does not read, it waits, and so does the process, but
// nobody else. On failure it leaves the pipes open: a process must not die of SIGPIPE
// before it is known why its client went.
func (s *session) copyOutput(p *process) {
	if p.viewer != nil {
		copyStream(s.bytes.output(s.ch), p.viewer)
		return
	}
	if s.pty != nil {
		if _, err := s.ch.Write(s.motd()); err == nil {
			copyStream(s.bytes.output(s.ch), &terminalOutput{p: p})
		}
		return
	}
	var both sync.WaitGroup
	both.Go(func() { copyStream(s.bytes.output(s.stderr), p.stderr) })
	copyStream(s.bytes.output(s.ch), p.stdout)
	both.Wait()
}

func copyStream(w io.Writer, r io.Reader) {
	// Hide other methods: no copy may bypass the window of the channel.
	_, _ = io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{r}, make([]byte, copyBuffer))
}

// terminalOutput ends when the terminal was hung up, or when it is silent after its
// process ended although something else holds it open.
type terminalOutput struct{ p *process }

func (t *terminalOutput) Read(b []byte) (int, error) {
	for {
		exited := t.p.hasExited()
		if exited {
			_ = t.p.pty.SetReadDeadline(time.Now().Add(ptyQuiet))
		}
		n, err := t.p.pty.Read(b)
		if n > 0 || err == nil {
			return n, nil
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			if exited {
				return 0, io.EOF
			}
			_ = t.p.pty.SetReadDeadline(time.Time{})
			continue
		}
		return 0, err
	}
}
