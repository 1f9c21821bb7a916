package main

import (
	"strings"

	"fairlead.dev/fairlead/tests/faults/scenario"
)

// mosh begins a session by ssh and then needs UDP alone. Its server keeps no log.
var mosh = product{
	name: "mosh", file: "mosh.json", pkg: "mosh", service: "mosh-server",
	client: func(s *stage) (string, []string) {
		return "mosh", []string{
			"--ssh=ssh " + strings.Join(s.sshOptions(), " "), "--server=env LANG=C.UTF-8 mosh-server",
			"root@" + s.lab.Agent.Addr.String(), "--", "sh",
		}
	},
	ofClient: []rule{
		means(`did not shut down cleanly`, unknown("")),
		means(`Nothing received from server`, says("network_timeout", scenario.Network, false)),
		means(`mosh is exiting`, says("graceful", scenario.Agent, true), says("client_closed", scenario.Client, true)),
	},
}
