package main

import (
	"fairlead.dev/fairlead/tests/faults/netlab"
	"fairlead.dev/fairlead/tests/site"
)

// netSite is a server, an agent and a user's machine in network namespaces of their own,
// the user's behind a NAT.
type netSite struct {
	lab   *netlab.Lab
	agent *site.Process
	host  *site.Home // where the agent runs
	user  *site.Home // who may use the workspace admin/dev
}

// startNetSite builds the site. It needs root.
func startNetSite(t *run, name string) (*netSite, error) {
	lab, err := netlab.Build(t.ctx, name)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() {
		if err := lab.Close(); err != nil {
			t.Errorf("%w", err)
		}
	})
	home := func(h *netlab.Host) *site.Home {
		home := site.NewHome(t)
		home.In = h.Command
		return home
	}
	admin, agent, user := home(lab.Server), home(lab.Agent), home(lab.Client)
	url := "http://" + lab.Server.Addr.String() + ":7080"
	server := admin.Start("server", "--listen", "0.0.0.0:7080", "--access-url", url, "--state-dir", admin.Path("state"),
		"--log-format", "json", "--insecure-http")
	server.Stderr.AwaitText(t, `"server listening"`)
	admin.Must("login", "http://127.0.0.1:7080", "--code", site.OneTimeCode(server))
	admin.Must("workspace", "create", "dev", "--token-file", agent.Path("token"))
	admin.Must("user", "create", "ada", "--token-file", user.Path("token"))
	admin.Must("workspace", "share", "dev", "ada")
	n := &netSite{lab: lab, host: agent, user: user}
	n.agent = agent.Start("agent", url, "--token-file", agent.Path("token"), "--state-dir", agent.Path("state"), "--insecure-http")
	n.agent.Stderr.AwaitText(t, "connected to server")
	user.Must("login", url, "--token-file", user.Path("token"), "--insecure-http")
	return n, nil
}
