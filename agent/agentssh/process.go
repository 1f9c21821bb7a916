package agentssh

import (
	"fmt"
	"io"
	"os"
	"os/exec"

	"fairlead.dev/fairlead/pty"
)

// process is what a session runs: the leader of a process session of its own.
type process struct {
	cmd    *exec.Cmd
	pty    pty.PTY     // nil without a terminal, and for a viewer
	viewer Viewer      // of a process that is not the session's own; else nil
	files  *fileServer // instead of a process; else nil
	stdin  io.WriteCloser
	stdout *os.File // nil on a terminal
	stderr *os.File // nil on a terminal

	exited    chan struct{} // closed by the owner after wait
	status    exitStatus    // set by wait
	survivors bool          // set by wait: others of the group were alive
	sentAway  bool          // set before exited: the viewer, not the process, ended
}

// startProcess starts cmd on the terminal t, or on pipes if t is nil.
func startProcess(cmd *exec.Cmd, t pty.PTY) (*process, error) {
	p := &process{cmd: cmd, pty: t, exited: make(chan struct{})}
	if t != nil {
		p.stdin = t
		if err := t.Start(cmd); err != nil {
			return nil, err
		}
		return p, nil
	}
	theirs, err := p.openPipes()
	defer closeAll(theirs)
	if err != nil {
		p.close()
		return nil, fmt.Errorf("open pipes: %w", err)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = theirs[0], theirs[1], theirs[2]
	cmd.SysProcAttr = ownSession()
	if err := cmd.Start(); err != nil {
		p.close()
		return nil, fmt.Errorf("start process: %w", err)
	}
	return p, nil
}

// openPipes opens our ends in p and returns the process's. Plain files keep os/exec
// from copying on its own: then its Wait would wait for grandchildren.
func (p *process) openPipes() (theirs []*os.File, err error) {
	inR, inW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	p.stdin = inW
	outR, outW, err := os.Pipe()
	if err != nil {
		return []*os.File{inR}, err
	}
	p.stdout = outR
	errR, errW, err := os.Pipe()
	if err != nil {
		return []*os.File{inR, outW}, err
	}
	p.stderr = errR
	return []*os.File{inR, outW, errW}, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}

// wait returns when the process, not what it started, ended. Call it once.
func (p *process) wait() exitStatus {
	if p.viewer != nil {
		return p.status // awaitViewer set it
	}
	if p.files != nil {
		p.status = p.files.serve()
		return p.status
	}
	_ = p.cmd.Wait() // the state says more than the error
	p.status = statusOf(p.cmd.ProcessState)
	// An empty group never fills again, and its number may be given to another.
	p.survivors = groupAlive(p.cmd.Process.Pid)
	return p.status
}

func (p *process) hasExited() bool {
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}

func (p *process) mayBeSignaled() bool { return !p.hasExited() || p.survivors }

// signal sends the signal called name to the process group.
func (p *process) signal(name string) error {
	if p.cmd == nil || !p.mayBeSignaled() {
		return os.ErrProcessDone
	}
	return signalGroup(p.cmd.Process.Pid, name)
}

// hangUp asks the group to end. Closing the terminal asks its foreground job too,
// which has a group of its own.
func (p *process) hangUp() {
	if p.viewer != nil {
		_ = p.viewer.Close()
		return
	}
	_ = p.signal("HUP")
	_ = p.signal("CONT") // a stopped process would not notice
	if p.pty != nil {
		_ = p.pty.Close()
	}
}

func (p *process) kill() { _ = p.signal("KILL") }

// close releases the pipes or the terminal; it unblocks whoever copies.
func (p *process) close() {
	if p.stdin != nil {
		_ = p.stdin.Close()
	}
	for _, f := range []*os.File{p.stdout, p.stderr} {
		if f != nil {
			_ = f.Close()
		}
	}
}
