package server

import (
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"
	pb "google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"fairlead.dev/fairlead/agent/proto"
	"fairlead.dev/fairlead/disconnect"
)

func FuzzHostKey(f *testing.F) {
	for _, s := range []string{"", "ssh-ed25519 AAAA", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGJ4bE9BcUJ0a1BMMlZ1b0R1dWJXaXF1Y0d5bWJ0S2Jn a comment\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		key, err := checkHostKey(s)
		if err != nil {
			require.Empty(t, key)
			return
		}
		again, err := checkHostKey(key)
		require.NoError(t, err)
		require.Equal(t, key, again)
		_, comment, options, rest, err := ssh.ParseAuthorizedKey([]byte(key))
		require.NoError(t, err)
		require.Empty(t, comment)
		require.Empty(t, options)
		require.Empty(t, rest)
	})
}

// FuzzConnectionReport: what an agent reports is of the form that is logged, or refused.
func FuzzConnectionReport(f *testing.F) {
	id := uuid.New()
	reason := "te\x1bxt"
	for _, c := range []*proto.Connection{
		{}, {Id: id[:], Action: proto.Connection_CONNECT, Type: proto.Connection_SSH, Principal: "ada", Timestamp: timestamppb.Now()},
		{Id: id[:], Action: proto.Connection_DISCONNECT, Type: proto.Connection_SSH, Reason: &reason, Timestamp: timestamppb.Now()},
	} {
		b, err := pb.Marshal(c)
		require.NoError(f, err)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var c proto.Connection
		if pb.Unmarshal(b, &c) != nil {
			return
		}
		got, err := checkReport(&c)
		if err != nil {
			return
		}
		require.NotEqual(t, uuid.Nil.String(), got.ID)
		require.LessOrEqual(t, len(got.App)+len(got.IP)+len(got.ClientVersion), maxApp+maxIP+maxClientVersion)
		a := reportedEnding(&c)
		require.True(t, a.Reason.Valid())
		require.Equal(t, disconnect.AgentToClient, a.ConnectType)
		require.Equal(t, a.Detail, disconnect.Scrub(a.Detail))
	})
}

func FuzzForwarded(f *testing.F) {
	for _, s := range []string{"192.0.2.1", "192.0.2.1:80", "[2001:db8::1]:80", "2001:db8::1", "unknown", "", "fe80::1%eth0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		addr, err := parseForwarded(s)
		require.Equal(t, err == nil, addr.IsValid())
	})
}
