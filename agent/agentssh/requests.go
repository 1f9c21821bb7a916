package agentssh

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"syscall"

	"golang.org/x/crypto/ssh"

	"fairlead.dev/fairlead/agent/proto"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/pty"
)

// Payloads of RFC 4254 section 6, in the encoding of ssh.Marshal.
type (
	ptyPayload struct {
		Term                         string
		Cols, Rows, XPixels, YPixels uint32
		Modes                        string
	}
	windowPayload struct {
		Cols, Rows, XPixels, YPixels uint32
	}
	envPayload struct {
		Name, Value string
	}
	textPayload struct { // of exec, signal and subsystem
		Text string
	}
	exitStatusPayload struct {
		Status uint32
	}
	exitSignalPayload struct {
		Signal  string
		Core    bool
		Message string
		Lang    string
	}
)

// serveRequests answers the channel's requests until the channel is closed from the
// other side. It never waits for the session: unanswered requests would block the
// whole connection.
func (s *session) serveRequests(requests <-chan *ssh.Request) {
	for req := range requests {
		launched := s.kind != ""
		_ = req.Reply(s.handle(req), nil)
		if !launched && s.kind != "" {
			s.c.goroutines.Go(s.run)
		}
	}
	s.goneAlone = !s.c.nc.delivered.Load()
	close(s.gone)
	if s.kind == "" { // never ran anything: no session that could end
		s.closePTY()
		s.closeLent()
		_ = s.ch.Close()
	}
}

func (s *session) handle(req *ssh.Request) (ok bool) {
	defer func() {
		if r := recover(); r != nil {
			s.logPanic(r)
			ok = s.kind != ""
		}
	}()
	switch req.Type {
	case "pty-req":
		return s.openPTY(req.Payload)
	case "window-change":
		return s.resize(req.Payload)
	case proto.RefreshRequest:
		return s.refresh()
	case "env":
		return s.setEnv(req.Payload)
	case "signal":
		return s.signal(req.Payload)
	case "shell":
		return s.launch(KindShell, "")
	case "exec":
		var m textPayload
		return ssh.Unmarshal(req.Payload, &m) == nil && s.launch(KindExec, m.Text)
	case "subsystem":
		return s.subsystem(req.Payload)
	case agentRequest:
		return s.openAgent()
	case x11Request:
		return s.openX11(req.Payload)
	case "keepalive@openssh.com":
		return true
	default: // break, …
		return false
	}
}

// launch starts what the session is for. It is true also when that fails: the user
// then reads why on the session's standard error.
func (s *session) launch(kind Kind, command string) bool {
	if s.kind != "" || !s.c.register(s) {
		return false
	}
	s.kind = kind
	s.proc, s.startErr = s.start(command)
	return true
}

// start turns a panic of the callbacks into an error: the session is registered and
// must be seen to its end.
func (s *session) start(command string) (p *process, err error) {
	defer func() {
		if r := recover(); r != nil {
			s.logPanic(r)
			err = &disconnect.EndedError{Attribution: panicked(r)}
		}
	}()
	if track := s.c.srv.cfg.Track; track != nil {
		s.id, s.ended = track(Session{
			RemoteAddr:    s.c.nc.RemoteAddr(),
			ClientVersion: disconnect.Scrub(string(s.c.sc.ClientVersion())),
			User:          disconnect.Scrub(s.c.sc.User()),
			App:           s.application(),
			Kind:          s.kind,
			Name:          disconnect.Scrub(s.name),
			End:           s.stop,
		})
	}
	s.settings = s.c.srv.cfg.Settings()
	if (s.kind == KindSFTP || s.kind == KindExec && transfersFiles(command)) && s.c.srv.forbids(fileTransfer) {
		return nil, &disconnect.EndedError{Attribution: denied(fileTransfer)}
	}
	switch s.kind {
	case KindAttach:
		return s.attach(command)
	case KindSFTP:
		return &process{files: &fileServer{s: s}, exited: make(chan struct{})}, nil
	}
	cmd := s.command(command)
	if p, err = startProcess(cmd, s.pty); errors.Is(err, syscall.E2BIG) {
		err = s.tooLong(command, cmd, err)
	}
	return p, err
}

