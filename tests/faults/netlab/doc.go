// Package netlab builds the small internet in which a fault is tried: one topology for
// each scenario, in Linux network namespaces of its own, so that many stand side by side
// with the same addresses.
//
//	                    10.77.1.0/24           10.77.9.0/24
//	client ───────────────────────────── NAT ───────────────── router
//	  eth0 .2          client┤lan .1      wan .2         wan .1 │ site .1
//	                         (bridge)                           │
//	                                                            │ 10.77.2.0/24
//	                                                      ┤router
//	                                              switch ─┤agent ──── eth0 .2  agent
//	                                             (bridge) ┤server ─── eth0 .3  server
//	                                                      ┤relay ──── eth0 .4  relay
//
// Behind the switch each host has a /32 and sends everything to the router, as in a cloud:
// so every packet between two hosts passes the router's forward chain, and one place can
// drop, answer or count it. Nobody but the NAT knows the client's own network. There is no
// IPv6, so that no path goes round a fault. The router answers DNS (see Names).
//
// Each host is a network, mount and host-name namespace that a small process holds, and
// that process ends when the one that built the lab does: nothing outlives it but what
// ran inside and was not killed, which the next Build sweeps. The network namespaces are
// named for people: "ip netns exec fl-PID-NAME-agent tcpdump -i eth0".
//
// Everything works as root, and as anybody else after Unshare; only TAP devices need root.
// The package knows nothing of Fairlead, and nothing of faults: those are in inject.
package netlab
