package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"fairlead.dev/fairlead/client"
)

const (
	// maxClip is how much of each output a coding agent gets, in bytes.
	maxClip = 64 << 10
	// commandTimeout is how long a command may run unless the call says otherwise.
	commandTimeout    = 2 * time.Minute
	maxCommandTimeout = time.Hour
	// commandGrace is how long a command may take to end after each signal.
	commandGrace = 2 * time.Second
)

type commandInput struct {
	Workspace      string `json:"workspace" jsonschema:"NAME, or OWNER/NAME"`
	Command        string `json:"command" jsonschema:"a command line for the shell"`
	Stdin          string `json:"stdin,omitempty" jsonschema:"what the command reads on its standard input"`
	TimeoutSeconds int    `json:"timeout_seconds,omitempty" jsonschema:"after which the command is ended, 1 to 3600; 120 if left out"`
}

// commandResult is how a command went, and the five fields of why it ended.
type commandResult struct {
	ExitCode      int    `json:"exit_code"` // the remote status; 128+n for signal n; 255: the connection was lost
	Exited        bool   `json:"exited"`    // the exit code is the command's own
	TimedOut      bool   `json:"timed_out"`
	Stdout        string `json:"stdout"`
	StdoutOmitted int64  `json:"stdout_omitted_bytes"` // out of the middle
	Stderr        string `json:"stderr"`
	StderrOmitted int64  `json:"stderr_omitted_bytes"`
	ConnectionID  string `json:"connection_id"`
	ConnectType   string `json:"connect_type"`
	Reason        string `json:"disconnect_reason"`
	Expected      bool   `json:"disconnect_expected"`
	Initiator     string `json:"disconnect_initiator"`
	Detail        string `json:"disconnect_detail"`
}

// runCommand runs one command. One that takes too long, or whose caller does not want
// it any more, is ended by signals: leaving would end what else runs in the workspace.
func (m *mcpServer) runCommand(ctx context.Context, in commandInput) (commandResult, error) {
	timeout := commandTimeout
	if in.TimeoutSeconds != 0 {
		timeout = time.Duration(in.TimeoutSeconds) * time.Second
	}
	switch {
	case timeout <= 0 || timeout > maxCommandTimeout:
		return commandResult{}, fmt.Errorf("timeout_seconds %d is not valid: give 1 to %d", in.TimeoutSeconds, int(maxCommandTimeout.Seconds()))
	case strings.TrimSpace(in.Command) == "":
		return commandResult{}, errors.New("the command is empty")
	case strings.ContainsRune(in.Command, 0):
		return commandResult{}, errors.New("a command cannot hold a zero byte")
	}
	w, err := m.reach(ctx, in.Workspace)
	if err != nil {
		return commandResult{}, err
	}
	var stdout, stderr clip
	signals := make(chan os.Signal, 2)
	session, leave := context.WithCancel(context.WithoutCancel(ctx))
	defer leave()
	ended := make(chan client.SessionEnd, 1)
	go func() {
		ended <- w.RunSession(session, client.SessionOptions{
			Command: in.Command, Stdin: strings.NewReader(in.Stdin), Stdout: &stdout, Stderr: &stderr, Signals: signals,
		})
	}()
	end, timedOut := awaitCommand(ctx, ended, signals, timeout, leave)
	if end.Err != nil {
		return commandResult{}, end.Err
	}
	a := end.Attribution
	result := commandResult{
		ExitCode: end.ExitCode, Exited: end.Exited, TimedOut: timedOut, ConnectionID: end.ConnectionID,
		ConnectType: a.ConnectType.String(), Reason: a.Reason.String(), Expected: a.Expected(), Initiator: a.Initiator.String(), Detail: a.Detail,
	}
	result.Stdout, result.StdoutOmitted = stdout.text()
	result.Stderr, result.StderrOmitted = stderr.text()
	return result, nil
}

// awaitCommand waits for the end of a command, and makes one after timeout or when ctx
// ends: by SIGTERM, by SIGKILL, and at last by leaving.
func awaitCommand(ctx context.Context, ended <-chan client.SessionEnd, signals chan<- os.Signal, timeout time.Duration, leave func()) (end client.SessionEnd, timedOut bool) {
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case end := <-ended:
		return end, false
	case <-timer.C:
		timedOut = true
	case <-ctx.Done():
	}
	for _, s := range []os.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		signals <- s // has room for both
		timer.Reset(commandGrace)
		select {
		case end := <-ended:
			return end, timedOut
		case <-timer.C:
		}
	}
	leave()
	return <-ended, timedOut
}

// clip keeps the first and the last half of maxClip bytes of what is written to it. It
// is safe for concurrent use.
type clip struct {
	mu         sync.Mutex // guards head, tail and total
	head, tail []byte
	total      int64
}

// Write never fails.
func (c *clip) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.total += int64(len(b))
	rest := b
	if room := maxClip/2 - len(c.head); room > 0 {
		n := min(room, len(b))
		c.head, rest = append(c.head, b[:n]...), b[n:]
	}
	c.tail = append(c.tail, rest[max(0, len(rest)-maxClip/2):]...)
	if len(c.tail) > maxClip {
		c.tail = append(c.tail[:0], c.tail[len(c.tail)-maxClip/2:]...)
	}
	return len(b), nil
}

// text returns what was kept, and how many bytes between its halves were not.
func (c *clip) text() (text string, omitted int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	tail := c.tail[max(0, len(c.tail)-maxClip/2):]
	omitted = c.total - int64(len(c.head)+len(tail))
	text = string(c.head)
	if omitted > 0 {
		text += fmt.Sprintf("\n[%d bytes left out]\n", omitted)
	}
	return strings.ToValidUTF8(text+string(tail), "\ufffd"), omitted
}
