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
	// maxNoted bounds a request that is looked at, in bytes: two paths.
	maxNoted = 16 << 10
)

// filePackets stands between the client and the SFTP server. It makes symbolic links in the
// server's place, which would have what a link leads to begin at the session's directory:
// "b -> a" became "b -> /home/ada/a". And it adds fsync (sftpsync.go).
type filePackets struct {
	*fileServer
	directory string // where relative paths begin
	syncer    *syncer

	head []byte // to be read before anything else
	rest uint32 // of the packet that is passed on, bytes still to come
	left uint32 // of the answer that is passed on, bytes still to come
}

func newFilePackets(f *fileServer, directory string) *filePackets {
	return &filePackets{fileServer: f, directory: directory, syncer: newSyncer(directory)}
}

// Read implements io.Reader for the SFTP server.
func (m *filePackets) Read(b []byte) (int, error) {
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

// next reads the head of a packet, and all of one that is changed or noted.
func (m *filePackets) next() error {
	head := make([]byte, 5)
	if _, err := io.ReadFull(m.fileServer, head[:4]); err != nil {
		return err
	}
	size := binary.BigEndian.Uint32(head)
	if size == 0 || size > maxNoted {
		m.head, m.rest = head[:4], size
		return nil
	}
	if _, err := io.ReadFull(m.fileServer, head[4:]); err != nil {
		return err
	}
	m.head, m.rest = head, size-1
	switch head[4] {
	case sftpSymlink, sftpOpen, sftpClose, sftpExtended:
	default:
		return nil
	}
	body := make([]byte, m.rest)
	if _, err := io.ReadFull(m.fileServer, body); err != nil {
		return err
	}
	m.rest = 0
	kind := head[4]
	if kind == sftpSymlink {
		if id, ok := m.link(body); ok { // answered as a change of nothing, which succeeds
			kind, body = sftpSetstat, ssh.Marshal(struct {
				ID    uint32
				Path  string
				Flags uint32
			}{id, "/", 0})
		}
	} else {
		kind, body = m.syncer.request(kind, body)
	}
	m.head = sftpPacket(append([]byte{kind}, body...))
	return nil
}

// Write implements io.Writer for the SFTP server, which writes one packet, or the rest of
// one.
func (m *filePackets) Write(b []byte) (int, error) {
	if m.left > 0 || len(b) < sftpHead {
		m.left -= min(m.left, uint32(len(b)))
		return m.fileServer.Write(b)
	}
	whole := binary.BigEndian.Uint32(b) + 4
	if n := uint32(len(b)); n != whole {
		m.left = max(whole, n) - n
		return m.fileServer.Write(b)
	}
	if _, err := m.fileServer.Write(m.syncer.answer(b)); err != nil {
		return 0, err
	}
	return len(b), nil
}

// link makes the link that body asks for, with what it leads to first, as OpenSSH has it.
// What fails is left to the server, which fails in the same way and says so.
func (m *filePackets) link(body []byte) (id uint32, ok bool) {
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
