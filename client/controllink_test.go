package client

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/companion"
	"fairlead.dev/fairlead/control"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/verdict"
)

func linkEnd(r disconnect.Reason, by disconnect.Initiator, goodbye bool) control.Ending {
	return control.Ending{Attribution: disconnect.Attribution{ConnectType: disconnect.ClientToServer, Reason: r, Initiator: by}, Goodbye: goodbye}
}

// TestLinkTestimony: who heard a goodbye, or said it on a line that lived, has nothing to
// add; all else is a valid testimony with what was seen.
func TestLinkTestimony(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		ending control.Ending
		silent time.Duration
		facts  []verdict.FactKind
	}{
		"we left":                   {linkEnd(disconnect.ClientClosed, disconnect.Client, true), time.Second, nil},
		"the server stopped":        {linkEnd(disconnect.ServerShutdown, disconnect.Server, true), 0, nil},
		"we left a silent server":   {linkEnd(disconnect.ClientClosed, disconnect.Client, true), time.Minute, []verdict.FactKind{verdict.GoodbyeSent, verdict.HeartbeatSilence}},
		"the server had given up":   {linkEnd(disconnect.NetworkTimeout, disconnect.Network, true), 0, []verdict.FactKind{verdict.GoodbyeReceived}},
		"its kernel closed":         {linkEnd(disconnect.NetworkError, disconnect.Network, false), 0, []verdict.FactKind{verdict.SocketClosed}},
		"a reset":                   {linkEnd(disconnect.ConnectionReset, disconnect.Network, false), 0, []verdict.FactKind{verdict.SocketReset}},
		"silence":                   {linkEnd(disconnect.NetworkTimeout, disconnect.Network, false), 12 * time.Second, []verdict.FactKind{verdict.HeartbeatSilence}},
		"silence, its host answers": {linkEnd(disconnect.PeerUnresponsive, disconnect.Server, false), 12 * time.Second, []verdict.FactKind{verdict.HeartbeatSilence, verdict.ProbeAnswered}},
	} {
		t.Run(name, func(t *testing.T) {
			said := linkTestimony(test.ending, time.Now().Add(-test.silent), companion.Moment())
			if test.facts == nil {
				require.Nil(t, said)
				return
			}
			require.NoError(t, said.Validate())
			var kinds []verdict.FactKind
			for _, f := range said.Facts {
				kinds = append(kinds, f.Kind)
			}
			require.Equal(t, test.facts, kinds)
			require.False(t, said.LastGood.Wall.After(said.FirstNoticed.Wall))
			require.NotEqual(t, disconnect.EvidenceDeclared, said.Evidence)
		})
	}
}

// TestOwnDoing: only what was so when the link fell silent is why.
func TestOwnDoing(t *testing.T) {
	t.Parallel()
	heard := time.Now().Add(-12 * time.Second)
	at := func(s time.Duration) verdict.Moment { return verdict.Moment{Wall: heard.Add(s * time.Second)} }
	down := verdict.Fact{Kind: verdict.LinkDown, At: at(1), Text: "eth0 is down"}
	slept := verdict.Fact{Kind: verdict.Slept, At: at(1), Until: at(11)}
	for name, test := range map[string]struct {
		facts []verdict.Fact
		still bool
		want  disconnect.Reason
	}{
		"nothing":                   {},
		"down":                      {[]verdict.Fact{down}, false, disconnect.NetworkUnreachable},
		"slept, and woke without":   {[]verdict.Fact{down, slept}, false, disconnect.Suspended},
		"stopped":                   {[]verdict.Fact{{Kind: verdict.TimerLate, At: at(0), Until: at(11)}}, false, disconnect.Suspended},
		"down later":                {[]verdict.Fact{{Kind: verdict.LinkDown, At: at(10)}}, false, 0},
		"down while bytes came":     {[]verdict.Fact{{Kind: verdict.LinkDown, At: at(-60)}}, false, 0},
		"was down when we left":     {[]verdict.Fact{{Kind: verdict.LinkDown, At: at(1), Until: at(5)}}, true, 0},
		"down when we left":         {[]verdict.Fact{down}, true, disconnect.NetworkUnreachable},
		"another way, not down":     {[]verdict.Fact{{Kind: verdict.LinkChanged, At: at(1)}}, false, 0},
		"was down when it was lost": {[]verdict.Fact{{Kind: verdict.LinkDown, At: at(1), Until: at(5)}}, false, disconnect.NetworkUnreachable},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			own, known := ownDoing(test.facts, heard, test.still)
			require.Equal(t, test.want != 0, known)
			require.Equal(t, test.want, own.Reason)
		})
	}
}
