package agentssh

import (
	"errors"
	"io"
	"sync/atomic"
	"time"

	"github.com/pkg/sftp"

	"fairlead.dev/fairlead/disconnect"
)

// sftpSubsystem is the name of the subsystem that serves files.
const sftpSubsystem = "sftp"

// fileServer is an SFTP server in the agent's own process: what a session runs instead
// of a process of its own. It may do what the agent's user may, as a shell may.
type fileServer struct {
	s   *session
	cut atomic.Bool // the session is over: take nothing more from the client
	err error       // set when serve has returned
}

// launchFiles begins to serve files.
func (s *session) launchFiles() bool {
	if s.kind != "" || !s.c.register(s) {
		return false
	}
	s.kind = KindSFTP
	s.proc, s.startErr = s.start("")
	return true
}

// serve returns when the client has ended its input or the channel is closed. When the
// session ends for another cause it is left behind until the latter, for x/crypto gives
// no way to interrupt its read; it does nothing more then.
func (f *fileServer) serve() exitStatus {
	directory := f.s.directory(currentAccount().home)
	server, err := sftp.NewServer(newFilePackets(f, directory), sftp.WithServerWorkingDirectory(directory))
	if err == nil {
		err = server.Serve()
	}
	if f.err = err; err != nil {
		return exitStatus{code: 1}
	}
	return exitStatus{}
}

// judge says what the end of serve means when it came first.
func (f *fileServer) judge() disconnect.Attribution {
	switch {
	case f.err == nil:
		return attribute(disconnect.Graceful, disconnect.Client, "normal exit")
	case exhausted(f.err):
		return attribute(disconnect.ResourceExhausted, disconnect.Agent, "sftp: "+f.err.Error())
	}
	return attribute(disconnect.ProtocolError, disconnect.Client, "sftp: "+f.err.Error())
}

// Read implements io.Reader for the SFTP server.
func (f *fileServer) Read(b []byte) (int, error) {
	n, err := f.s.ch.Read(b)
	if f.cut.Load() {
		return 0, io.EOF
	}
	f.s.bytes.received.Add(uint64(n))
	if err != nil {
		now := time.Now()
		f.s.inputEnd.Store(&now)
	}
	return n, err
}

// Write implements io.Writer for the SFTP server.
func (f *fileServer) Write(b []byte) (int, error) {
	if f.cut.Load() {
		return 0, errors.New("the session is over")
	}
	n, err := f.s.ch.Write(b)
	f.s.bytes.sent.Add(uint64(n))
	return n, err
}

// Close is called by the SFTP server when it cannot answer.
func (f *fileServer) Close() error {
	f.cut.Store(true)
	return nil
}
