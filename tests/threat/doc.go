// Package threat holds the tests that attack Fairlead from where the attackers of
// docs/security.md stand, with the real server, agent, relay and nodes in one process,
// and the check that every sentence of that page names tests that exist. It has no
// code of its own; what one package can show by itself is tested there.
package threat
