package control

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	d "fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/wsconn"
)

func TestJudge(t *testing.T) {
	goaway := func(code string) error {
		return status.Error(codes.Unavailable, `closing transport due to: EOF, received prior goaway: code: `+code+`, debug data: "x"`)
	}
	for name, tc := range map[string]struct {
		err       error
		reason    d.Reason
		initiator d.Initiator
	}{
		"status ok":          {nil, d.Graceful, d.Server},
		"bare eof":           {io.EOF, d.NetworkError, d.Network},
		"ended":              {fmt.Errorf("x: %w", &d.EndedError{Attribution: d.Attribution{Reason: d.ServerShutdown, Initiator: d.Server}}), d.ServerShutdown, d.Server},
		"go error":           {os.ErrDeadlineExceeded, d.NetworkTimeout, d.Network},
		"wrapped status":     {fmt.Errorf("x: %w", status.Error(codes.Internal, "oops")), d.InternalError, d.Server},
		"frame error":        {status.Error(codes.Internal, "http2: frame too large"), d.ProtocolError, d.Server},
		"own cancel":         {status.Error(codes.Canceled, "context canceled"), d.ServerShutdown, d.Agent},
		"torn down":          {status.Error(codes.Canceled, "grpc: the client connection is closing"), d.NetworkError, d.Network},
		"unavailable":        {status.Error(codes.Unavailable, "error reading from server: EOF"), d.NetworkError, d.Network},
		"reset":              {status.Error(codes.Unavailable, "read: connection reset by peer"), d.ConnectionReset, d.Network},
		"refused":            {status.Error(codes.Unavailable, "dial: connection refused"), d.ConnectionRefused, d.Server},
		"goaway":             {goaway("NO_ERROR"), d.ServerShutdown, d.Server},
		"calm":               {goaway("ENHANCE_YOUR_CALM"), d.LimitExceeded, d.Agent},
		"goaway bad bytes":   {goaway("PROTOCOL_ERROR"), d.ProtocolError, d.Agent},
		"goaway internal":    {goaway("INTERNAL_ERROR"), d.InternalError, d.Server},
		"unknown":            {status.Error(codes.Unknown, ""), d.InternalError, d.Server},
		"invalid argument":   {status.Error(codes.InvalidArgument, ""), d.VersionMismatch, d.Server},
		"unimplemented":      {status.Error(codes.Unimplemented, ""), d.VersionMismatch, d.Server},
		"precondition":       {status.Error(codes.FailedPrecondition, ""), d.VersionMismatch, d.Server},
		"deadline":           {status.Error(codes.DeadlineExceeded, ""), d.NetworkTimeout, d.Network},
		"not found":          {status.Error(codes.NotFound, ""), d.AuthFailed, d.Server},
		"denied":             {status.Error(codes.PermissionDenied, ""), d.AuthFailed, d.Server},
		"unauthenticated":    {status.Error(codes.Unauthenticated, ""), d.AuthFailed, d.Server},
		"exists":             {status.Error(codes.AlreadyExists, ""), d.LimitExceeded, d.Server},
		"resource exhausted": {status.Error(codes.ResourceExhausted, ""), d.LimitExceeded, d.Server},
		"aborted":            {status.Error(codes.Aborted, ""), d.InternalError, d.Server},
		"data loss":          {status.Error(codes.DataLoss, ""), d.ProtocolError, d.Server},
	} {
		t.Run(name, func(t *testing.T) {
			a := Judge(tc.err, d.ServerToAgent, d.Agent, d.Server)
			require.Equal(t, tc.reason, a.Reason)
			require.Equal(t, tc.initiator, a.Initiator)
			require.Equal(t, d.ServerToAgent, a.ConnectType)
		})
	}
	canceled := status.Error(codes.Canceled, "context canceled")
	require.Equal(t, d.ClientClosed, Judge(canceled, d.ClientToServer, d.Client, d.Server).Reason)
	require.False(t, Judge(canceled, d.ClientToServer, d.Server, d.Client).Expected(), "a lost transport looks the same")
}

