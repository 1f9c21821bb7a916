package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/timestamppb"

	"fairlead.dev/fairlead/control"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/wire"
	"fairlead.dev/fairlead/sdk"
	"fairlead.dev/fairlead/server/store"
	"fairlead.dev/fairlead/tailnet/proto"
	"fairlead.dev/fairlead/tailnet/relay"
)

const (
	// probeTimeout bounds the question whether a relay is reached at its access URL.
	probeTimeout = 5 * time.Second
	// maxAccessURL bounds a relay's access URL, in bytes.
	maxAccessURL = 512
)

// relayAPI is what relays ask of the server over their control links.
type relayAPI struct {
	proto.UnimplementedRelayServiceServer
	relays *relays
	store  *store.Store
	logger *slog.Logger
	plain  bool // plain HTTP beyond loopback was asked for
	admit  func(ctx context.Context, token string, open bool) (relay.Admission, error)
}

// caller returns the link of the relay that calls.
func (*relayAPI) caller(ctx context.Context) (*control.Link, error) {
	link, ok := control.LinkFrom(ctx)
	if !ok {
		return nil, status.Error(codes.FailedPrecondition, "not called over a control link")
	}
	if link.Peer().Kind != control.RelayPeer {
		return nil, status.Error(codes.PermissionDenied, "only a relay may call this")
	}
	return link, nil
}

// Register implements the service.
func (a *relayAPI) Register(req *proto.RegisterRelayRequest, stream proto.RelayService_RegisterServer) error {
	ctx := stream.Context()
	link, err := a.caller(ctx)
	if err != nil {
		return err
	}
	u, err := checkRelayURL(req.GetAccessUrl(), a.plain)
	if err == nil && req.GetStunPort() > 1<<16-1 {
		err = errors.New("the port of STUN is not a port")
	}
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	row, err := a.store.RelayByID(ctx, link.Peer().ID)
	if errors.Is(err, store.ErrNotFound) {
		return status.Error(codes.NotFound, "this relay was deleted")
	}
	if err != nil {
		return a.failed(ctx, link, err)
	}
	if older := a.relays.rival(link); older != nil {
		displace(ctx, a.logger, older, "relay")
	}
	row.AccessURL, row.STUNPort = u.String(), uint16(req.GetStunPort())
	out, err := a.relays.register(ctx, link, row)
	if err != nil {
		return a.failed(ctx, link, err)
	}
	defer func() { a.relays.ended(link, link.Ending()) }()
	return a.serve(stream, link, row, u, out)
}

// serve tells a relay what it must know until its stream ends.
func (a *relayAPI) serve(stream proto.RelayService_RegisterServer, link *control.Link, row store.Relay, u *url.URL, out <-chan *proto.RelayNotice) error {
	ctx, cancel := context.WithCancel(stream.Context())
	var probing sync.WaitGroup
	defer probing.Wait()
	defer cancel()
	err := stream.Send(&proto.RelayNotice{Notice: &proto.RelayNotice_Registered{
		Registered: &proto.RelayRegistered{RegionId: row.Region, RegionCode: row.Code, Name: row.Name},
	}})
	if err != nil {
		return err
	}
	probed := make(chan *proto.RelayProbe, 1)
	probing.Go(func() { probed <- probeRelay(ctx, u, link.PeerInstance()) })
	for {
		var notice *proto.RelayNotice
		select {
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		case notice = <-out:
		case p := <-probed:
			notice = &proto.RelayNotice{Notice: &proto.RelayNotice_Probe{Probe: p}}
		}
		if err := stream.Send(notice); err != nil {
			return err
		}
	}
}

// Admit implements the service.
func (a *relayAPI) Admit(ctx context.Context, req *proto.AdmitRequest) (*proto.AdmitResponse, error) {
	link, err := a.caller(ctx)
	if err != nil {
		return nil, err
	}
	if !a.relays.registered(link) {
		return nil, status.Error(codes.FailedPrecondition, "this relay has not registered")
	}
	admission, err := a.admit(ctx, req.GetToken(), req.GetOpen())
	switch {
	case errors.Is(err, relay.ErrUndecided):
		return nil, a.failed(ctx, link, err)
	case err != nil:
		return nil, deniedBy(err)
	}
	return &proto.AdmitResponse{
		NodeKey: admission.Node.Bytes(), Agent: admission.Agent,
		ExpiresAt: timestamppb.New(admission.Expires), Tags: admission.Tags,
	}, nil
}

// deniedBy is a denial, with what ended the right if err says so.
func deniedBy(err error) error {
	st := status.New(codes.PermissionDenied, "the token lets nobody in")
	a, ok := disconnect.FromError(err)
	if errors.Is(err, relay.ErrTokenExpired) {
		a, ok = expired().On(disconnect.ClientToServer), true
	}
	if ok {
		if with, err := st.WithDetails(protoadapt.MessageV1Of(wire.FromGoodbye(a.Goodbye()))); err == nil {
			st = with
		}
	}
	return st.Err()
}

func (a *relayAPI) failed(ctx context.Context, link *control.Link, err error) error {
	if ctx.Err() != nil {
		return status.FromContextError(ctx.Err()).Err()
	}
	a.logger.ErrorContext(ctx, "relay request failed", "relay", link.Peer().Principal, "error", err)
	return status.Error(codes.Unavailable, "the server failed to answer; its log tells why")
}

// checkRelayURL is the border for the access URL of a relay. Nodes send their relay
// tokens there.
func checkRelayURL(text string, plain bool) (*url.URL, error) {
	if len(text) > maxAccessURL {
		return nil, fmt.Errorf("the relay's access URL has %d bytes, more than %d", len(text), maxAccessURL)
	}
	u, err := sdk.ParseURL(text)
	if err != nil {
		return nil, fmt.Errorf("the relay's access URL: %w", err)
	}
	ip, err := netip.ParseAddr(u.Hostname())
	loopback := err == nil && ip.Unmap().IsLoopback() || u.Hostname() == "localhost"
	if u.Scheme != "https" && !loopback && !plain {
		return nil, fmt.Errorf("the relay's access URL %s is plain HTTP, over which nodes send no token: it must be https", u)
	}
	return u, nil
}

// probeRelay asks at a relay's access URL whether it is there. What else answers there
// is told in few words: a relay must not use the server to look around.
func probeRelay(ctx context.Context, u *url.URL, instance string) *proto.RelayProbe {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	at := u.JoinPath(relay.ProbePath).String()
	wrong := func(what string) *proto.RelayProbe {
		return &proto.RelayProbe{Message: fmt.Sprintf("the server does not reach this relay at %s: %s", u, what)}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return wrong("that is no URL")
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DisableKeepAlives = true
	client := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	if err != nil {
		a := disconnect.Judge(err, disconnect.RelayToServer, disconnect.Server)
		return wrong(a.Reason.String())
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 256)) // what is missing does not match
	if resp.StatusCode != http.StatusOK || strings.TrimSpace(string(body)) != instance {
		return wrong("something else answers there")
	}
	return &proto.RelayProbe{Ok: true}
}
