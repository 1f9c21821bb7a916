package agentssh

import (
	"encoding/binary"
	"io"
	"os"
	"path"

	"golang.org/x/crypto/ssh"
)

// Packets of SFTP version 3 (draft-ietf-secsh-filexfer-02).
const (
	sftpSetstat = 9
	sftpSymlink = 20
	// maxSymlink bounds a request that makes a link, in bytes: two paths.
	maxSymlink = 16 << 10
)

// linkMaker stands before the SFTP server and makes symbolic links in its place, which
// would have what a link leads to begin at the session's directory: "b -> a" became
// "b -> /home/ada/a".
type linkMaker struct {
	*fileServer
	directory string // where relative paths begin

	head []byte // to be read before anything else
	rest uint32 // of the packet that is passed on, bytes still to come
}

// Read implements io.Reader for the SFTP server.
func (m *linkMaker) Read(b []byte) (int, error) {
	if len(m.head) == 0 && m.rest == 0 {
		if err := m.next(); err != nil {
			return 0, err
		}
	}
	if len(m.head) > 0 {
		n := copy(b, m.head)
		m.head = m.head[n:]
		return n, nil
	}
	n, err := m.fileServer.Read(b[:min(len(b), int(m.rest))])
	m.rest -= uint32(n)
	return n, err
}

// next reads the head of a packet, and all of one that makes a link.
func (m *linkMaker) next() error {
	head := make([]byte, 5)
	if _, err := io.ReadFull(m.fileServer, head[:4]); err != nil {
		return err
	}
	size := binary.BigEndian.Uint32(head)
	if size == 0 || size > maxSymlink {
		m.head, m.rest = head[:4], size
		return nil
	}
	if _, err := io.ReadFull(m.fileServer, head[4:]); err != nil {
		return err
	}
	m.head, m.rest = head, size-1
	if head[4] != sftpSymlink {
		return nil
	}
	body := make([]byte, m.rest)
	if _, err := io.ReadFull(m.fileServer, body); err != nil {
		return err
	}
	m.rest = 0
	m.head = append(head, body...)
	if id, ok := m.link(body); ok { // answered as a change of nothing, which succeeds
		done := append([]byte{sftpSetstat}, ssh.Marshal(struct {
			ID    uint32
			Path  string
			Flags uint32
		}{id, "/", 0})...)
		m.head = append(binary.BigEndian.AppendUint32(nil, uint32(len(done))), done...)
	}
	return nil
}

// link makes the link that body asks for, with what it leads to first, as OpenSSH has it.
// What fails is left to the server, which fails in the same way and says so.
func (m *linkMaker) link(body []byte) (id uint32, ok bool) {
	var ask struct {
		ID          uint32
		Leads, Name string
	}
	if ssh.Unmarshal(body, &ask) != nil || ask.Leads == "" || ask.Name == "" {
		return 0, false
	}
	if !path.IsAbs(ask.Name) {
		ask.Name = path.Join(m.directory, ask.Name)
	}
	return ask.ID, os.Symlink(ask.Leads, ask.Name) == nil
}
