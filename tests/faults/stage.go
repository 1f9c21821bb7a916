package main

import (
	"context"
	"encoding/json"
	"os"
	"strings"
	"time"

	"fairlead.dev/fairlead/tests/faults/inject"
	"fairlead.dev/fairlead/tests/faults/netlab"
	"fairlead.dev/fairlead/tests/faults/scenario"
	"fairlead.dev/fairlead/tests/faults/score"
	"fairlead.dev/fairlead/tests/faults/timeline"
	"fairlead.dev/fairlead/tests/site"
)

const port = "7080" // of the server, on its host

// stage is one scenario's hosts, processes and session.
type stage struct {
	*attempt
	scenario.Scenario
	options *options
	lab     *netlab.Lab
	began   time.Time
	zero    time.Time // when the fault began; zero before that
	expires time.Time // when the client's login is over, if it ever is
	url     string    // of the server, for agent and client
	local   string    // of the server, on its own host

	admin, user, agentHome, relayHome *site.Home
	agentToken, relayToken            string // files
	servers, agents, relays           []*site.Process
	client                            *session
	others                            []other // clients that come later
	watch                             *watch

	connection string                  // its id in the connection log
	links      map[scenario.Leg]string // ids of the control links that are open when the fault comes
	undo       []func() error          // the last one first
	story      timeline.Line

	certificate *inject.Certificate              // of the server, if it has one
	proxy       *inject.Proxy                    // before the server, if there is one
	clocks      map[scenario.Party]*inject.Clock // of each host's processes
	boot        map[scenario.Party]func() error  // gives a host its power back
}

// other is a client that comes later.
type other struct {
	process *site.Process // nil: it is on a terminal, or over
	log     string
	asks    bool // it only asked why ours ended
}

// perform runs a scenario, and once more if the lab could not do its part.
func (o *options) perform(ctx context.Context, s scenario.Scenario) score.Outcome {
	if s.Cannot != "" {
		return score.Outcome{}
	}
	outcome := o.once(ctx, s)
	if outcome.Error != "" && ctx.Err() == nil {
		outcome = o.once(ctx, s)
	}
	return outcome
}

func (o *options) once(ctx context.Context, s scenario.Scenario) (outcome score.Outcome) {
	failure := try(ctx, func(a *attempt) {
		st := &stage{
			attempt: a, Scenario: s, options: o, began: time.Now(), links: map[scenario.Leg]string{},
			clocks: map[scenario.Party]*inject.Clock{}, boot: map[scenario.Party]func() error{},
		}
		st.build()
		st.open()
		st.play()
		outcome = st.listen()
		outcome.Why = st.tellWhy()
	})
	outcome.Error = failure
	return outcome
}

// note puts what the lab does into the timeline.
func (s *stage) note(text string) { s.story.Add(time.Now(), "lab", text) }

// build makes the hosts and starts all processes but the client's.
func (s *stage) build() {
	var err error
	s.lab, err = netlab.Build(s.ctx, s.Name)
	s.must("build the network", err)
	s.Cleanup(func() { s.must("remove the network", s.lab.Close()) })
	s.admin, s.user = s.home(s.lab.Server), s.home(s.lab.Client)
	s.agentHome, s.relayHome = s.home(s.lab.Agent), s.home(s.lab.Relay)
	s.address()
	s.Cleanup(s.keep) // when all processes have ended, and their files are there
	s.agentToken, s.relayToken = s.agentHome.Path("token"), s.relayHome.Path("token")

	s.capture()
	s.startServer()
	s.admin.Must("login", s.local, "--code", site.OneTimeCode(s.servers[0]))
	s.admin.Must("workspace", "create", "dev", "--token-file", s.agentToken)
	s.admin.Must("user", "create", "ada", "--token-file", s.user.Path("token"))
	s.admin.Must("workspace", "share", "dev", "ada")
	if s.OwnRelay {
		s.admin.Must("relay", "create", "own", "--token-file", s.relayToken)
		s.startRelay()
	}
	s.startAgent()
	s.awaitAgent("online")
	s.watch = s.startWatch()
}

// home is a user's machine on a host.
func (s *stage) home(h *netlab.Host) *site.Home {
	home := site.NewHome(s)
	home.In = h.Command
	clock, err := inject.NewClock(home.Dir)
	s.must("make a clock", err)
	s.clocks[scenario.Party(h.Name)] = clock
	home.Setenv(clock.Env())
	return home
}

// homeOf is where a party's files are.
func (s *stage) homeOf(p scenario.Party) *site.Home {
	switch p {
	case scenario.Server:
		return s.admin
	case scenario.Agent:
		return s.agentHome
	case scenario.Relay:
		return s.relayHome
	}
	return s.user
}

