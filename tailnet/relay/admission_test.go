package relay

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/testutil"
	"fairlead.dev/fairlead/wsconn"
)

var withdrawn = disconnect.Goodbye{Reason: disconnect.AuthRevoked, Initiator: disconnect.Server, Detail: "no longer"}

// TestEndOfWhatAdmissionsRestOn: whoever came in by a tag goes with it, and is told.
func TestEndOfWhatAdmissionsRestOn(t *testing.T) {
	signer := newSigner()
	b := newBench(t, Config{Admit: func(_ context.Context, token string) (Admission, error) {
		c, err := signer.Verify(token, time.Now())
		return Admission{Node: c.Node, Tags: []string{"all", c.Node.Short()}}, err
	}})
	b.signer = signer
	one, two, three := b.join(), b.join(), b.join()
	b.relay.End(publicKey(one.private).Short(), withdrawn)
	require.Equal(t, 4025, code(t, one.ws).Code)
	require.Equal(t, withdrawn.On(disconnect.ClientToServer), b.await(publicKey(one.private)))
	require.True(t, b.relay.Connected(publicKey(two.private)))
	b.relay.EndNode(publicKey(two.private), withdrawn)
	require.Equal(t, 4025, code(t, two.ws).Code)
	require.True(t, b.relay.Connected(publicKey(three.private)))
	b.relay.End("all", withdrawn)
	require.Equal(t, 4025, code(t, three.ws).Code)
}

// TestEndWhileSomebodyComesIn: the word that passes by a connection which is just being
// opened is asked for again.
func TestEndWhileSomebodyComesIn(t *testing.T) {
	signer := newSigner()
	var b *bench
	var asked atomic.Int32
	b = newBench(t, Config{Admit: func(ctx context.Context, token string) (Admission, error) {
		if asked.Add(1) > 1 {
			return Admission{}, errors.New("withdrawn")
		}
		a, err := signer.Admit(ctx, token)
		b.relay.End("whatever it rests on", withdrawn)
		return a, err
	}})
	b.signer = signer
	require.Equal(t, 4025, code(t, b.dial(randomKey())).Code)
}

// TestAdmissionExpires: the end of an admission is the end of its connections, unless
// it is put off.
func TestAdmissionExpires(t *testing.T) {
	var late atomic.Int64 // ns that the relay's clock is fast
	b := newBench(t, Config{Now: func() time.Time { return time.Now().Add(time.Duration(late.Load())) }})
	idle, renewed := b.join(), b.join() // for a minute
	b.relay.Extend(publicKey(renewed.private), time.Now().Add(time.Hour))
	b.relay.Extend(publicKey(renewed.private), time.Now()) // never less than it had
	late.Store(int64(2 * time.Minute))
	began := time.Now()
	require.Equal(t, 4026, code(t, idle.ws).Code)
	require.Less(t, time.Since(began), 2*time.Second)
	require.Equal(t, disconnect.AuthExpired, b.await(publicKey(idle.private)).Reason)
	require.True(t, b.relay.Connected(publicKey(renewed.private)))
	late.Store(int64(2 * time.Hour))
	require.Equal(t, 4026, code(t, renewed.ws).Code)
}

// TestUndecidedIsNoRefusal: the node may ask again.
func TestUndecidedIsNoRefusal(t *testing.T) {
	b := newBench(t, Config{Admit: func(context.Context, string) (Admission, error) {
		return Admission{}, errors.Join(ErrUndecided, errors.New("no line to the server"))
	}})
	_, err := wsconn.Dial(testutil.Context(t, 5*time.Second), b.server.URL, wsconn.DialOptions{
		Header: http.Header{"Authorization": {"Bearer x"}}, Subprotocols: []string{Subprotocol},
	})
	var refused *wsconn.DialError
	require.ErrorAs(t, err, &refused)
	require.Equal(t, http.StatusServiceUnavailable, refused.Status)
	reason, _ := refused.Reason()
	require.Equal(t, disconnect.NetworkUnreachable, reason)
}
