package main

import (
	"fmt"
	"os"
	"strings"
	"time"

	"fairlead.dev/fairlead/tests/faults/scenario"
	"fairlead.dev/fairlead/tests/faults/score"
)

const settling = 2 * time.Second // a log may be a little later than the end

// listen waits until the session has ended and the host has spoken, or the time for it is
// over, and returns what was said.
func (s *stage) listen() score.Outcome {
	if s.Truth.Fate != scenario.Lives {
		poll(s.ctx, s.Final, func() bool { return s.over() && (len(s.ofHost) == 0 || len(s.hostSaid()) > 0) })
	}
	poll(s.ctx, settling, func() bool { return false })
	var o score.Outcome
	o.Lived = !s.over() && (s.Truth.Fate == scenario.Ends || s.answers())
	if s.over() {
		code := s.cmd.ProcessState.ExitCode()
		o.ExitCode = &code
	}
	o.Said = append(s.clientSaid(), s.hostSaid()...)
	return o
}

// answers reports whether the remote shell still computes what it is asked.
func (s *stage) answers() bool {
	if s.typed("\rprintf '<%s>\\n' alive\r") != nil {
		return false
	}
	return poll(s.ctx, 10*time.Second, func() bool {
		shown, _ := s.screen.since(s.zero)
		return s.over() || strings.Contains(shown, "<alive>")
	}) && !s.over()
}

// clientSaid is what the client said when it ended: its complaints, and what mosh, which
// owns the terminal, says there last.
func (s *stage) clientSaid() []score.Testimony {
	if !s.over() {
		return nil
	}
	before, err := os.ReadFile(s.path("before"))
	if err != nil {
		return nil
	}
	text := strings.TrimPrefix(s.complaints(), string(before))
	shown, _ := s.screen.since(s.zero)
	for line := range strings.Lines(shown) {
		if _, rest, found := strings.Cut(line, "[mosh "); found {
			text += "[mosh " + rest
		}
	}
	code := s.cmd.ProcessState.ExitCode()
	words, ok := read(s.ofClient, text, code, s.Truth.Client)
	if !ok {
		return nil
	}
	return []score.Testimony{s.testimony(scenario.Client, words, fmt.Sprintf("%s (exit code %d)", plain(text), code), s.ended)}
}

// hostSaid is what the host's log says since the fault.
func (s *stage) hostSaid() []score.Testimony {
	text, last := s.log.since(s.zero)
	words, ok := read(s.ofHost, text, 0, s.Truth.Agent)
	if !ok {
		return nil
	}
	return []score.Testimony{s.testimony(scenario.Agent, words, plain(text), last)}
}

func (s *stage) testimony(who scenario.Party, words scenario.Words, detail string, at time.Time) score.Testimony {
	return score.Testimony{Party: who, Kind: scenario.Ending, Leg: scenario.AC, Words: words, Detail: detail, Seconds: at.Sub(s.zero).Seconds()}
}
