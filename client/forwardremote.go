package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"golang.org/x/crypto/ssh"

	"fairlead.dev/fairlead/disconnect"
)

// maxFromAgent bounds the connections that one link takes from the agent's side, which
// is not ours to trust with all of this machine's descriptors.
const maxFromAgent = 512

// listenRequest asks the agent to listen (RFC 4254 section 7.1, and OpenSSH's PROTOCOL
// section 2.4).
func listenRequest(e Endpoint) (kind string, payload []byte, err error) {
	if e.Network == "unix" {
		return "streamlocal-forward@openssh.com", ssh.Marshal(struct{ Path string }{e.Address}), nil
	}
	host, port, err := hostPort(e.Address)
	return "tcpip-forward", ssh.Marshal(struct {
		Host string
		Port uint32
	}{host, port}), err
}

// listen asks the agent to listen for f, and returns f with the port that the agent
// chose if none was named. An error is one sentence.
func (l *forwardLink) listen(f Forward) (Forward, error) {
	what := "listen on " + f.Listen.String() + " in the workspace"
	kind, payload, err := listenRequest(f.Listen)
	if err != nil {
		return f, fmt.Errorf("%s: %w", what, err)
	}
	ok, answer, err := l.conn.client.SendRequest(kind, true, payload)
	if err != nil {
		return f, failed(what, l.notOpened(err), err)
	}
	if !ok {
		a, known := refusedFor(string(answer))
		if !known {
			a = disconnect.Attribution{
				ConnectType: disconnect.AgentToClient, Reason: disconnect.ConnectionRefused, Initiator: disconnect.Agent,
				Detail: "the agent refused",
			}
		}
		return f, failed(what, a, errRefused)
	}
	var chosen struct{ Port uint32 }
	if host, port, err := hostPort(f.Listen.Address); f.Listen.Network == "tcp" && err == nil && port == 0 && ssh.Unmarshal(answer, &chosen) == nil {
		f.Listen.Address = net.JoinHostPort(host, strconv.FormatUint(uint64(chosen.Port), 10))
	}
	return f, nil
}

// listenAll has the agent listen for forwards and says which it refused first. Those
// that it did not are there, and their addresses stay the same for later links.
func (l *forwardLink) listenAll(forwards []Forward) (missing []Forward, err error) {
	for i, asked := range forwards {
		f, failure := l.listen(asked)
		if failure != nil {
			missing = append(missing, asked)
			err = errors.Join(err, failure)
			continue
		}
		forwards[i] = f
		l.forwards.mu.Lock()
		l.listening = append(l.listening, f)
		l.forwards.mu.Unlock()
	}
	return missing, err
}

// keepListening has the agent listen again after the workspace was away, for as long as
// that takes: what a link of before held may not be free yet.
func (l *forwardLink) keepListening(missing []Forward) {
	for pause := firstRetry; ; pause = min(2*pause, longestRetry) {
		var still []Forward
		for _, f := range missing {
			if _, err := l.listenAll([]Forward{f}); err != nil {
				a, _ := disconnect.FromError(err)
				l.forwards.tell(ForwardEvent{Type: ForwardFailed, Forward: f, Attribution: a})
				still = append(still, f)
			} else {
				l.forwards.tell(ForwardEvent{Type: ForwardListening, Forward: f})
			}
		}
		if missing = still; len(missing) == 0 {
			return
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-l.over:
			timer.Stop()
			return
		}
	}
}

// serveRemotes takes the connections that the agent has taken, until the SSH connection
// ends.
func (l *forwardLink) serveRemotes(channels <-chan ssh.NewChannel) {
	for nch := range channels {
		if l.fromAgent.Add(1) > maxFromAgent {
			l.fromAgent.Add(-1)
			_ = nch.Reject(ssh.ResourceShortage, disconnect.LimitExceeded.String()+": this client has "+strconv.Itoa(maxFromAgent)+" connections from the workspace already")
			continue
		}
		l.tasks.Go(func() {
			defer l.fromAgent.Add(-1)
			l.serveRemote(nch)
		})
	}
}

