package client

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/verdict"
)

const (
	// keepRecent and maxRecent bound what a machine knows of sessions that are over.
	keepRecent = 24 * time.Hour
	maxRecent  = 20
	// maxRecentBytes bounds one account that is read.
	maxRecentBytes = 64 << 10
)

// Recent is this machine's own account of a session that is over.
type Recent struct {
	ConnectionID string            `json:"connection_id"` // empty if the agent had not named it yet
	Workspace    string            `json:"workspace"`     // as it was called here; empty if that is not known
	Ended        time.Time         `json:"ended"`         // or when it was noticed, by this machine's clock
	Testimony    verdict.Testimony `json:"testimony"`
}

func (r *Records) recentDir() string { return filepath.Join(r.dir, "recent") }

// remember keeps an account for `fairlead why`, which may be asked while the server is
// away. One that cannot be kept is not there to be shown.
func (r *Records) remember(account Recent) {
	if r == nil {
		return
	}
	if err := r.writeRecent(account); err != nil {
		r.log.Debug("cannot keep the account of a session", "error", err)
	}
	r.forgetRecent(account.Ended)
}

// recentLayout names files so that they lie in the order of time.
const recentLayout = "20060102T150405.000000"

func (r *Records) writeRecent(account Recent) error {
	body, err := json.Marshal(account)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(r.recentDir(), 0o700); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(r.recentDir(), "new-*") // readable by its owner only
	if err != nil {
		return err
	}
	_, err = tmp.Write(body)
	if closed := tmp.Close(); err == nil {
		err = closed
	}
	if err == nil {
		name := account.Ended.UTC().Format(recentLayout) + "-" + uuid.NewString()[:8] + ".json"
		err = os.Rename(tmp.Name(), filepath.Join(r.recentDir(), name))
	}
	if err != nil {
		_ = os.Remove(tmp.Name()) // what is left there is forgotten later
	}
	return err
}

// forgetRecent removes what is too old, too much, or was never finished.
func (r *Records) forgetRecent(now time.Time) {
	for i, name := range r.recentFiles() {
		info, err := os.Stat(filepath.Join(r.recentDir(), name))
		if err != nil {
			continue
		}
		old := now.Sub(info.ModTime()) > keepRecent
		if unfinished := !strings.HasSuffix(name, ".json"); old || (!unfinished && i >= maxRecent) {
			_ = os.Remove(filepath.Join(r.recentDir(), name))
		}
	}
}

// recentFiles are the names in the directory, the newest account first.
func (r *Records) recentFiles() (names []string) {
	entries, err := os.ReadDir(r.recentDir())
	if err != nil {
		return nil // there are none
	}
	var unfinished []string
	for _, e := range slices.Backward(entries) {
		if strings.HasSuffix(e.Name(), ".json") {
			names = append(names, e.Name())
		} else {
			unfinished = append(unfinished, e.Name())
		}
	}
	return append(names, unfinished...)
}

// Recent returns what this machine noted of the sessions that ended in the last 24 h, the
// newest first. What cannot be read is left out.
func (r *Records) Recent(now time.Time) (all []Recent) {
	if r == nil {
		return nil
	}
	for _, name := range r.recentFiles() {
		account, err := readRecent(filepath.Join(r.recentDir(), name))
		if err != nil || now.Sub(account.Ended) > keepRecent || account.Testimony.Validate() != nil {
			continue
		}
		all = append(all, account)
	}
	return all
}

func readRecent(path string) (account Recent, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return account, err
	}
	if info.Size() > maxRecentBytes {
		return account, fmt.Errorf("%s has %d bytes, at most %d are read", path, info.Size(), maxRecentBytes)
	}
	body, err := os.ReadFile(path)
	if err != nil {
		return account, err
	}
	return account, json.Unmarshal(body, &account)
}

// rememberEnd keeps what the client saw of a session's end. A session that never began
// was told of on the spot.
func (r *Records) rememberEnd(workspace string, end SessionEnd, t verdict.Testimony) {
	if end.Err != nil || end.Attribution.Reason == disconnect.Unknown {
		return
	}
	now := time.Now()
	if exited := end.Attribution.Reason == disconnect.ProcessExited && end.ExitCode > 0; end.Exited && (exited || end.Attribution.Reason == disconnect.Graceful) {
		code := int32(end.ExitCode)
		t.Account, t.Evidence = disconnect.Attribution{}, 0 // the fact says it
		t.Facts = []verdict.Fact{{Kind: verdict.ProcessExit, ExitCode: &code, At: t.FirstNoticed}}
	}
	r.remember(Recent{ConnectionID: end.ConnectionID, Workspace: workspace, Ended: now, Testimony: t})
}