// address decides how agent and client reach the server, and makes what that needs.
func (s *stage) address() {
	host, scheme := s.lab.Server.Addr.String(), "http"
	if s.World.Named {
		host = s.lab.Server.DNSName()
	}
	if s.TLS {
		var err error
		s.certificate, err = inject.NewCertificate(s.admin.Dir, host, "127.0.0.1")
		s.must("make a certificate", err)
		for _, home := range []*site.Home{s.admin, s.user, s.agentHome, s.relayHome} {
			home.Setenv("SSL_CERT_FILE=" + s.certificate.CAFile)
		}
		scheme = "https"
	}
	s.local, s.url = scheme+"://127.0.0.1:"+port, scheme+"://"+host+":"+port
	if s.Proxied {
		var err error
		s.proxy, err = inject.StartProxy(s.lab.Server, ":8080", "127.0.0.1:"+port)
		s.must("start the proxy", err)
		s.Cleanup(func() { _ = s.proxy.Close() })
		s.url = scheme + "://" + s.proxy.Address
	}
	if p := s.SmallFS; p != "" {
		home := s.homeOf(p)
		s.must("make a directory", os.Mkdir(home.Path("state"), 0o700))
		s.must("mount a small disk", inject.MountDisk(s.ctx, s.host(p), home.Path("state"), 8<<20))
	}
}

func (s *stage) startServer() {
	args := []string{"server", "--listen", "0.0.0.0:" + port, "--access-url", s.url, "--state-dir", s.admin.Path("state"),
		"--log-format", "json"}
	if s.TLS {
		args = append(args, "--tls-cert", s.certificate.CertFile, "--tls-key", s.certificate.KeyFile)
	} else {
		args = append(args, "--insecure-http")
	}
	if s.OneRelay {
		args = append(args, "--no-relay")
	}
	server := s.admin.Start(append(args, s.Args[scenario.Server]...)...)
	s.servers = append(s.servers, server)
	server.Stderr.AwaitText(s, `"server listening"`)
}

func (s *stage) startAgent() {
	s.agents = append(s.agents, s.startVariant(s.agentHome, scenario.Agent, s.agentArgs("state")...))
}

// startVariant is home.Start of the program that the scenario has for a party.
func (s *stage) startVariant(home *site.Home, p scenario.Party, args ...string) *site.Process {
	if v := s.Variants[p]; v != "" {
		return home.StartCommand(home.In(context.Background(), s.options.programs[v], args...))
	}
	return home.Start(args...)
}

// agentArgs start an agent whose state is in that directory of its home.
func (s *stage) agentArgs(state string) []string {
	args := []string{"agent", s.url, "--token-file", s.agentToken, "--state-dir", s.agentHome.Path(state),
		"--log-format", "json", "--insecure-http", "--outage-limit", s.Limit.String()}
	return append(args, s.Args[scenario.Agent]...)
}

func (s *stage) startRelay() {
	relay := s.relayHome.Start("relay", "--server", s.url, "--token-file", s.relayToken, "--listen", "0.0.0.0:7081",
		"--access-url", "http://"+s.lab.Relay.Addr.String()+":7081", "--insecure-http", "--log-format", "json")
	s.relays = append(s.relays, relay)
	relay.Stderr.AwaitText(s, `"relay listening"`)
}

// awaitAgent waits until the server lists the agent in that state.
func (s *stage) awaitAgent(status string) {
	site.Eventually(s, "agent "+status, func() bool {
		var list []struct {
			Agent struct {
				Status string `json:"status"`
			} `json:"agent"`
		}
		r := s.admin.Run("ls", "--output", "json")
		return json.Unmarshal([]byte(r.Stdout), &list) == nil && len(list) == 1 && list[0].Agent.Status == status
	})
}

// open begins the session, waits until it is what the scenario wants, and finds its rows.
func (s *stage) open() {
	for _, a := range s.Before {
		s.do(a)
	}
	s.login()
	if s.Session == scenario.Dialling {
		return
	}
	s.client = s.startSession()
	s.awaitRows()
	if s.Path == scenario.Direct {
		s.awaitDirect()
	}
	s.note("the session works: " + s.connection)
}

// login makes the client's machine know the server.
func (s *stage) login() {
	file := s.user.Path("token")
	if s.Token > 0 {
		file = s.user.Path("short-token")
		s.expires = time.Now().Add(s.Token) // at the earliest: what is said of it comes later
		s.admin.Must("token", "create", "short", "--user", "ada", "--expires", s.Token.String(), "--token-file", file)
	}
	s.user.Must("login", s.url, "--insecure-http", "--token-file", file)
}

// awaitRows finds the rows of the session and of the control links beside it.
func (s *stage) awaitRows() {
	site.Eventually(s, "the rows of what is open", func() bool {
		s.watch.list(s.ctx, s)
		for _, h := range s.watch.all() {
			row := h.row
			switch {
			case row.Status != "open":
			case row.ConnectType == string(scenario.AC):
				s.connection = row.ID
			case row.ConnectType == string(scenario.SA), row.User == "ada":
				s.links[scenario.Leg(row.ConnectType)] = row.ID
			}
		}
		return s.connection != "" && len(s.links) == 2
	})
}

// awaitDirect waits until the NAT has a flow in both directions between client and agent.
func (s *stage) awaitDirect() {
	site.Eventually(s, "a direct path", func() bool {
		flows, err := s.lab.NAT.Run(s.ctx, "conntrack", "-L", "-p", "udp", "-d", s.lab.Agent.Addr.String())
		return err == nil && strings.Contains(flows, "ASSURED")
	})
}