// arrivedAt reads where the connection arrived and who opened it.
func arrivedAt(nch ssh.NewChannel) (at Endpoint, from string, ok bool) {
	if nch.ChannelType() != "forwarded-tcpip" {
		var m struct{ Path, Reserved string }
		ok := ssh.Unmarshal(nch.ExtraData(), &m) == nil
		return Endpoint{"unix", m.Path}, m.Path, ok
	}
	var m struct {
		Host     string
		Port     uint32
		From     string
		FromPort uint32
	}
	ok = ssh.Unmarshal(nch.ExtraData(), &m) == nil
	join := func(host string, port uint32) string {
		return net.JoinHostPort(host, strconv.FormatUint(uint64(port), 10))
	}
	return Endpoint{"tcp", join(m.Host, m.Port)}, join(m.From, m.FromPort), ok
}

// serveRemote leads one connection from the workspace to its target here. Only where
// the user had the agent listen may one come from.
func (l *forwardLink) serveRemote(nch ssh.NewChannel) {
	at, from, ok := arrivedAt(nch)
	forward, asked := l.listensAt(at)
	if !ok || !asked {
		_ = nch.Reject(ssh.Prohibited, "nobody asked for this forward")
		return
	}
	e := ForwardEvent{
		Type: ForwardRefused, Forward: forward, Connection: l.forwards.number(),
		From: disconnect.Scrub(from), Target: forward.Target.String(),
	}
	if forward.dynamic() {
		l.serveRemoteSOCKS(e, nch)
		return
	}
	nc, err := l.dial(forward.Target)
	if err != nil {
		e.Attribution = err.Attribution
		l.forwards.refused(e)
		_ = nch.Reject(ssh.ConnectionFailed, err.Attribution.Reason.String()+": "+err.Attribution.Detail)
		return
	}
	defer nc.Close()
	if channel, requests, err := nch.Accept(); err == nil {
		l.carry(e, nc, channel, requests)
	}
}

// serveRemoteSOCKS does the same for one that says itself what it wants.
func (l *forwardLink) serveRemoteSOCKS(e ForwardEvent, nch ssh.NewChannel) {
	channel, requests, err := nch.Accept()
	if err != nil {
		return
	}
	late := time.AfterFunc(socksTimeout, func() { _ = channel.Close() })
	target, say, err := socksRequest(channel)
	var nc net.Conn
	if late.Stop() && err == nil {
		e.Target = target.String()
		var failure *disconnect.EndedError
		if nc, failure = l.dial(target); failure != nil {
			err = failure
			_ = say(false)
		} else {
			err = say(true)
		}
	}
	if err == nil && nc != nil {
		defer nc.Close()
		l.carry(e, nc, channel, requests)
		return
	}
	e.Attribution = badSOCKS(err)
	l.forwards.refused(e)
	_ = channel.Close()
	ssh.DiscardRequests(requests) // until the agent has closed it too, or the link ends
}

// badSOCKS is the end of a connection that did not say what it wants, or did not get it.
func badSOCKS(err error) disconnect.Attribution {
	if a, ok := disconnect.FromError(err); ok {
		return a
	}
	a := disconnect.Attribution{
		ConnectType: disconnect.AgentToClient, Reason: disconnect.SlowPeer, Initiator: disconnect.Client,
		Detail: fmt.Sprintf("no SOCKS request came for %v", socksTimeout),
	}
	if err != nil {
		a.Reason, a.Detail = disconnect.ProtocolError, disconnect.Scrub(err.Error())
	}
	return a
}

// listensAt returns the forward whose connections arrive at an endpoint of the agent.
func (l *forwardLink) listensAt(at Endpoint) (Forward, bool) {
	l.forwards.mu.Lock()
	defer l.forwards.mu.Unlock()
	for _, f := range l.listening {
		if f.Listen == at {
			return f, true
		}
	}
	return Forward{}, false
}

// dial connects to a target on this machine or near it.
func (l *forwardLink) dial(target Endpoint) (net.Conn, *disconnect.EndedError) {
	ctx, cancel := context.WithTimeout(context.Background(), forwardDialTimeout)
	defer cancel()
	watching := make(chan struct{})
	l.tasks.Go(func() {
		defer close(watching)
		select {
		case <-l.over:
			cancel()
		case <-ctx.Done():
		}
	})
	nc, err := new(net.Dialer).DialContext(ctx, target.Network, target.Address)
	if err == nil {
		return nc, nil
	}
	cancel()
	<-watching
	a := disconnect.Judge(err, disconnect.AgentToClient, disconnect.Client)
	if a.Reason == disconnect.ConnectionRefused {
		a.Initiator = disconnect.Client // it is this machine that refuses
	}
	if ended, ok := l.ended.Get(); ok {
		a = ended
	}
	return nil, &disconnect.EndedError{Attribution: a, Err: err}
}
