package relayhost

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/wire"
	"fairlead.dev/fairlead/tailnet/proto"
	"fairlead.dev/fairlead/tailnet/relay"
)

const (
	// maxNodes bounds the nodes whose admission is remembered, maxHashes the tokens of
	// each.
	maxNodes  = 1 << 16
	maxHashes = 4
	// maxAsking bounds the questions to the server that are under way at one time.
	maxAsking = 64
	askTime   = 5 * time.Second
	// maxAgain bounds how often one question is asked again because a right ended
	// meanwhile.
	maxAgain = 3
)

type tokenHash [sha256.Size]byte

// known is one node that the server let in.
type known struct {
	admission relay.Admission // its Expires is the newest that is known
	token     string          // that it last came with, to ask again
	hashes    []tokenHash     // of tokens that let it in, oldest first
}

// admissions remembers whom the server let in, until their token expires: so a node
// comes back while the server is away. It is a relay.Config.Admit.
type admissions struct {
	now    func() time.Time
	asking chan struct{} // a place for each question under way

	mu     sync.Mutex // guards all below
	server proto.RelayServiceClient
	nodes  map[proto.NodeKey]*known
	byHash map[tokenHash]hashed
	ends   uint64 // rights that ended
}

// hashed is what one token's hash stands for.
type hashed struct {
	node    proto.NodeKey
	expires time.Time
}

func newAdmissions(now func() time.Time) *admissions {
	return &admissions{
		now: now, asking: make(chan struct{}, maxAsking),
		nodes: make(map[proto.NodeKey]*known), byHash: make(map[tokenHash]hashed),
	}
}

// setServer says whom to ask; nil: nobody.
func (a *admissions) setServer(server proto.RelayServiceClient) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.server = server
}

// admit returns whom a token lets in, from memory or from the server.
func (a *admissions) admit(ctx context.Context, token string) (relay.Admission, error) {
	if !relay.LooksLikeToken(token) {
		return relay.Admission{}, relay.ErrTokenInvalid
	}
	hash := tokenHash(sha256.Sum256([]byte(token)))
	for range maxAgain {
		admission, ok, server, ends := a.recall(hash, token)
		if ok {
			return admission, nil
		}
		admission, err := a.ask(ctx, server, token, false)
		if err != nil {
			return relay.Admission{}, err
		}
		if a.remember(hash, token, admission, ends) {
			return admission, nil
		}
	}
	return relay.Admission{}, fmt.Errorf("%w: rights change all the time", relay.ErrUndecided)
}

// recall looks a token up. Otherwise it returns whom to ask, and what to give remember.
func (a *admissions) recall(hash tokenHash, token string) (_ relay.Admission, ok bool, server proto.RelayServiceClient, ends uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if h, found := a.byHash[hash]; found && a.now().Before(h.expires) {
		k := a.nodes[h.node]
		k.token = token
		return k.admission, true, nil, 0
	}
	return relay.Admission{}, false, a.server, a.ends
}

// ask has the server decide. The error is relay.ErrUndecided, or a denial that may carry
// what ended the right.
func (a *admissions) ask(ctx context.Context, server proto.RelayServiceClient, token string, open bool) (relay.Admission, error) {
	if server == nil {
		return relay.Admission{}, fmt.Errorf("%w: the server is out of reach", relay.ErrUndecided)
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	select {
	case a.asking <- struct{}{}:
		defer func() { <-a.asking }()
	case <-ctx.Done():
		return relay.Admission{}, fmt.Errorf("%w: too many questions", relay.ErrUndecided)
	}
	resp, err := server.Admit(ctx, &proto.AdmitRequest{Token: token, Open: open})
	if status.Code(err) == codes.PermissionDenied {
		return relay.Admission{}, denial(err)
	}
	if err != nil {
		return relay.Admission{}, fmt.Errorf("%w: %w", relay.ErrUndecided, err)
	}
	node, err := proto.ParseNodeKey(resp.GetNodeKey())
	if err != nil || !resp.GetExpiresAt().IsValid() {
		return relay.Admission{}, fmt.Errorf("%w: the server's answer makes no sense", relay.ErrUndecided)
	}
	return relay.Admission{Node: node, Agent: resp.GetAgent(), Expires: resp.GetExpiresAt().AsTime(), Tags: resp.GetTags()}, nil
}

// denial is the server's no, with its word why no longer if there is one.
func denial(err error) error {
	for _, detail := range status.Convert(err).Details() {
		if g, ok := detail.(*wire.Goodbye); ok {
			return &disconnect.EndedError{Attribution: wire.ToGoodbye(g).From(disconnect.Server).On(0), Err: err}
		}
	}
	return fmt.Errorf("%w: %w", relay.ErrTokenInvalid, err)
}

// remember keeps an answer, unless a right has ended since the question: the answer may
// be older than that.
func (a *admissions) remember(hash tokenHash, token string, admission relay.Admission, ends uint64) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ends != ends {
		return false
	}
	k := a.nodes[admission.Node]
	if k != nil && !slices.Equal(k.admission.Tags, admission.Tags) { // by another right than before
		a.forgetLocked(admission.Node)
		k = nil
	}
	if k == nil {
		a.makeRoomLocked()
		k = &known{}
		a.nodes[admission.Node] = k
	}
	k.admission, k.token = admission, token
	a.addLocked(k, hash, admission.Expires)
	return true
}

