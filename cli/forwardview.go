package cli

import (
	"fmt"
	"io"
	"sync"
	"time"

	"fairlead.dev/fairlead/client"
)

// forwardView tells what happens to forwards: where they listen, on standard output;
// the workspace's coming and going, on standard error; and each connection where
// somebody watches. It is safe for concurrent use.
type forwardView struct {
	streams
	workspace string
	each      bool // tell of each connection

	mu     sync.Mutex // guards all below, and is held while a line is written
	status *statusLine
	told   time.Time // when a refusal was told last, if not each is
	untold int       // refusals since
}

func newForwardView(s streams, workspace string, verbose bool) *forwardView {
	_, watched := terminalOf(s.out)
	return &forwardView{streams: s, workspace: plain(workspace), each: verbose || watched, status: newStatusLine(s.err)}
}

// step shows at which step of connecting the command is.
func (v *forwardView) step(step string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.status.show(step)
}

// clear removes what step showed.
func (v *forwardView) clear() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.status.clear()
}

// notice tells what the user should know although the command goes on.
func (v *forwardView) notice(sentence string) {
	v.line(v.err, "fairlead: "+plain(sentence))
}

func (v *forwardView) line(w io.Writer, text string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.status.clear()
	fmt.Fprintln(w, text) // nobody is left to hear that nobody reads
}

// event tells of one event.
func (v *forwardView) event(e client.ForwardEvent) {
	switch e.Type {
	case client.ForwardListening:
		v.line(v.out, v.listening(e.Forward))
	case client.ForwardAway:
		v.line(v.err, fmt.Sprintf("fairlead: connection to %s ended: %s; waiting for it to come back, new connections are reset", v.workspace, e.Attribution))
	case client.ForwardBack:
		v.line(v.err, fmt.Sprintf("fairlead: %s is back, and its forwards with it", v.workspace))
	case client.ForwardFailed:
		v.line(v.err, fmt.Sprintf("fairlead: %s does not listen on %s yet: %s", v.workspace, e.Forward.Listen, e.Attribution))
	case client.ForwardOpened:
		if v.each {
			v.line(v.out, fmt.Sprintf("opened %d: from %s to %s", e.Connection, e.From, e.Target))
		}
	case client.ForwardClosed:
		if v.each {
			v.line(v.out, fmt.Sprintf("closed %d: %s sent, %s received in %s; %s", e.Connection,
				byteCount(e.Sent), byteCount(e.Received), e.Lasted.Round(time.Millisecond), e.Attribution))
		}
	case client.ForwardRefused:
		v.refused(e)
	}
}

// refused tells of each refusal where somebody watches, and else of one in a second.
func (v *forwardView) refused(e client.ForwardEvent) {
	target := e.Target
	if target == "" {
		target = e.Forward.Listen.String()
	}
	text := fmt.Sprintf("refused %d: from %s to %s; %s", e.Connection, e.From, target, e.Attribution)
	if v.each {
		v.line(v.out, text)
		return
	}
	v.mu.Lock()
	if e.At.Sub(v.told) < time.Second {
		v.untold++
		v.mu.Unlock()
		return
	}
	if v.untold > 0 {
		text += fmt.Sprintf(" (and %d before it)", v.untold)
	}
	v.told, v.untold = e.At, 0
	v.mu.Unlock()
	v.line(v.err, "fairlead: "+text)
}

func (v *forwardView) listening(f client.Forward) string {
	switch {
	case f.Remote && f.Target.Address == "":
		return fmt.Sprintf("%s in %s is a SOCKS proxy to this machine", f.Listen, v.workspace)
	case f.Remote:
		return fmt.Sprintf("%s in %s leads to %s here", f.Listen, v.workspace, f.Target)
	case f.Target.Address == "":
		return fmt.Sprintf("%s is a SOCKS proxy into %s", f.Listen, v.workspace)
	}
	return fmt.Sprintf("%s leads to %s in %s", f.Listen, f.Target, v.workspace)
}

// byteCount prints a number of bytes as people say it.
func byteCount(n uint64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	value, unit := float64(n), 0
	for value >= 1024 && unit < 5 {
		value, unit = value/1024, unit+1
	}
	return fmt.Sprintf("%.1f %ciB", value, "KMGTP"[unit-1])
}
