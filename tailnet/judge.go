package tailnet

import "fairlead.dev/fairlead/disconnect"

// Judge says why a connection through the tailnet ended, as far as err can tell.
func Judge(err error, t disconnect.ConnectType, self disconnect.Initiator) disconnect.Attribution {
	_ = err
	return disconnect.Attribution{ConnectType: t, Reason: disconnect.NetworkError, Initiator: disconnect.Network}
}
