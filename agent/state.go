package agent

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/crypto/ssh"

	"fairlead.dev/fairlead/tailnet"
)

// Files of an agent's state directory.
const (
	lockName    = "lock"
	hostKeyFile = "ssh_host_ed25519_key"
	nodeKeyFile = "node_key"
)

// state is what an agent keeps across restarts: who it is. The directory is locked
// while the state is open.
type state struct {
	lock    *os.File
	hostKey ssh.Signer
	nodeKey tailnet.PrivateKey
}

// openState opens or creates the state in dir.
func openState(dir string) (*state, error) {
	if dir == "" {
		return nil, errors.New("open agent state: no state directory is set")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open agent state: the directory %s cannot be created; choose another with --state-dir: %w", dir, err)
	}
	lock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	s := &state{lock: lock}
	if s.hostKey, err = loadHostKey(filepath.Join(dir, hostKeyFile)); err == nil {
		s.nodeKey, err = loadNodeKey(filepath.Join(dir, nodeKeyFile))
	}
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

func (s *state) close() error {
	if s.lock == nil {
		return nil
	}
	return s.lock.Close() // releases the lock
}

func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open agent state: the directory %s is not writable; choose another with --state-dir: %w", dir, err)
	}
	if err := lockFile(f); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("open agent state: another agent uses the directory %s; stop it or choose another with --state-dir", dir)
	}
	return f, nil
}

// loadHostKey reads the SSH host key, or makes it on the first start.
func loadHostKey(path string) (ssh.Signer, error) {
	data, err := readSecret(path)
	if errors.Is(err, fs.ErrNotExist) {
		if data, err = newHostKey(path); err != nil {
			return nil, fmt.Errorf("make host key: %w", err)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("read host key: %w", err)
	}
	signer, err := ssh.ParsePrivateKey(data)
	if err != nil {
		return nil, fmt.Errorf("read host key: %s is damaged; restore it from a backup, or remove it and have the workspace accept a new key: %w", path, err)
	}
	return signer, nil
}

// readSecret reads a file that nobody else may read; what others have read is no
// secret any more, and whoever could write it decides who we are.
func readSecret(path string) ([]byte, error) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is not a file; restore it from a backup, or remove it", path)
	case info.Mode().Perm()&0o077 != 0:
		return nil, fmt.Errorf("%s has mode %04o and others can use it; run: chmod 600 %s", path, info.Mode().Perm(), path)
	}
	return os.ReadFile(path)
}

func newHostKey(path string) ([]byte, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	block, err := ssh.MarshalPrivateKey(private, "fairlead agent")
	if err != nil {
		return nil, err
	}
	data := pem.EncodeToMemory(block)
	return data, writeFile(path, data)
}

// loadNodeKey reads the tailnet node key, or makes it on the first start.
func loadNodeKey(path string) (tailnet.PrivateKey, error) {
	data, err := readSecret(path)
	if errors.Is(err, fs.ErrNotExist) {
		return newNodeKey(path)
	}
	if err != nil {
		return tailnet.PrivateKey{}, fmt.Errorf("read node key: %w", err)
	}
	var key tailnet.PrivateKey
	if err := key.UnmarshalText(data); err != nil {
		return key, fmt.Errorf("read node key: %s is damaged; remove it and start the agent again: %w", path, err)
	}
	return key, nil
}

func newNodeKey(path string) (tailnet.PrivateKey, error) {
	key := tailnet.NewPrivateKey()
	text, err := key.MarshalText()
	if err != nil {
		return key, fmt.Errorf("make node key: %w", err)
	}
	if err := writeFile(path, text); err != nil {
		return key, fmt.Errorf("make node key: %w", err)
	}
	return key, nil
}

// writeFile writes a secret whole or not at all, also when the power fails: the server
// has pinned the key by then, and a damaged one locks the workspace out.
func writeFile(path string, data []byte) error {
	tmp := path + ".new"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}
