package server

import (
	"context"
	"time"

	"fairlead.dev/fairlead/control"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/server/auth"
	"fairlead.dev/fairlead/server/store"
)

// withdrawTimeout bounds what follows a withdrawn right. A question that the database
// did not answer by then is asked again by the coordinator.
const withdrawTimeout = 10 * time.Second

// revoked is what everybody is told whose right was withdrawn.
func revoked(detail string) disconnect.Goodbye {
	return disconnect.Goodbye{Reason: disconnect.AuthRevoked, Initiator: disconnect.Server, Detail: detail}
}

// expired is what the user of a token is told when its time is over.
func expired() disconnect.Goodbye {
	return disconnect.Goodbye{Reason: disconnect.AuthExpired, Initiator: disconnect.Server, Detail: auth.ErrExpired.Error()}
}

// userRightsChanged follows a change of role, or a closed account.
func (s *Server) userRightsChanged(u store.User) {
	s.recheck(u.ID, "")
	s.nudgeAll() // they may keep terminals of that user
	if u.Disabled {
		s.endLinks(revoked(auth.ErrDisabled.Error()), func(id control.Identity) bool {
			return id.Kind == control.ClientPeer && id.ID == u.ID
		})
		s.endAtRelays(userTag(u.ID), revoked(auth.ErrDisabled.Error()))
	}
}

// tokenRevoked ends what was begun with a token.
func (s *Server) tokenRevoked(t store.Token) {
	s.endToken(t.UserID, t.ID, revoked("the token was revoked"))
}

func (s *Server) endToken(userID, tokenID string, g disconnect.Goodbye) {
	s.recheck(userID, "")
	s.endLinks(g, func(id control.Identity) bool {
		return id.Kind == control.ClientPeer && id.TokenID == tokenID
	})
	s.endAtRelays(tokenTag(tokenID), g)
}

// unshared ends a user's sessions in a workspace that is not shared any more.
func (s *Server) unshared(u store.User, ws store.Workspace) {
	s.recheck(u.ID, ws.ID)
	s.nudge(ws.ID) // its agent may keep terminals of that user
}

// endAgent ends the link of an agent whose token is void, and every session with it: an
// agent that is not to be trusted would keep them.
func (s *Server) endAgent(ws store.Workspace, g disconnect.Goodbye) {
	s.coordinator.EndTunnels(ws.ID, g)
	s.endLinks(g, func(id control.Identity) bool {
		return id.Kind == control.AgentPeer && id.ID == ws.ID
	})
	s.endAtRelays(workspaceTag(ws.ID), g)
}

// recheck has the coordinator end the tunnels whose right is gone. It must come before
// the links end: they carry the word of it.
func (s *Server) recheck(userID, workspaceID string) {
	s.rights.send()
	ctx, cancel := context.WithTimeout(s.background, withdrawTimeout)
	defer cancel()
	if err := s.coordinator.Recheck(ctx, userID, workspaceID); err != nil {
		s.logger.ErrorContext(ctx, "cannot decide whether tunnels may stay, asking again soon", "error", err)
	}
}

// endLinks says goodbye to every control link of those who. It does not wait for them.
func (s *Server) endLinks(g disconnect.Goodbye, who func(control.Identity) bool) {
	for _, link := range s.control.Links() {
		if !who(link.Peer()) {
			continue
		}
		done, ok := s.enter()
		if !ok {
			return // the server stops: it says goodbye to all of them
		}
		go func() { // Server.Close waits for it by done
			defer done()
			_ = link.Close(g) // keeps the first cause
		}()
	}
}
