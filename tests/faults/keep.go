package main

import (
	"os"
	"path/filepath"
	"strconv"

	"fairlead.dev/fairlead/tests/site"
)

// keep leaves the logs and the timeline of the run where the options say. It is called
// when all processes have ended.
func (s *stage) keep() {
	if s.options.keep == "" {
		return
	}
	dir := s.kept()
	write := func(name, text string) {
		s.must("keep "+name, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	for who, lives := range map[string][]*site.Process{"server": s.servers, "agent": s.agents, "relay": s.relays} {
		for i, p := range lives {
			write(who+"-"+strconv.Itoa(i+1)+".log", p.Stderr.String())
			s.story.Log(who, p.Stderr.String(), s.began)
		}
	}
	for i, o := range s.others {
		if o.process != nil {
			write("client-again-"+strconv.Itoa(i+1)+".txt", o.process.Stderr.String())
		}
		s.keepFile(o.log, "client-again")
	}
	if s.client != nil {
		write("terminal.txt", s.client.out.String())
		s.keepFile(s.client.log, "client")
	}
	if s.watch != nil {
		for _, h := range s.watch.all() {
			s.story.Add(h.at, "log", h.String())
		}
	}
	file, err := os.Create(filepath.Join(dir, "timeline.txt"))
	s.must("keep the timeline", err)
	defer file.Close()
	zero := s.zero
	if zero.IsZero() {
		zero = s.began
	}
	s.must("keep the timeline", s.story.Write(file, zero))
}

// capture writes the packets of every host into the directory of the run, if that is
// wanted.
func (s *stage) capture() {
	if !s.options.pcap {
		return
	}
	for _, h := range s.lab.Hosts() {
		dump := site.NewHome(s).StartCommand(h.Command(s.ctx, "tcpdump", "-i", "any", "-U", "-w", filepath.Join(s.kept(), h.Name+".pcap")))
		dump.Stderr.AwaitText(s, "listening on")
	}
}

// kept is the directory of this run.
func (s *stage) kept() string {
	dir := filepath.Join(s.options.keep, s.Name)
	s.must("keep the logs", os.MkdirAll(dir, 0o755))
	return dir
}

// keepFile keeps a log that the process wrote itself.
func (s *stage) keepFile(path, who string) {
	text, err := os.ReadFile(path)
	if err != nil {
		return // it wrote none
	}
	s.must("keep "+path, os.WriteFile(filepath.Join(s.kept(), who+"-"+filepath.Base(path)), text, 0o644))
	s.story.Log(who, string(text), s.began)
}

// String is the row as the timeline shows it.
func (h heard) String() string {
	r := h.row
	text := r.ConnectType + " " + r.ID + " " + r.Status
	if r.Reason != nil {
		text += " " + *r.Reason + "/" + deref(r.Initiator) + " " + strconv.Quote(deref(r.Detail))
	}
	if r.Provisional {
		text += " provisional"
	}
	return text
}