func (s *session) openPTY(payload []byte) bool {
	var m ptyPayload
	if s.pty != nil || s.kind != "" || ssh.Unmarshal(payload, &m) != nil {
		return false
	}
	p, err := pty.Open()
	if err == nil {
		err = errors.Join(p.Resize(size(m.Rows, m.Cols, m.XPixels, m.YPixels)), p.SetModes(parseModes(m.Modes)))
	}
	if err != nil {
		s.c.srv.logger.Warn("ssh terminal refused", "error", err)
		if p != nil {
			_ = p.Close()
		}
		return false
	}
	s.pty, s.term = p, m.Term
	return true
}

func (s *session) resize(payload []byte) bool {
	var m windowPayload
	if s.pty == nil || ssh.Unmarshal(payload, &m) != nil {
		return false
	}
	if s.proc != nil && s.proc.viewer != nil {
		return s.proc.viewer.Resize(size(m.Rows, m.Cols, m.XPixels, m.YPixels)) == nil
	}
	return s.pty.Resize(size(m.Rows, m.Cols, m.XPixels, m.YPixels)) == nil
}

// refresh has a viewer's screen painted anew.
func (s *session) refresh() bool {
	if s.proc == nil || s.proc.viewer == nil {
		return false
	}
	s.proc.viewer.Refresh()
	return true
}

func size(rows, cols, x, y uint32) pty.Size {
	clamp := func(n uint32) uint16 { return uint16(min(n, 0xffff)) }
	return pty.Size{Rows: clamp(rows), Cols: clamp(cols), XPixels: clamp(x), YPixels: clamp(y)}
}

// parseModes reads the terminal modes of RFC 4254 section 8: an opcode and a number
// each, until opcode 0 or one above 159, whose form is not defined.
func parseModes(encoded string) map[uint8]uint32 {
	modes := make(map[uint8]uint32)
	for b := []byte(encoded); len(b) >= 5 && b[0] != 0 && b[0] < 160; b = b[5:] {
		modes[b[0]] = binary.BigEndian.Uint32(b[1:5])
	}
	return modes
}

func (s *session) setEnv(payload []byte) bool {
	var m envPayload
	if s.kind != "" || ssh.Unmarshal(payload, &m) != nil || !clientMaySet(m.Name, m.Value) || len(s.env) >= maxClientEnv {
		return false
	}
	if policy, _ := s.c.srv.currentPolicy(); !policy.acceptsEnv(m.Name) {
		return false
	}
	if m.Name == appVariable {
		if !validApp(m.Value) {
			return false
		}
		s.app = m.Value
		s.c.learn(App{m.Value, AppDeclared})
	}
	if m.Name == nameVariable {
		s.name = m.Value
	}
	s.env = append(s.env, m.Name+"="+m.Value)
	return true
}

// signal sends a signal to the session's process group, as sshd does. That it was
// the client's wish is noted first, for it may end the process.
func (s *session) signal(payload []byte) bool {
	var m textPayload
	if s.proc == nil || ssh.Unmarshal(payload, &m) != nil || !canSend(m.Text) {
		return false
	}
	s.mu.Lock()
	s.signaled[m.Text] = true
	s.mu.Unlock()
	return s.proc.signal(m.Text) == nil
}

// subsystem serves those there are.
func (s *session) subsystem(payload []byte) bool {
	var m textPayload
	if ssh.Unmarshal(payload, &m) != nil {
		return false
	}
	if m.Text == sftpSubsystem {
		return s.launchFiles()
	}
	if name, options, _ := strings.Cut(m.Text, " "); name == proto.AttachSubsystem && s.c.srv.cfg.Terminals != nil {
		return s.launchAttach(options)
	}
	return s.refuseSubsystem(payload)
}

// refuseSubsystem says why on standard error; the refusal itself has no text.
func (s *session) refuseSubsystem(payload []byte) bool {
	var m textPayload
	if s.kind == "" && ssh.Unmarshal(payload, &m) == nil {
		s.say(fmt.Sprintf("subsystem %q is not supported by this agent yet", disconnect.Scrub(m.Text)))
	}
	return false
}