func TestNoStatusIsUnknown(t *testing.T) {
	for code := codes.OK; code <= codes.Unauthenticated; code++ {
		a := Judge(status.Error(code, "text"), d.ServerToAgent, d.Agent, d.Server)
		require.NotEqual(t, d.Unknown, a.Reason, code)
		require.NotEqual(t, d.InitiatorUnknown, a.Initiator, code)
		if code != codes.OK && code != codes.Canceled {
			require.False(t, a.Expected(), code)
		}
	}
}

func TestJudgeDial(t *testing.T) {
	answer := func(status int, header ...string) *wsconn.DialError {
		e := &wsconn.DialError{Status: status, Header: http.Header{}, Err: errors.New("no upgrade")}
		for i := 0; i < len(header); i += 2 {
			e.Header.Set(header[i], header[i+1])
		}
		return e
	}
	const html = "text/html; charset=utf-8"
	for name, tc := range map[string]struct {
		err       error
		reason    d.Reason
		initiator d.Initiator
		detail    string
	}{
		"ours":           {answer(401, wsconn.HTTPReason, "30"), d.AuthFailed, d.Server, "401"},
		"ours, stopping": {answer(503, wsconn.HTTPReason, "20"), d.ServerShutdown, d.Server, "503"},
		"reason unheard": {answer(401, wsconn.HTTPReason, "222"), d.AuthFailed, d.Server, "401"},
		"html":           {answer(200, "Content-Type", html), d.NetworkUnreachable, d.Network, "captive_portal"},
		"redirect":       {answer(302, "Location", "http://login.example/"), d.NetworkUnreachable, d.Network, "login.example"},
		"511":            {answer(511), d.NetworkUnreachable, d.Network, "captive_portal"},
		"200":            {answer(200), d.ProtocolError, d.Server, "not a fairlead server"},
		"400":            {answer(400), d.ProtocolError, d.Server, ""},
		"403":            {answer(403), d.AuthFailed, d.Server, ""},
		"404":            {answer(404), d.ProtocolError, d.Server, "not a fairlead server"},
		"407":            {answer(407), d.NetworkUnreachable, d.Network, "proxy_auth"},
		"408":            {answer(408), d.SlowPeer, d.Network, ""},
		"426":            {answer(426), d.VersionMismatch, d.Server, ""},
		"429":            {answer(429, "Retry-After", "7"), d.LimitExceeded, d.Server, "retry_after=7s"},
		"500":            {answer(500), d.InternalError, d.Server, ""},
		"502":            {answer(502), d.ConnectionRefused, d.Server, ""},
		"503":            {answer(503), d.LimitExceeded, d.Server, ""},
		"504":            {answer(504), d.NetworkTimeout, d.Network, ""},
		"refused":        {&wsconn.DialError{Err: &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}}, d.ConnectionRefused, d.Server, ""},
		"dns":            {&wsconn.DialError{Err: &net.DNSError{Err: "no such host", Name: "x"}}, d.DNSFailure, d.Network, ""},
		"sub-protocol":   {&wsconn.DialError{Status: 101, Err: wsconn.ErrSubprotocol}, d.VersionMismatch, d.Server, ""},
		"ended in hello": {fmt.Errorf("x: %w", &d.EndedError{Attribution: d.Attribution{Reason: d.SlowPeer, Initiator: d.Server}}), d.SlowPeer, d.Server, ""},
	} {
		t.Run(name, func(t *testing.T) {
			a := JudgeDial(fmt.Errorf("dial control link: %w", tc.err), d.ServerToAgent, d.Agent, d.Server)
			require.Equal(t, tc.reason, a.Reason)
			require.Equal(t, tc.initiator, a.Initiator)
			require.Equal(t, d.ServerToAgent, a.ConnectType)
			require.Contains(t, a.Detail, tc.detail)
		})
	}
}
