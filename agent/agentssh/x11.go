package agentssh

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/crypto/ssh"

	"fairlead.dev/fairlead/disconnect"
)

// Forwarding of X11 (RFC 4254 section 6.3).
const (
	x11Request = "x11-req"
	x11Arrived = "x11"
	// x11Address stands for the client's display where a target's address does.
	x11Address = "x11"

	// Displays that are looked through for one that nobody has, as sshd does.
	firstDisplay, lastDisplay = 10, 1009
	x11Port                   = 6000 // of display 0
	// familyWild is the family of an entry in an Xauthority file that counts for each host.
	familyWild = 0xffff
	maxCookie  = 256 // bytes, of a cookie and of its protocol's name
)

// x11Display is a display of this host that leads to the client's. Its cookie is in a file of
// its own, so that no xauth has to be there, and nothing of it is left.
type x11Display struct {
	name      string // as in localhost:10.0
	directory string
	listeners []net.Listener
}

// cookieFile is where the display's cookie is.
func (d *x11Display) cookieFile() string { return filepath.Join(d.directory, "Xauthority") }

// openX11 makes a display for the session that will begin. A session has one.
func (s *session) openX11(payload []byte) bool {
	if s.kind != "" || s.x11 != nil {
		return false
	}
	if s.c.srv.forbids(remoteForwarding) {
		a := denied(remoteForwarding)
		return s.refuse("X11 forwarding", a.Reason, a.Detail)
	}
	var m struct {
		Single           bool
		Protocol, Cookie string
		Screen           uint32
	}
	cookie, err := []byte(nil), ssh.Unmarshal(payload, &m)
	if err == nil {
		cookie, err = hex.DecodeString(m.Cookie)
	}
	if err != nil || m.Protocol == "" || len(m.Protocol) > maxCookie || len(cookie) == 0 || len(cookie) > maxCookie {
		return s.refuse("X11 forwarding", disconnect.ProtocolError, "malformed request")
	}
	d, err := newX11Display(m.Protocol, cookie, m.Screen)
	if err != nil {
		return s.refuse("X11 forwarding", disconnect.ResourceExhausted, err.Error())
	}
	s.x11 = d
	for _, l := range d.listeners {
		if m.Single {
			l = onceListener{l, d.listeners}
		}
		s.c.goroutines.Go(func() { s.c.acceptBack(target{"x11", x11Address}, l) })
	}
	return true
}

// refuse says on standard error and in the log why a request is refused, which the refusal
// itself cannot. It returns false.
func (s *session) refuse(what string, why disconnect.Reason, text string) bool {
	s.c.srv.logger.Warn("ssh request refused", "request", what, "refusal", why.String(), "rule", disconnect.Scrub(text))
	s.say(what + " is refused: " + why.String() + ": " + text)
	return false
}

// onceListener closes all listeners with the first connection.
type onceListener struct {
	net.Listener
	all []net.Listener
}

// Accept implements net.Listener.
func (l onceListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		closeListeners(l.all)
	}
	return c, err
}

func newX11Display(protocol string, cookie []byte, screen uint32) (*x11Display, error) {
	number, listeners := freeDisplay()
	if listeners == nil {
		return nil, errors.New("there is no free display here")
	}
	d := &x11Display{listeners: listeners, name: "localhost:" + strconv.Itoa(number) + "." + strconv.FormatUint(uint64(screen), 10)}
	var err error
	if d.directory, err = os.MkdirTemp("", "fairlead-"); err == nil { // with mode 0700
		err = os.WriteFile(d.cookieFile(), cookieEntry(strconv.Itoa(number), protocol, cookie), 0o600)
	}
	if err != nil {
		d.close()
		return nil, err
	}
	return d, nil
}

// freeDisplay listens on the port of a display, on both addresses of localhost if both are
// there: programs try either.
func freeDisplay() (number int, listeners []net.Listener) {
	for number := firstDisplay; number <= lastDisplay; number++ {
		port := strconv.Itoa(x11Port + number)
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", port))
		if err != nil {
			continue
		}
		second, err := net.Listen("tcp", net.JoinHostPort("::1", port))
		if err == nil {
			return number, []net.Listener{l, second}
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			return number, []net.Listener{l} // this host has no IPv6
		}
		_ = l.Close()
	}
	return 0, nil
}

// cookieEntry is one entry of an Xauthority file: numbers of 2 bytes, and texts with their
// length before them.
func cookieEntry(display, protocol string, cookie []byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, familyWild)
	for _, text := range []string{"", display, protocol, string(cookie)} {
		b = append(binary.BigEndian.AppendUint16(b, uint16(len(text))), text...)
	}
	return b
}

// close removes the display. Connections through it end by themselves, as with sshd.
func (d *x11Display) close() {
	closeListeners(d.listeners)
	if d.directory != "" {
		_ = os.RemoveAll(d.directory)
	}
}
