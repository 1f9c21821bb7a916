package server

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"time"

	"fairlead.dev/fairlead/control"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/server/auth"
	"fairlead.dev/fairlead/server/store"
	"fairlead.dev/fairlead/tailnet/coordinator"
	"fairlead.dev/fairlead/tailnet/proto"
	"fairlead.dev/fairlead/tailnet/relay"
)

// relaySubject is by whose right a node is let in at relays: its relay tokens say so.
type relaySubject struct {
	agent     bool
	id, token string // workspace id or user id; and the token that the node's link came with
}

func subjectOf(id control.Identity) relaySubject {
	return relaySubject{agent: id.Kind == control.AgentPeer, id: id.ID, token: id.TokenID}
}

// String is the subject as relay tokens hold it.
func (s relaySubject) String() string {
	kind := "user"
	if s.agent {
		kind = "agent"
	}
	return kind + " " + s.id + " " + s.token
}

func parseSubject(text string) (relaySubject, bool) {
	fields := strings.Split(text, " ")
	if len(fields) != 3 || fields[0] != "user" && fields[0] != "agent" {
		return relaySubject{}, false
	}
	return relaySubject{agent: fields[0] == "agent", id: fields[1], token: fields[2]}, true
}

// What an admission to relays rests on, each in words that no relay sees.
func userTag(id string) string      { return "user " + id }
func tokenTag(id string) string     { return "token " + id }
func workspaceTag(id string) string { return "workspace " + id }

func (s relaySubject) tags() []string {
	if s.agent {
		return []string{workspaceTag(s.id)}
	}
	return []string{userTag(s.id), tokenTag(s.token)}
}

// relayToken makes the token with which a node is let in at relays, and lets the
// connections that it has there live as long.
func (s *Server) relayToken(node proto.NodeKey, id control.Identity, expires time.Time) string {
	token := s.signer.Sign(relay.Claims{Node: node, Expires: expires, Subject: subjectOf(id).String()})
	s.relay.Extend(node, expires)
	s.relays.extend(node, expires, sha256.Sum256([]byte(token)))
	return token
}

// errNoOwnRelay refuses nodes at a server whose relay is off.
var errNoOwnRelay = errors.New("this server has no relay of its own")

// admitToOwnRelay decides whom a relay token lets in at the relay of this server.
func (s *Server) admitToOwnRelay(ctx context.Context, token string) (relay.Admission, error) {
	if s.opts.NoRelay {
		return relay.Admission{}, errNoOwnRelay
	}
	return s.admitToRelay(ctx, token, false)
}

// admitToRelay decides whom a relay token lets in. A connection that is open already
// also stays with a token that has expired, if its node has got a newer one since.
func (s *Server) admitToRelay(ctx context.Context, token string, open bool) (relay.Admission, error) {
	claims, err := s.signer.Verify(token, s.opts.Now())
	renewed, live := s.coordinator.RelayTokenExpiry(claims.Node)
	if err != nil && (!open || !live || !errors.Is(err, relay.ErrTokenExpired)) {
		return relay.Admission{}, err
	}
	subject, ok := parseSubject(claims.Subject)
	if !ok {
		return relay.Admission{}, relay.ErrTokenInvalid
	}
	switch err := s.subjectStands(ctx, subject); {
	case errors.Is(err, coordinator.ErrNotFound):
		return relay.Admission{}, err
	case err != nil:
		return relay.Admission{}, fmt.Errorf("%w: %w", relay.ErrUndecided, err)
	}
	a := relay.Admission{Node: claims.Node, Agent: subject.agent, Expires: claims.Expires}
	if live && renewed.After(a.Expires) {
		a.Expires = renewed
	}
	for _, tag := range subject.tags() {
		a.Tags = append(a.Tags, s.signer.Tag(tag))
	}
	return a, nil
}

// subjectStands returns why a right is gone: a coordinator.ErrNotFound. Another error
// means that this could not be found out.
func (s *Server) subjectStands(ctx context.Context, subject relaySubject) error {
	if !subject.agent {
		_, _, err := s.tokenStands(ctx, subject.id, subject.token)
		return err
	}
	ws, err := s.store.WorkspaceByID(ctx, subject.id)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return withdrawnAs(revoked("the workspace was deleted"))
	case err != nil:
		return fmt.Errorf("admit to relay: %w", err)
	case auth.AgentTokenID(ws) != subject.token:
		return withdrawnAs(revoked("the agent's token was replaced"))
	}
	return nil
}

// endAtRelays ends the relay connections whose admission rests on what is gone.
func (s *Server) endAtRelays(tag string, g disconnect.Goodbye) {
	s.relay.End(s.signer.Tag(tag), g)
	s.relays.end(s.signer.Tag(tag), g)
}
