package store

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
)

// Names of the server's own secret keys.
const (
	// GrantKey signs the grants that nodes announce after a reconnect.
	GrantKey = "grant_key"
	// RelayTokenKey signs the tokens that admit nodes to the relay.
	RelayTokenKey = "relay_token_key"
)

// SecretKey returns the server's secret key of that name: 32 random bytes that are
// made at the first call and stay the same from then on.
func (s *Store) SecretKey(ctx context.Context, name string) ([32]byte, error) {
	var key [32]byte
	fresh := make([]byte, len(key))
	if _, err := rand.Read(fresh); err != nil {
		return key, fmt.Errorf("make secret key %s: %w", name, err)
	}
	if _, err := s.write.ExecContext(ctx,
		`INSERT INTO settings (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING`,
		name, hex.EncodeToString(fresh)); err != nil {
		return key, fmt.Errorf("store secret key %s: %w", name, err)
	}
	var text string
	if err := s.write.QueryRowContext(ctx, `SELECT value FROM settings WHERE name = $1`, name).Scan(&text); err != nil {
		return key, fmt.Errorf("read secret key %s: %w", name, err)
	}
	if n, err := hex.Decode(key[:], []byte(text)); err != nil || n != len(key) || len(text) != hex.EncodedLen(len(key)) {
		return [32]byte{}, fmt.Errorf("read secret key %s: the stored value is damaged", name)
	}
	return key, nil
}
