//go:build unix

package agentssh_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/agent/agentssh"
	"fairlead.dev/fairlead/disconnect"
)

// TestOutOfMemory: what died of SIGKILL, or exited with its status, is asked for; only the
// agent's own cgroup tells of a status that any program may choose.
func TestOutOfMemory(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		command string
		asked   []bool
		want    disconnect.Reason
	}{
		{"kill -9 $$", []bool{false}, disconnect.OOMKilled},
		{"exit 137", []bool{true}, disconnect.OOMKilled},
		{"kill -TERM $$", nil, disconnect.ProcessSignaled},
	} {
		var asked []bool
		h := newHost(t, func(c *agentssh.Config) {
			c.OutOfMemory = func(sure bool) bool { asked = append(asked, sure); return true }
		})
		s, _, _ := h.session()
		require.Error(t, s.Run(test.command))
		e := h.ending()
		require.Equal(t, []any{test.want, disconnect.Agent}, []any{e.A.Reason, e.A.Initiator}, test.command)
		require.Equal(t, test.asked, asked, test.command)
	}
}
