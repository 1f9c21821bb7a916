package agentssh

import (
	"encoding/json"
	"io"
	"net"
	"os"
	"os/exec"

	"golang.org/x/crypto/ssh"

	"fairlead.dev/fairlead/agent/proto"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/pty"
)

// maxAttach bounds the options of the subsystem, in bytes.
const maxAttach = 64 << 10

// Terminals keeps terminals that outlive their viewers. None of its methods may block.
type Terminals interface {
	// Attach makes the request's terminal show another one.
	Attach(AttachRequest) (Viewer, error)
	// Query answers what is not an attachment, as JSON.
	Query(remote net.Addr, query proto.Attach) (answer []byte, err error)
}

// AttachRequest is a session that wants to be a viewer.
type AttachRequest struct {
	proto.Attach
	RemoteAddr net.Addr
	// Terminal is new, and has the size and modes of the viewer's. Attach owns it.
	Terminal pty.PTY
	// Cmd returns the process for a terminal that has to be started.
	Cmd func() *exec.Cmd
}

// Viewer is one attachment.
type Viewer interface {
	// Read returns io.EOF once the attachment is over.
	io.ReadWriteCloser // Close detaches
	Resize(pty.Size) error
	// Refresh has Read return the state of the terminal anew.
	Refresh()
	// Wait returns when the process has ended, with its state, or when the viewer was
	// sent away, with the cause, or after Close, with neither.
	Wait() (*os.ProcessState, disconnect.Attribution)
}

// launchAttach begins what the options of the subsystem ask for.
func (s *session) launchAttach(options string) bool {
	var request proto.Attach
	if len(options) > maxAttach || (options != "" && json.Unmarshal([]byte(options), &request) != nil) {
		s.say("the options of the subsystem " + proto.AttachSubsystem + " are not valid")
		return false
	}
	if request.Name == "" {
		request.Name = proto.DefaultTerminal
	}
	if s.kind != "" || !s.c.register(s) {
		return false
	}
	s.kind = KindAttach
	if request.Action != proto.AttachToTerminal {
		s.query = &request
		return true
	}
	s.request = request
	s.proc, s.startErr = s.start(request.Command)
	return true
}

// attach makes the session a viewer.
func (s *session) attach(command string) (*process, error) {
	if s.pty == nil {
		return nil, &disconnect.EndedError{Attribution: attribute(disconnect.ProtocolError, disconnect.Client,
			"only a terminal can be attached: ask for one, as with ssh -t")}
	}
	v, err := s.c.srv.cfg.Terminals.Attach(AttachRequest{
		Attach: s.request, RemoteAddr: s.c.nc.RemoteAddr(), Terminal: s.pty,
		Cmd: func() *exec.Cmd { return s.command(command) },
	})
	if err != nil {
		return nil, err
	}
	return &process{viewer: v, stdin: v, exited: make(chan struct{})}, nil
}

// awaitViewer waits for the end of the attachment, and reports whether that is because
// the process has ended.
func (s *session) awaitViewer(p *process) bool {
	state, why := p.viewer.Wait()
	if state != nil {
		p.status = statusOf(state)
		return true
	}
	p.sentAway = true
	if !why.IsZero() {
		s.stop(why)
	}
	return false
}

// answer answers a query. It ends like a command.
func (s *session) answer() {
	answer, err := s.c.srv.cfg.Terminals.Query(s.c.nc.RemoteAddr(), *s.query)
	status := exitStatusPayload{}
	if err != nil {
		status.Status = 1
		s.say(err.Error())
	} else {
		_, _ = s.ch.Write(answer)
	}
	_, _ = s.ch.SendRequest("exit-status", false, ssh.Marshal(status))
	_ = s.ch.CloseWrite()
}
