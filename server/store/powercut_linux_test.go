package store_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/server/store"
	"fairlead.dev/fairlead/testutil"
)

// withdrawal takes a right away in a store of [furnish], or asks whether it is gone.
type withdrawal struct {
	take func(ctx context.Context, s *store.Store) error
	gone func(ctx context.Context, s *store.Store) (bool, error)
}

func missing(err error) (bool, error) {
	if errors.Is(err, store.ErrNotFound) {
		return true, nil
	}
	return false, err
}

// withdrawals are all that must survive a power cut.
var withdrawals = map[string]withdrawal{
	"token revoked": {
		func(ctx context.Context, s *store.Store) error { return s.DeleteToken(ctx, "token") },
		func(ctx context.Context, s *store.Store) (bool, error) {
			_, _, err := s.TokenByID(ctx, "token")
			return missing(err)
		},
	},
	"token replaced": {
		func(ctx context.Context, s *store.Store) error {
			return s.ReplaceToken(ctx, store.Token{ID: "new", UserID: "bob", Label: "ci", Hash: "new", CreatedAt: t0})
		},
		func(ctx context.Context, s *store.Store) (bool, error) {
			_, _, err := s.TokenByID(ctx, "token")
			return missing(err)
		},
	},
	"user disabled": {
		func(ctx context.Context, s *store.Store) error {
			_, err := s.UpdateUser(ctx, "bob", func(u *store.User) { u.Disabled = true })
			return err
		},
		func(ctx context.Context, s *store.Store) (bool, error) {
			u, err := s.UserByName(ctx, "bob")
			return u.Disabled, err
		},
	},
	"unshared": {
		func(ctx context.Context, s *store.Store) error { return s.Unshare(ctx, "dev", "bob") },
		func(ctx context.Context, s *store.Store) (bool, error) {
			shared, err := s.IsShared(ctx, "dev", "bob")
			return !shared, err
		},
	},
	"workspace deleted": {
		func(ctx context.Context, s *store.Store) error { return s.DeleteWorkspace(ctx, "dev") },
		func(ctx context.Context, s *store.Store) (bool, error) {
			_, err := s.WorkspaceByID(ctx, "dev")
			return missing(err)
		},
	},
	"agent token rotated": {
		func(ctx context.Context, s *store.Store) error { return s.SetAgentToken(ctx, "dev", "rotated") },
		func(ctx context.Context, s *store.Store) (bool, error) {
			_, err := s.WorkspaceByAgentToken(ctx, "agent")
			return missing(err)
		},
	},
	"host key changed": {
		func(ctx context.Context, s *store.Store) error {
			if err := s.Rekey(ctx, "dev", "ada", t0); err != nil {
				return err
			}
			_, err := s.PinSSHHostKey(ctx, "dev", "another", t0)
			return err
		},
		func(ctx context.Context, s *store.Store) (bool, error) {
			w, err := s.WorkspaceByID(ctx, "dev")
			return w.SSHHostKey == "another", err
		},
	},
	"relay deleted": {
		func(ctx context.Context, s *store.Store) error { return s.DeleteRelay(ctx, "relay") },
		func(ctx context.Context, s *store.Store) (bool, error) {
			_, err := s.RelayByID(ctx, "relay")
			return missing(err)
		},
	},
	"code used": {
		func(ctx context.Context, s *store.Store) error {
			_, err := s.RedeemCodeForAdmin(ctx, "code", t0, "", store.Token{ID: "ada", Hash: "ada", CreatedAt: t0})
			return err
		},
		func(ctx context.Context, s *store.Store) (bool, error) {
			valid, err := s.CodeValid(ctx, "code", t0)
			return !valid, err
		},
	},
	"connection reported": { // its agent forgets it
		func(ctx context.Context, s *store.Store) error {
			return s.WriteConnections(ctx, true, func(tx *store.ConnTx) error {
				return tx.Insert(ctx, &store.Connection{ID: reported, ConnectType: disconnect.ClientToServer, ConnectedAt: t0, Status: store.StatusOpen})
			})
		},
		func(ctx context.Context, s *store.Store) (bool, error) {
			rows, err := s.Connections(ctx, store.ConnFilter{IDPrefix: reported, Limit: 1})
			return len(rows) == 1, err
		},
	},
	nothing: { // a write that nobody's right depends on
		func(ctx context.Context, s *store.Store) error { return s.TouchToken(ctx, "token", t0) },
		func(ctx context.Context, s *store.Store) (bool, error) {
			t, _, err := s.TokenByID(ctx, "token")
			return !t.LastUsedAt.IsZero(), err
		},
	},
}

