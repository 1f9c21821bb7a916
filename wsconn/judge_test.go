package wsconn

import (
	"io"
	"net"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	d "fairlead.dev/fairlead/disconnect"
)

func TestJudge(t *testing.T) {
	for name, tc := range map[string]struct {
		ending    Ending
		reason    d.Reason
		initiator d.Initiator
	}{
		"alive":              {Ending{}, d.Unknown, d.InitiatorUnknown},
		"eof":                {Ending{Err: io.EOF}, d.NetworkError, d.Network},
		"own close, no why":  {Ending{Local: true, Err: net.ErrClosed}, d.NetworkError, d.Network},
		"read deadline":      {Ending{Local: true, Err: errReadDeadline}, d.NetworkTimeout, d.Network},
		"write deadline":     {Ending{Local: true, Err: errWriteDeadline}, d.SlowPeer, d.Server},
		"bad bytes":          {Ending{Err: ErrProtocol}, d.ProtocolError, d.Server},
		"normal closure":     {Ending{Code: 1000}, d.NetworkError, d.Network},
		"going away":         {Ending{Code: 1001}, d.NetworkError, d.Network},
		"no status":          {Ending{Code: 1005}, d.NetworkError, d.Network},
		"abnormal":           {Ending{Code: 1006}, d.NetworkError, d.Network},
		"peer calls us bad":  {Ending{Code: 1002}, d.ProtocolError, d.Agent},
		"policy":             {Ending{Code: 1008}, d.LimitExceeded, d.Server},
		"too big":            {Ending{Code: 1009}, d.LimitExceeded, d.Server},
		"internal":           {Ending{Code: 1011}, d.InternalError, d.Server},
		"restart":            {Ending{Code: 1012}, d.ServerShutdown, d.Server},
		"busy":               {Ending{Code: 1013}, d.LimitExceeded, d.Server},
		"bad gateway":        {Ending{Code: 1014}, d.ConnectionRefused, d.Server},
		"tls":                {Ending{Code: 1015}, d.TLSFailure, d.Network},
		"private":            {Ending{Code: 3000}, d.NetworkError, d.Network},
		"newer reason":       {Ending{Code: 4099}, d.Unknown, d.InitiatorUnknown},
		"own goodbye":        {Ending{Local: true, Code: 4020, Text: "i=2;d=x"}, d.ServerShutdown, d.Agent},
		"sender not named":   {Ending{Code: 4020}, d.ServerShutdown, d.Server},
		"offender not named": {Ending{Code: 4060}, d.ProtocolError, d.Agent},
	} {
		t.Run(name, func(t *testing.T) {
			a := Judge(tc.ending, d.ServerToAgent, d.Agent, d.Server)
			require.Equal(t, tc.reason, a.Reason)
			require.Equal(t, tc.initiator, a.Initiator)
			require.Equal(t, d.ServerToAgent, a.ConnectType)
			if tc.ending.Code != 0 && tc.ending.Code < 4000 {
				require.Contains(t, a.Detail, "close="+strconv.Itoa(tc.ending.Code))
			}
		})
	}
}

// TestEveryGoodbyeSurvivesTheCloseFrame walks the whole vocabulary.
func TestEveryGoodbyeSurvivesTheCloseFrame(t *testing.T) {
	for _, reason := range d.Reasons() {
		for _, initiator := range d.Initiators()[1:] {
			g := d.Goodbye{Reason: reason, Initiator: initiator, Detail: "why"}
			code, text := g.CloseCode()
			require.Equal(t, g.On(d.ClientToServer), Judge(Ending{Code: code, Text: text}, d.ClientToServer, d.Client, d.Server))
		}
	}
}
