package agentsdk

import (
	"testing"

	"github.com/stretchr/testify/require"
	pb "google.golang.org/protobuf/proto"

	"fairlead.dev/fairlead/agent/proto"
	"fairlead.dev/fairlead/disconnect"
)

func FuzzManifest(f *testing.F) {
	for _, m := range []*proto.Manifest{
		{}, {WorkspaceId: "w", WorkspaceName: "\x1b[2J", OwnerName: "ada", Environment: map[string]string{"A": "b"}},
	} {
		b, err := pb.Marshal(m)
		require.NoError(f, err)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var m proto.Manifest
		if pb.Unmarshal(b, &m) != nil {
			return
		}
		got, err := ManifestFromProto(&m)
		if err != nil {
			return
		}
		require.NotEmpty(t, got.WorkspaceID)
		require.LessOrEqual(t, len(got.Environment), maxEnvironment)
		require.Equal(t, got.WorkspaceName, disconnect.Scrub(got.WorkspaceName))
		require.Equal(t, got.OwnerName, disconnect.Scrub(got.OwnerName))
	})
}
