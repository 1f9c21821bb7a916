package agentssh

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path"
	"sync"

	"golang.org/x/crypto/ssh"

	"fairlead.dev/fairlead/disconnect"
)

// Packets of SFTP version 3, and the extension of OpenSSH's PROTOCOL section 4.6.
const (
	sftpVersion  = 2
	sftpOpen     = 3
	sftpClose    = 4
	sftpFstat    = 8
	sftpStatus   = 101
	sftpHandle   = 102
	sftpExtended = 200

	sftpFsync = "fsync@openssh.com"

	statusOK      = 0
	statusFailure = 4

	// sftpHead is the length of a packet, its kind, and the id of its request, in bytes.
	sftpHead = 4 + 1 + 4
)

// syncer adds fsync to an SFTP server that does not know it. The server is asked for the
// attributes of the handle instead: it answers in the order of the requests, so that all
// that was written before is in the file when its answer is made one of ours. Methods are
// called from the goroutine that reads for the server and from the one that writes.
type syncer struct {
	directory string // where relative paths begin

	mu      sync.Mutex            // guards all below
	opening map[uint32]string     // paths by id of the request
	asked   map[uint32]string     // handles to sync, by id of the request
	open    map[string]syncedFile // by handle
}

// syncedFile is an open file. The server's own descriptor is not to be had: the file is
// opened once more, if its path still leads to it.
type syncedFile struct {
	path string
	info fs.FileInfo
}

func newSyncer(directory string) *syncer {
	return &syncer{
		directory: directory, opening: make(map[uint32]string), asked: make(map[uint32]string), open: make(map[string]syncedFile),
	}
}

// request notes what a client asks for, and returns what the server is asked instead.
// Body begins with the id.
func (y *syncer) request(kind byte, body []byte) (byte, []byte) {
	y.mu.Lock()
	defer y.mu.Unlock()
	switch kind {
	case sftpOpen:
		var m struct {
			ID   uint32
			Path string
			Rest []byte `ssh:"rest"`
		}
		if ssh.Unmarshal(body, &m) == nil {
			y.opening[m.ID] = m.Path
		}
	case sftpClose:
		var m struct {
			ID     uint32
			Handle string
		}
		if ssh.Unmarshal(body, &m) == nil {
			delete(y.open, m.Handle)
		}
	case sftpExtended:
		var m struct {
			ID   uint32
			Name string
			Rest []byte `ssh:"rest"`
		}
		if ssh.Unmarshal(body, &m) != nil || m.Name != sftpFsync {
			break
		}
		var h struct{ Handle string }
		if ssh.Unmarshal(m.Rest, &h) == nil {
			y.asked[m.ID] = h.Handle
			return sftpFstat, ssh.Marshal(struct {
				ID     uint32
				Handle string
			}{m.ID, h.Handle})
		}
	}
	return kind, body
}

// answer returns what the client is told where the server says packet, a whole one.
func (y *syncer) answer(packet []byte) []byte {
	kind, id := packet[4], binary.BigEndian.Uint32(packet[5:])
	if kind == sftpVersion { // which has no id
		return sftpPacket(append(packet[4:], ssh.Marshal(struct{ Name, Version string }{sftpFsync, "1"})...))
	}
	y.mu.Lock()
	defer y.mu.Unlock()
	if handle, ok := y.asked[id]; ok {
		delete(y.asked, id)
		if kind == sftpStatus { // there is no such handle
			return packet
		}
		return fsyncAnswer(id, y.open[handle].sync())
	}
	name, ok := y.opening[id]
	delete(y.opening, id)
	var m struct{ Handle string }
	if !ok || kind != sftpHandle || ssh.Unmarshal(packet[sftpHead:], &m) != nil {
		return packet
	}
	if !path.IsAbs(name) {
		name = path.Join(y.directory, name)
	}
	if info, err := os.Stat(name); err == nil && info.Mode().IsRegular() {
		y.open[m.Handle] = syncedFile{name, info}
	}
	return packet
}

func fsyncAnswer(id uint32, err error) []byte {
	m := struct {
		Kind       byte
		ID, Code   uint32
		Text, Lang string
	}{Kind: sftpStatus, ID: id, Code: statusOK}
	if err != nil {
		m.Code, m.Text = statusFailure, disconnect.Scrub("fsync: "+err.Error())
	}
	return sftpPacket(ssh.Marshal(m))
}

// sftpPacket puts the length before a packet.
func sftpPacket(content []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(content))), content...)
}

// sync returns when the file is on the disk.
func (s syncedFile) sync() error {
	if s.info == nil {
		return errors.New("it is no open regular file")
	}
	f, err := os.Open(s.path)
	if errors.Is(err, fs.ErrPermission) {
		f, err = os.OpenFile(s.path, os.O_WRONLY, 0)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !os.SameFile(info, s.info) {
		return errors.New("the file was moved or replaced since it was opened")
	}
	return f.Sync()
}
