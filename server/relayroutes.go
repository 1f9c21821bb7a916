package server

import (
	"errors"
	"net/http"

	"github.com/google/uuid"

	"fairlead.dev/fairlead/control"
	"fairlead.dev/fairlead/sdk"
	"fairlead.dev/fairlead/server/auth"
	"fairlead.dev/fairlead/server/store"
)

// getRelays lists the relays that are processes of their own.
func (s *Server) getRelays(w http.ResponseWriter, r *http.Request, _ auth.Principal) error {
	all, err := s.store.Relays(r.Context())
	if err != nil {
		return err
	}
	list := sdk.RelayList{Relays: make([]sdk.Relay, 0, len(all))}
	for _, row := range all {
		list.Relays = append(list.Relays, s.relayOut(row))
	}
	writeJSON(w, http.StatusOK, list)
	return nil
}

// postRelay makes a relay's identity, and the token with which it comes to the server.
func (s *Server) postRelay(w http.ResponseWriter, r *http.Request, p auth.Principal) error {
	var req sdk.CreateRelayRequest
	if err := readJSON(r, &req); err != nil {
		return err
	}
	if req.Region == "" {
		req.Region = req.Name
	}
	if !sdk.ValidName(req.Name) || !sdk.ValidName(req.Region) {
		return invalid("the name of the relay, or of its region, is not valid: " + sdk.NameRule)
	}
	token, hash := auth.NewRelayToken()
	row, err := s.store.CreateRelay(r.Context(), store.Relay{
		ID: uuid.NewString(), Name: req.Name, Code: req.Region, TokenHash: hash, CreatedAt: s.opts.Now(),
	})
	if errors.Is(err, store.ErrConflict) {
		return conflict("there is a relay " + req.Name + " already")
	}
	if err != nil {
		return err
	}
	s.logger.InfoContext(r.Context(), "relay created", "relay", row.Name, "region", int(row.Region), "by", p.UserName)
	writeJSON(w, http.StatusCreated, sdk.CreateRelayResponse{Token: token, Relay: s.relayOut(row)})
	return nil
}

// deleteRelay makes a relay's token void. Nodes leave it, and it is told to stop.
func (s *Server) deleteRelay(w http.ResponseWriter, r *http.Request, p auth.Principal) error {
	row, err := s.store.RelayByName(r.Context(), r.PathValue("relay"))
	if err == nil {
		err = s.store.DeleteRelay(r.Context(), row.ID)
	}
	if errors.Is(err, store.ErrNotFound) {
		return notFound("there is no relay of that name")
	}
	if err != nil {
		return err
	}
	out := s.relayOut(row)
	s.logger.InfoContext(r.Context(), "relay deleted", "relay", row.Name, "region", int(row.Region), "by", p.UserName)
	s.relays.remove(row.ID)
	s.endLinks(revoked("the relay was deleted"), func(id control.Identity) bool {
		return id.Kind == control.RelayPeer && id.ID == row.ID
	})
	writeJSON(w, http.StatusOK, out)
	return nil
}

func (s *Server) relayOut(row store.Relay) sdk.Relay {
	out := sdk.Relay{
		Name: row.Name, Region: row.Code, RegionID: int(row.Region), CreatedAt: row.CreatedAt,
		AccessURL: row.AccessURL, STUNPort: int(row.STUNPort), Status: s.relays.status(row),
	}
	if !row.SeenAt.IsZero() {
		out.SeenAt = &row.SeenAt
	}
	return out
}
