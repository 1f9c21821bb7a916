package client

import (
	"context"
	"errors"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/tailnet"
	"fairlead.dev/fairlead/tailnet/proto"
	"fairlead.dev/fairlead/wsconn"
)

// removed ends a workspace that the server took the right to away. An agent that left
// or has changed is no news: its end is judged by who watches it.
func (c *Client) removed(key proto.NodeKey, why disconnect.Goodbye) {
	if why.Reason == disconnect.Unknown {
		return
	}
	c.mu.Lock()
	w := c.workspaces[key]
	c.mu.Unlock()
	if w != nil {
		w.watch.End(why.On(disconnect.AgentToClient))
	}
}

// serverState ends everything when the server does not accept this login any more:
// what is open may not go on, and there is no way to anything else.
func (c *Client) serverState(state tailnet.ControllerState) {
	if state.Cuts > 0 {
		url := disconnect.Scrub(c.options.AccessURL.Redacted())
		c.options.Notice("the connection to the server at " + url + " was cut again and again without a word, perhaps by a proxy with a short idle time-out; this tells: fairlead server check " + url)
	}
	if state.Up && c.options.Records != nil {
		c.tasks.Go(func() { c.options.Records.Report(context.Background()) })
	}
	a := state.Ending
	if state.Err != nil {
		a = refusedLater(state.Err)
	}
	if a.Reason != disconnect.AuthRevoked && a.Reason != disconnect.AuthExpired {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, w := range c.workspaces {
		if w != nil {
			w.watch.End(a)
		}
	}
}

// refusedLater says what it means that the server refuses a login that it accepted
// before: it was withdrawn meanwhile. Only the server's own word counts.
func refusedLater(err error) disconnect.Attribution {
	var failed *wsconn.DialError
	if !errors.As(err, &failed) {
		return disconnect.Attribution{}
	}
	a := disconnect.Attribution{Initiator: disconnect.Server}
	switch reason, ours := failed.Reason(); {
	case !ours:
	case reason == disconnect.AuthFailed:
		a.Reason, a.Detail = disconnect.AuthRevoked, "the server does not accept this login any more"
	case reason == disconnect.AuthExpired:
		a.Reason, a.Detail = reason, "the login has expired"
	}
	return a
}