const (
	nothing          = "nothing"
	reported         = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
	withdrawVariable = "STORE_TEST_WITHDRAW" // the name of one of withdrawals
	storeVariable    = "STORE_TEST_DIR"
)

// furnish fills a new store with what withdrawals take.
func furnish(ctx context.Context, s *store.Store) error {
	_, err := s.CreateRelay(ctx, store.Relay{ID: "relay", Name: "relay", Code: "r", TokenHash: "relay", CreatedAt: t0})
	return errors.Join(err,
		s.CreateUser(ctx, store.User{ID: "ada", Name: "ada", Role: store.RoleAdmin, CreatedAt: t0}),
		s.CreateUser(ctx, store.User{ID: "bob", Name: "bob", Role: store.RoleMember, CreatedAt: t0}),
		s.CreateToken(ctx, store.Token{ID: "token", UserID: "bob", Label: "ci", Hash: "token", CreatedAt: t0}),
		s.CreateWorkspace(ctx, store.Workspace{ID: "dev", OwnerID: "ada", Name: "dev", AgentTokenHash: "agent", CreatedAt: t0}),
		s.Share(ctx, "dev", "bob", t0),
		s.SetCode(ctx, "code", t0, t0.Add(time.Hour)),
		func() error { _, err := s.PinSSHHostKey(ctx, "dev", "pinned", t0); return err }(),
	)
}

// withdrawAndWait is the process that the power cut kills.
func withdrawAndWait(ctx context.Context, dir string, w withdrawal) error {
	s, err := store.Open(ctx, dir)
	if err != nil {
		return err
	}
	if err := errors.Join(furnish(ctx, s), s.Close()); err != nil {
		return err
	}
	unix.Sync()
	if s, err = store.Open(ctx, dir); err != nil {
		return err
	}
	if err := w.take(ctx, s); err != nil {
		return err
	}
	fmt.Println("done")
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// TestWithdrawalSurvivesAPowerCut cuts the power of a real file system as soon as a
// process says that a right is gone: it stays gone.
func TestWithdrawalSurvivesAPowerCut(t *testing.T) {
	if name := os.Getenv(withdrawVariable); name != "" {
		require.NoError(t, withdrawAndWait(t.Context(), os.Getenv(storeVariable), withdrawals[name]))
		return
	}
	if !testutil.InMountNamespace(t) {
		return
	}
	for name, w := range withdrawals {
		disk := testutil.NewDisk(t, 32<<20)
		disk.Mount()
		dir := filepath.Join(disk.Dir, "state")
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^"+t.Name()+"$", "-test.v")
		cmd.Env = append(os.Environ(), withdrawVariable+"="+name, storeVariable+"="+dir)
		_, err := cmd.StdinPipe()
		require.NoError(t, err)
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		lines, said := bufio.NewScanner(out), ""
		for lines.Scan() && lines.Text() != "done" {
			said += lines.Text() + "\n"
		}
		require.Equal(t, "done", lines.Text(), "%s: %s", name, said)
		disk.CutPower()
		require.NoError(t, cmd.Process.Kill())
		_ = cmd.Wait()
		disk.Unmount()

		disk.Mount()
		s, err := store.Open(t.Context(), dir)
		require.NoError(t, err, name)
		gone, err := w.gone(t.Context(), s)
		require.NoError(t, err, name)
		require.Equal(t, name != nothing, gone, "%s: a test that loses nothing proves nothing", name)
		require.NoError(t, s.Close())
		disk.Unmount()
	}
}