// addLocked lets a node in with one more token, and not with its oldest any more.
func (a *admissions) addLocked(k *known, hash tokenHash, expires time.Time) {
	if _, ok := a.byHash[hash]; !ok {
		k.hashes = append(k.hashes, hash)
	}
	if len(k.hashes) > maxHashes {
		delete(a.byHash, k.hashes[0])
		k.hashes = k.hashes[1:]
	}
	a.byHash[hash] = hashed{k.admission.Node, expires}
}

// makeRoomLocked forgets those whose time is over, or else anybody, when there are too
// many: who is forgotten is asked for again.
func (a *admissions) makeRoomLocked() {
	if len(a.nodes) < maxNodes {
		return
	}
	now := a.now()
	for node, k := range a.nodes {
		if !now.Before(k.admission.Expires) {
			a.forgetLocked(node)
		}
	}
	for node := range a.nodes {
		if len(a.nodes) < maxNodes {
			return
		}
		a.forgetLocked(node)
	}
}

func (a *admissions) forgetLocked(node proto.NodeKey) {
	k := a.nodes[node]
	if k == nil {
		return
	}
	for _, hash := range k.hashes {
		delete(a.byHash, hash)
	}
	delete(a.nodes, node)
}

// end forgets everybody whose admission has the tag.
func (a *admissions) end(tag string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ends++
	for node, k := range a.nodes {
		if slices.Contains(k.admission.Tags, tag) {
			a.forgetLocked(node)
		}
	}
}

// forget forgets one node.
func (a *admissions) forget(node proto.NodeKey) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ends++
	a.forgetLocked(node)
}

// extend takes note of a newer token of a node that is known here.
func (a *admissions) extend(node proto.NodeKey, hash tokenHash, expires time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	k := a.nodes[node]
	if k == nil {
		return
	}
	if expires.After(k.admission.Expires) {
		k.admission.Expires = expires
	}
	a.addLocked(k, hash, expires)
}

// open returns the tokens of the nodes that are connected, to be asked for again, and
// forgets the others.
func (a *admissions) open(connected func(proto.NodeKey) bool) map[proto.NodeKey]string {
	a.mu.Lock()
	defer a.mu.Unlock()
	tokens := make(map[proto.NodeKey]string)
	for node, k := range a.nodes {
		if connected(node) {
			tokens[node] = k.token
			continue
		}
		a.forgetLocked(node)
	}
	return tokens
}

// again asks the server whether a connected node may stay, and returns until when. What
// cannot be decided stays as it was.
func (a *admissions) again(ctx context.Context, node proto.NodeKey, token string) (time.Time, error) {
	a.mu.Lock()
	server, ends := a.server, a.ends
	a.mu.Unlock()
	admission, err := a.ask(ctx, server, token, true)
	if err == nil && admission.Node != node {
		err = errors.New("the server's answer is for another node")
	}
	if err != nil {
		return time.Time{}, err
	}
	a.remember(tokenHash(sha256.Sum256([]byte(token))), token, admission, ends)
	return admission.Expires, nil
}

// size returns how many nodes are remembered.
func (a *admissions) size() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.nodes)
}
