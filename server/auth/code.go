package auth

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base32"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"fairlead.dev/fairlead/sdk"
	"fairlead.dev/fairlead/server/store"
)

// CodeLife is how long a one-time code can be redeemed.
const CodeLife = 15 * time.Minute

// codeFile is the code's file in the state directory.
const codeFile = "admin-code"

// firstUser is the first user's name when none is asked for.
const firstUser = "admin"

// codeAlphabet is what a code is written in: no i, l, o or u, which people misread.
var codeAlphabet = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)

const (
	codeBytes = 10 // 80 random bits
	codeGroup = 4  // characters between hyphens
)

// FirstCode makes the one-time code that lets the first user in while there is no user
// yet, or an admin who is [Auth.LockedOut]: it replaces any older code, is valid for
// [CodeLife], and stands in a file of mode 0600 beside the database. When somebody can
// get in it returns "" and removes what is left of earlier codes. The caller may show the
// code on a terminal, and must not log it.
func (a *Auth) FirstCode(ctx context.Context) (code, path string, err error) {
	n, err := a.store.CountUsers(ctx)
	if err != nil {
		return "", "", fmt.Errorf("make admin code: %w", err)
	}
	if n > 0 {
		locked, err := a.LockedOut(ctx)
		if err != nil {
			return "", "", fmt.Errorf("make admin code: %w", err)
		}
		if locked == "" {
			return "", "", a.RevokeCodes(ctx)
		}
	}
	code, err = newCode()
	if err != nil {
		return "", "", fmt.Errorf("make admin code: %w", err)
	}
	now := a.now()
	if err := a.store.SetCode(ctx, hashText(code), now, now.Add(CodeLife)); err != nil {
		return "", "", fmt.Errorf("make admin code: %w", err)
	}
	path = filepath.Join(a.stateDir, codeFile)
	if err := writeCode(path, code); err != nil {
		return "", "", fmt.Errorf("write admin code: %w", err)
	}
	return code, path, nil
}

// LockedOut returns the name of the admin who has been one for longest when no admin has
// a token left with which to administer the server, and "" otherwise.
func (a *Auth) LockedOut(ctx context.Context) (name string, err error) {
	u, err := a.store.LockedOut(ctx, a.now())
	if errors.Is(err, store.ErrNotFound) {
		return "", nil
	}
	return u.Name, err
}

// RevokeCodes makes every code invalid and removes the file.
func (a *Auth) RevokeCodes(ctx context.Context) error {
	if err := a.store.DeleteCodes(ctx); err != nil {
		return fmt.Errorf("revoke admin code: %w", err)
	}
	return a.removeCodeFile()
}

func (a *Auth) removeCodeFile() error {
	if err := os.Remove(filepath.Join(a.stateDir, codeFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove admin code: %w", err)
	}
	return nil
}

// writeCode writes a file that is never, not even for a moment, readable by others,
// and never half written.
func writeCode(path, code string) error {
	f, err := os.CreateTemp(filepath.Dir(path), codeFile+"-*") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.WriteString(code + "\n")
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// Redeem exchanges the one-time code for a token of the first user, an admin of that
// name ("admin" when it is empty), or else of an admin who is locked out: the one of that
// name, or the one that [Auth.LockedOut] names. ErrInvalidCode, ErrInvalidName or
// ErrNotAdmin when it cannot; a failed attempt does not use up the code.
func (a *Auth) Redeem(ctx context.Context, code, name string) (store.User, string, error) {
	if name != "" && !sdk.ValidName(name) {
		return store.User{}, "", ErrInvalidName
	}
	code, ok := normalizeCode(code)
	if !ok {
		return store.User{}, "", ErrInvalidCode
	}
	hash, now := hashText(code), a.now()
	valid, err := a.store.CodeValid(ctx, hash, now)
	if err != nil {
		return store.User{}, "", fmt.Errorf("redeem admin code: %w", err)
	}
	if !valid {
		return store.User{}, "", ErrInvalidCode
	}
	u, token, err := a.redeem(ctx, hash, now, name)
	switch {
	case errors.Is(err, store.ErrNotFound), errors.Is(err, store.ErrUsersExist):
		return store.User{}, "", ErrInvalidCode // somebody else was faster
	case errors.Is(err, store.ErrNoAdmin):
		return store.User{}, "", ErrNotAdmin
	case err != nil:
		return store.User{}, "", fmt.Errorf("redeem admin code: %w", err)
	}
	if err := a.removeCodeFile(); err != nil { // the code is used up in any case
		a.logger.LogAttrs(ctx, slog.LevelWarn, "cannot remove the used admin code", slog.String("error", err.Error()))
	}
	return u, token, nil
}

// redeem uses up a code that is valid.
func (a *Auth) redeem(ctx context.Context, hash string, now time.Time, name string) (store.User, string, error) {
	n, err := a.store.CountUsers(ctx)
	if err != nil {
		return store.User{}, "", err
	}
	if n == 0 {
		u, err := a.NewUser(cmp.Or(name, firstUser), store.RoleAdmin)
		if err != nil {
			return store.User{}, "", err
		}
		token, row := a.NewUserToken(u.ID, "login")
		return u, token, a.store.RedeemCode(ctx, hash, now, u, row)
	}
	locked, err := a.LockedOut(ctx)
	if err == nil && locked == "" {
		err = store.ErrUsersExist
	}
	if err != nil {
		return store.User{}, "", err
	}
	token, row := a.NewUserToken("", "login") // whose it is, the store finds
	u, err := a.store.RedeemCodeForAdmin(ctx, hash, now, name, row)
	return u, token, err
}

// newCode returns a new code, such as "4kx0-9mqt-77ab-zc2d".
func newCode() (string, error) {
	b := make([]byte, codeBytes)
	if _, err := rand.Read(b); err != nil {
		return "", err
	}
	return grouped(codeAlphabet.EncodeToString(b)), nil
}

// grouped puts a hyphen after every codeGroup characters.
func grouped(s string) string {
	var groups []string
	for len(s) > codeGroup {
		groups, s = append(groups, s[:codeGroup]), s[codeGroup:]
	}
	return strings.Join(append(groups, s), "-")
}

// normalizeCode reads a code as people type it, in capitals or without its hyphens,
// and reports whether it has a code's form.
func normalizeCode(s string) (string, bool) {
	if len(s) > 64 {
		return "", false
	}
	s = strings.NewReplacer("-", "", " ", "").Replace(strings.ToLower(strings.TrimSpace(s)))
	if len(s) != codeAlphabet.EncodedLen(codeBytes) { // the decoder skips line ends
		return "", false
	}
	if b, err := codeAlphabet.DecodeString(s); err != nil || len(b) != codeBytes {
		return "", false
	}
	return grouped(s), true
}
