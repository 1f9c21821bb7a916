package cli

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"

	"golang.org/x/term"
)

// terminal is a stream that a person sits at.
type terminal struct{ f *os.File }

// terminalOf returns the terminal behind a stream, if it is one.
func terminalOf(stream any) (terminal, bool) {
	f, ok := stream.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return terminal{}, false
	}
	return terminal{f}, true
}

// readSecret asks for one line without showing it.
func (t terminal) readSecret(out io.Writer, prompt string) (string, error) {
	fmt.Fprint(out, prompt)
	defer fmt.Fprintln(out)
	line, err := term.ReadPassword(int(t.f.Fd()))
	if err != nil {
		return "", fmt.Errorf("read from the terminal: %w", err)
	}
	return strings.TrimSpace(string(line)), nil
}

// size returns columns and rows.
func (t terminal) size() (columns, rows int, err error) {
	return term.GetSize(int(t.f.Fd()))
}

// raw turns off the line discipline; the returned func restores it.
func (t terminal) raw() (restore func(), err error) {
	old, err := term.MakeRaw(int(t.f.Fd()))
	if err != nil {
		return nil, fmt.Errorf("set the terminal to raw mode: %w", err)
	}
	return func() { _ = term.Restore(int(t.f.Fd()), old) }, nil
}

// statusLine shows at which step a command is, on one line that is removed again.
// The zero value, and one for a stream that is no terminal, shows nothing.
type statusLine struct {
	out   io.Writer
	shown bool
}

func newStatusLine(w io.Writer) *statusLine {
	if _, ok := terminalOf(w); !ok || os.Getenv("TERM") == "dumb" {
		return &statusLine{}
	}
	return &statusLine{out: w}
}

// show replaces the line.
func (l *statusLine) show(step string) {
	if l.out == nil {
		return
	}
	fmt.Fprintf(l.out, "\r\x1b[K%s…", plain(step))
	l.shown = true
}

// clear removes the line.
func (l *statusLine) clear() {
	if l.shown {
		fmt.Fprint(l.out, "\r\x1b[K")
		l.shown = false
	}
}

// notices keeps what the user should be told once, each sentence once, until there is
// room on the screen. It is safe for concurrent use.
type notices struct {
	mu   sync.Mutex // guards kept
	kept []string
}

// add keeps a sentence.
func (n *notices) add(sentence string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !slices.Contains(n.kept, sentence) {
		n.kept = append(n.kept, sentence)
	}
}

// show prints what was kept, one line each.
func (n *notices) show(out io.Writer) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, sentence := range n.kept {
		fmt.Fprintln(out, "fairlead: "+plain(sentence))
	}
	n.kept = nil
}
