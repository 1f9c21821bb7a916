package coordinator

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"fairlead.dev/fairlead/tailnet/proto"
)

const (
	grantVersion  = 2
	grantContext  = "fairlead tunnel grant v2\x00"
	maxGrantBytes = 4096
)

// grant is the server's permission for one client node to have a tunnel to one
// agent node. Nodes keep it as opaque bytes; it lets a server that has forgotten
// everything know its tunnels again.
type grant struct {
	client    proto.NodeKey
	agent     proto.NodeKey
	user      string // id of the user behind the client
	principal string // that user's name
	workspace string // id
	token     string // id of the token that the client came with
	issued    time.Time
	expires   time.Time
}

// seal returns the grant's bytes, signed with key. Times are kept to the second.
func (g grant) seal(key [32]byte) []byte {
	b := make([]byte, 0, 160+len(g.user)+len(g.principal)+len(g.workspace)+len(g.token))
	b = append(b, grantVersion)
	b = append(b, g.client[:]...)
	b = append(b, g.agent[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(g.issued.Unix()))
	b = binary.BigEndian.AppendUint64(b, uint64(g.expires.Unix()))
	for _, text := range []string{g.user, g.principal, g.workspace, g.token} {
		b = binary.BigEndian.AppendUint16(b, uint16(len(text)))
		b = append(b, text...)
	}
	return append(b, grantMAC(key, b)...)
}

var errBadGrant = errors.New("the grant is not ours")

// openGrant verifies and reads a grant's bytes. It says nothing about whether the
// right still exists.
func openGrant(key [32]byte, b []byte, now time.Time) (grant, error) {
	const head = 1 + 32 + 32 + 8 + 8
	if len(b) < head+4*2+sha256.Size || len(b) > maxGrantBytes {
		return grant{}, errBadGrant
	}
	body, mac := b[:len(b)-sha256.Size], b[len(b)-sha256.Size:]
	if !hmac.Equal(mac, grantMAC(key, body)) || body[0] != grantVersion {
		return grant{}, errBadGrant
	}
	g := grant{client: proto.NodeKey(body[1:33]), agent: proto.NodeKey(body[33:65])}
	g.issued = time.Unix(int64(binary.BigEndian.Uint64(body[65:73])), 0)
	g.expires = time.Unix(int64(binary.BigEndian.Uint64(body[73:81])), 0)
	rest := body[head:]
	for _, text := range []*string{&g.user, &g.principal, &g.workspace, &g.token} {
		if len(rest) < 2 || len(rest[2:]) < int(binary.BigEndian.Uint16(rest)) {
			return grant{}, errBadGrant
		}
		n := 2 + int(binary.BigEndian.Uint16(rest))
		*text, rest = string(rest[2:n]), rest[n:]
	}
	if len(rest) != 0 {
		return grant{}, errBadGrant
	}
	if !now.Before(g.expires) {
		return grant{}, fmt.Errorf("the grant lapsed at %s", g.expires.UTC().Format(time.RFC3339))
	}
	return g, nil
}

func grantMAC(key [32]byte, body []byte) []byte {
	mac := hmac.New(sha256.New, key[:])
	mac.Write([]byte(grantContext))
	mac.Write(body)
	return mac.Sum(nil)
}
