package tailnet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"gvisor.dev/gvisor/pkg/tcpip"

	"fairlead.dev/fairlead/disconnect"
)

func TestJudge(t *testing.T) {
	const ac = disconnect.AgentToClient
	stack := func(e tcpip.Error) error { // as the stack's own adapter makes it
		return &net.OpError{Op: "read", Net: "tcp", Err: errors.New(e.String())}
	}
	for name, row := range map[string]struct {
		err       error
		self      disconnect.Initiator
		reason    disconnect.Reason
		initiator disconnect.Initiator
	}{
		"reset":                    {stack(&tcpip.ErrConnectionReset{}), disconnect.Client, disconnect.ConnectionReset, disconnect.Network},
		"timed out":                {stack(&tcpip.ErrTimeout{}), disconnect.Client, disconnect.NetworkTimeout, disconnect.Network},
		"no route":                 {stack(&tcpip.ErrHostUnreachable{}), disconnect.Client, disconnect.NetworkUnreachable, disconnect.Network},
		"no network":               {stack(&tcpip.ErrNoNet{}), disconnect.Client, disconnect.NetworkUnreachable, disconnect.Network},
		"unreachable":              {stack(&tcpip.ErrNetworkUnreachable{}), disconnect.Client, disconnect.NetworkUnreachable, disconnect.Network},
		"host down":                {stack(&tcpip.ErrHostDown{}), disconnect.Client, disconnect.NetworkUnreachable, disconnect.Network},
		"refused":                  {stack(&tcpip.ErrConnectionRefused{}), disconnect.Client, disconnect.ConnectionRefused, disconnect.Agent},
		"closed for send":          {stack(&tcpip.ErrClosedForSend{}), disconnect.Client, disconnect.NetworkError, disconnect.Network},
		"aborted":                  {stack(&tcpip.ErrAborted{}), disconnect.Client, disconnect.NetworkError, disconnect.Network},
		"invalid state":            {stack(&tcpip.ErrInvalidEndpointState{}), disconnect.Client, disconnect.NetworkError, disconnect.Network},
		"wrapped":                  {fmt.Errorf("read hello: %w", stack(&tcpip.ErrTimeout{})), disconnect.Agent, disconnect.NetworkTimeout, disconnect.Network},
		"our conn's reset":         {&net.OpError{Op: "read", Err: stackError(textReset)}, disconnect.Client, disconnect.ConnectionReset, disconnect.Network},
		"cut here":                 {&net.OpError{Op: "read", Err: &cutError{why: errPeerRemoved}}, disconnect.Client, disconnect.NetworkError, disconnect.Network},
		"eof":                      {io.EOF, disconnect.Client, disconnect.NetworkError, disconnect.Network},
		"deadline":                 {os.ErrDeadlineExceeded, disconnect.Client, disconnect.NetworkTimeout, disconnect.Network},
		"kernel reset":             {syscall.ECONNRESET, disconnect.Client, disconnect.ConnectionReset, disconnect.Network},
		"own cancellation":         {context.Canceled, disconnect.Agent, disconnect.ServerShutdown, disconnect.Agent},
		"text that quotes another": {errors.New("ssh: remote said: operation timed out"), disconnect.Client, disconnect.NetworkError, disconnect.Network},
	} {
		t.Run(name, func(t *testing.T) {
			a := Judge(row.err, ac, row.self)
			require.Equal(t, row.reason, a.Reason, "%s", a)
			require.Equal(t, row.initiator, a.Initiator)
			require.Equal(t, ac, a.ConnectType)
			require.Contains(t, a.Detail, row.err.Error())
		})
	}

	told := disconnect.Attribution{Reason: disconnect.ServerShutdown, Initiator: disconnect.Agent}
	err := fmt.Errorf("read: %w", &disconnect.EndedError{Attribution: told, Err: errors.New(textReset)})
	require.Equal(t, told.On(ac), Judge(err, ac, disconnect.Client), "a recorded cause decides")
	require.Equal(t, disconnect.Unknown, Judge(nil, ac, disconnect.Client).Reason)
}

// Each text that Judge knows must still be a text of the stack.
func TestStackTexts(t *testing.T) {
	for text, e := range map[string]tcpip.Error{
		textReset: &tcpip.ErrConnectionReset{}, textTimedOut: &tcpip.ErrTimeout{}, textNoRoute: &tcpip.ErrHostUnreachable{},
		textNoNetwork: &tcpip.ErrNoNet{}, textRefused: &tcpip.ErrConnectionRefused{}, textClosedForSend: &tcpip.ErrClosedForSend{},
		textAborted: &tcpip.ErrAborted{}, textInvalidState: &tcpip.ErrInvalidEndpointState{},
		textUnreachable: &tcpip.ErrNetworkUnreachable{}, textHostDown: &tcpip.ErrHostDown{}, textPortInUse: &tcpip.ErrPortInUse{},
	} {
		require.Equal(t, e.String(), text)
		require.NotNil(t, errnoOf(text))
	}
}
