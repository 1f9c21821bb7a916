package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"fairlead.dev/fairlead/client"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/explain"
	"fairlead.dev/fairlead/disconnect/verdict"
	"fairlead.dev/fairlead/sdk"
)

// correctionWait bounds the question for a verdict before a command does its own work.
const correctionWait = time.Second

// explainAtOnce tells in plain language what an unexpected end looks like from here, and
// keeps what it said for the next command to correct.
func (c *sshCommand) explainAtOnce(end client.SessionEnd) {
	if end.Testimony == nil || end.Exited || end.Attribution.Expected() {
		return
	}
	now := time.Now()
	v := judgeAlone(*end.Testimony)
	told := explain.Explain(v, explain.Viewer{Mine: true, Workspace: c.workspace, Program: programName(), Zone: time.Local}, now)
	text := plain(told.What)
	if v.Confidence != disconnect.ConfidenceCertain {
		more := programName() + " why"
		if end.ConnectionID != "" {
			more += " " + shortID(end.ConnectionID)
		}
		text += " This is provisional; later this tells more: " + more
	}
	fmt.Fprintln(c.err, "fairlead: "+text)
	if end.ConnectionID == "" {
		return
	}
	if p, err := chooseProfile(c.profile); err == nil {
		recordsOf(p, nil, nil).Say(client.Said{
			ConnectionID: end.ConnectionID, Workspace: c.workspace, Ended: now, Reason: v.Reason, Initiator: v.Initiator,
		})
	}
}

// judgeAlone is the verdict that the client alone can reach.
func judgeAlone(t verdict.Testimony) verdict.Verdict {
	v := verdict.Judge([]verdict.Testimony{t}, verdict.Context{ConnectionID: t.ConnectionID})
	if v.Rule >= verdict.R10 && t.Account.Reason != disconnect.Unknown {
		v.Attribution = t.Account
	}
	return v
}

// correct tells, before a command of a login does its own work, that what was said of that
// login's last session has turned out to be wrong. It is silent while nothing better is
// known, and whenever the server does not answer soon.
func correct(cmd *cobra.Command, s streams) {
	flag := cmd.Flags().Lookup("profile")
	if flag == nil {
		return
	}
	p, err := chooseProfile(flag.Value.String())
	if err != nil {
		return
	}
	records, now := recordsOf(p, nil, nil), time.Now()
	said, ok := records.Said(now)
	if !ok {
		return
	}
	api, err := sdk.NewClient(p.URL, p.Token)
	if err != nil {
		return
	}
	defer api.Close()
	ctx, cancel := context.WithTimeout(cmd.Context(), correctionWait)
	defer cancel()
	row, err := api.Connection(ctx, said.ConnectionID)
	if err != nil {
		return
	}
	v, ok := verdictOf(row)
	if !ok || !v.Final || row.DisconnectedAt == nil {
		return
	}
	records.Settled()
	if v.Reason == said.Reason && v.Initiator == said.Initiator {
		return
	}
	told := explain.Explain(v, explain.Viewer{Mine: true, Workspace: said.Workspace, Program: programName(), Zone: time.Local}, now)
	fmt.Fprintf(s.err, "fairlead: it is known better now why the session with %s ended at %s: %s\n",
		plain(said.Workspace), localTime(said.Ended, now), plain(told.What))
}
