package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/sdk"
	"fairlead.dev/fairlead/server/store"
	"fairlead.dev/fairlead/tests/site"
)

const (
	logReporters  = 32
	logRows       = 1_000_000
	logWorkspaces = 200
	logUsers      = 60
	// logOldest is how many of the oldest rows have what no other row has.
	logOldest = 50
	// logSamples is how often each query is asked.
	logSamples = 100
)

// logSite is a server whose connection log is measured.
type logSite struct {
	*site.Site
	api    *sdk.Client
	agents string // "token host-key" lines
}

// reportLog measures how fast the connection log takes reports, and how fast it answers
// when it is large.
func (b *bench) reportLog() error {
	l := &logSite{Site: site.Empty(b.t)}
	if err := l.start(b.ctx); err != nil {
		return err
	}
	table := newTable(fmt.Sprintf("one call with %d reports of %d agents at once", reporterBatch, logReporters), "ms")
	rates := &strings.Builder{}
	measure := func(name string) error {
		f, err := l.report(b.ctx)
		if err != nil {
			return err
		}
		table.add(name, f.Calls)
		fmt.Fprintf(rates, "| %s | %.0f |\n", name, float64(f.Reports)/f.Seconds)
		return nil
	}
	if err := measure("into an empty log"); err != nil {
		return err
	}
	l.Server.Stop()
	began := time.Now()
	if err := fillLog(b.ctx, l.Path("server")); err != nil {
		return err
	}
	progress("%d rows were made in %v", logRows, time.Since(began).Round(time.Second))
	info, err := os.Stat(filepath.Join(l.Path("server"), "fairlead.db"))
	if err != nil {
		return err
	}
	l.StartServer()
	if err := measure(fmt.Sprintf("into a log of %d rows", logRows)); err != nil {
		return err
	}
	fmt.Printf("| %d agents report in batches | reports/s |\n|---|---|\n%s\n", logReporters, rates)
	fmt.Printf("| connection log of %d rows | |\n|---|---|\n| database | %.0f MB |\n\n", logRows, float64(info.Size())/1e6)
	table.print()
	return l.query(b.ctx)
}

// start makes a server with one workspace for each reporter.
func (l *logSite) start(ctx context.Context) (err error) {
	l.StartServer()
	if l.api, err = sdk.NewClient(l.URL, ""); err != nil {
		return err
	}
	login, err := l.api.Login(ctx, sdk.LoginRequest{Code: site.OneTimeCode(l.Server)})
	if err != nil {
		return err
	}
	if l.api, err = sdk.NewClient(l.URL, login.Token); err != nil {
		return err
	}
	l.T.Cleanup(l.api.Close)
	for i := range logReporters {
		made, err := l.api.CreateWorkspace(ctx, sdk.CreateWorkspaceRequest{Name: fmt.Sprintf("reporter-%d", i)})
		if err != nil {
			return err
		}
		key, err := newHostKey()
		if err != nil {
			return err
		}
		l.agents += made.AgentToken + " " + key + "\n"
	}
	return nil
}

// report runs the reporters once.
func (l *logSite) report(ctx context.Context) (f reporterFigures, err error) {
	self, err := os.Executable()
	if err != nil {
		return f, err
	}
	cmd := exec.CommandContext(ctx, self, reportersCommand, l.URL)
	cmd.Stdin, cmd.Stderr = strings.NewReader(l.agents+"\n"), os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return f, err
	}
	return f, json.NewDecoder(bytes.NewReader(out)).Decode(&f)
}

// fillLog adds the rows to the database of a server that does not run.
func fillLog(ctx context.Context, dir string) error {
	db, err := store.Open(ctx, dir)
	if err != nil {
		return err
	}
	maker := newRowMaker(time.Now().Add(-80 * 24 * time.Hour))
	for made := 0; made < logRows && err == nil; {
		err = db.WriteConnections(ctx, false, func(tx *store.ConnTx) error {
			for range 20_000 {
				row := maker.next(made)
				if err := tx.Insert(ctx, &row); err != nil {
					return err
				}
				made++
			}
			return nil
		})
	}
	return errors.Join(err, db.Close())
}

// rowMaker makes rows as a busy site has them: few workspaces and users have most, and
// so have few reasons. The oldest rows have values of their own.
type rowMaker struct {
	rng               *rand.Rand
	at                time.Time
	workspaces, users *rand.Zipf
	reasons           *rand.Zipf
	owners            []store.LoggedUser
}

// logReasons, the most frequent first; the last one is that of the oldest rows.
var logReasons = []disconnect.Reason{
	disconnect.Graceful, disconnect.ProcessExited, disconnect.ClientClosed, disconnect.NetworkTimeout,
	disconnect.ServerShutdown, disconnect.NetworkError, disconnect.PeerCrashed, disconnect.IdleTimeout, disconnect.WorkspaceStopped,
}

const oldestReason = disconnect.AuthExpired

func newRowMaker(begin time.Time) *rowMaker {
	rng := rand.New(rand.NewPCG(1, 1))
	m := &rowMaker{
		rng: rng, at: begin, workspaces: rand.NewZipf(rng, 1.2, 1, logWorkspaces-1), users: rand.NewZipf(rng, 1.2, 1, logUsers-1),
		reasons: rand.NewZipf(rng, 1.3, 1, uint64(len(logReasons)-1)),
	}
	for i := range logUsers + 1 { // the last one is that of the oldest rows
		m.owners = append(m.owners, store.LoggedUser{ID: uuid.NewSHA1(uuid.Nil, []byte{byte(i)}).String(), Name: fmt.Sprintf("user-%d", i)})
	}
	return m
}

func (m *rowMaker) next(i int) store.Connection {
	m.at = m.at.Add(time.Duration(m.rng.Int64N(int64(13 * time.Second))))
	ws, apps := m.workspaces.Uint64(), []string{"", "", "openssh", "vscode", "fairlead"}
	c := store.Connection{
		ID: uuid.NewString(), ConnectType: disconnect.AgentToClient, Type: store.ConnType(1 + m.rng.IntN(5)), App: apps[m.rng.IntN(len(apps))],
		Workspace: store.LoggedWorkspace{ID: fmt.Sprintf("00000000-0000-4000-8000-%012d", ws), Name: fmt.Sprintf("ws-%d", ws), Owner: m.owners[ws%logUsers]},
		User:      m.owners[m.users.Uint64()], Instance: "bench", IP: "192.0.2.1", ClientVersion: "SSH-2.0-OpenSSH_9.2p1", Path: store.PathDirect,
		ConnectedAt: m.at, ObservedAt: m.at, BytesSent: m.rng.Int64N(1 << 30), BytesReceived: m.rng.Int64N(1 << 20),
	}
	reason := logReasons[m.reasons.Uint64()]
	switch {
	case i < logOldest:
		c.Workspace = store.LoggedWorkspace{ID: "00000000-0000-4000-8000-000000000000", Name: "ws-0", Owner: m.owners[0]}
		c.App, c.User, c.Type, reason = "oldest", m.owners[logUsers], store.TypeUnspecified, oldestReason
	case i%10 == 0:
		c.ConnectType, c.Type, c.App, c.Workspace = disconnect.ClientToServer, store.TypeControl, "", store.LoggedWorkspace{}
	case i%10 == 1:
		c.ConnectType, c.Type, c.App, c.User = disconnect.ServerToAgent, store.TypeControl, "", store.LoggedUser{}
	}
	if c.Status = store.StatusOpen; i < logRows-300 && i%200_000 != 1000 { // nearly all have ended
		c.Status, c.DisconnectedAt = store.StatusClosed, m.at.Add(time.Duration(m.rng.Int64N(int64(time.Hour))))
		c.EndObservedAt = c.DisconnectedAt
		who := []disconnect.Initiator{disconnect.Client, disconnect.Agent, disconnect.Network, disconnect.Server}
		c.Ending = disconnect.Attribution{ConnectType: c.ConnectType, Reason: reason, Initiator: who[m.rng.IntN(4)], Detail: "exit status 7"}
	}
	return c
}

// logQuery is one question to the log.
type logQuery struct {
	name string
	sdk.ConnectionQuery
}

// logQueries are all single filters, and a workspace with each of them: for values that
// most rows have, that only the oldest have, and that none has.
func logQueries() (all []logQuery) {
	add := func(name string, q sdk.ConnectionQuery) {
		all = append(all, logQuery{name, q})
		q.Workspace = "user-0/ws-0" // the largest
		all = append(all, logQuery{strings.TrimPrefix("workspace + "+name, "workspace + no filter"), q})
	}
	add("no filter", sdk.ConnectionQuery{})
	for value, what := range map[string]string{"user-0": "common", fmt.Sprintf("user-%d", logUsers): "oldest only", "nobody": "none"} {
		add("user, "+what, sdk.ConnectionQuery{User: value})
	}
	for value, what := range map[string]string{"vscode": "common", "oldest": "oldest only", "nothing": "none"} {
		add("app, "+what, sdk.ConnectionQuery{App: value})
	}
	for value, what := range map[string]string{"ssh": "common", "unspecified": "oldest only"} {
		add("type, "+what, sdk.ConnectionQuery{Type: value})
	}
	for value, what := range map[disconnect.Reason]string{disconnect.Graceful: "common", oldestReason: "oldest only", disconnect.DuplicateAgent: "none"} {
		add("reason, "+what, sdk.ConnectionQuery{Reason: value.String()})
	}
	for _, value := range []string{"client", "network"} {
		add("initiator "+value, sdk.ConnectionQuery{Initiator: value})
	}
	for _, value := range []string{"true", "false"} {
		add("expected "+value, sdk.ConnectionQuery{Expected: value})
	}
	for _, value := range []string{"agent_to_client", "client_to_server", "server_to_agent"} {
		add("connect type "+value, sdk.ConnectionQuery{ConnectType: value})
	}
	for _, value := range []string{"open", "closed", "unheard"} {
		add("status "+value, sdk.ConnectionQuery{Status: value})
	}
	add("id, common", sdk.ConnectionQuery{ID: "00ab"})
	add("id, none", sdk.ConnectionQuery{ID: "00abcdef-ffff"})
	add("until, oldest only", sdk.ConnectionQuery{Until: time.Now().Add(-79 * 24 * time.Hour)})
	add("since, none", sdk.ConnectionQuery{Since: time.Now().Add(time.Hour)})
	add("since and until", sdk.ConnectionQuery{Since: time.Now().Add(-40 * 24 * time.Hour), Until: time.Now().Add(-39 * 24 * time.Hour)})
	slices.SortFunc(all, func(a, b logQuery) int { return strings.Compare(a.name, b.name) })
	for i := range all {
		if all[i].name == "" {
			all[i].name = "workspace"
		}
	}
	return all
}

// query asks the API for pages of 100 rows and prints the slowest questions.
func (l *logSite) query(ctx context.Context) error {
	type answer struct {
		name     string
		p50, p99 float64
		rows     int
	}
	var answers []answer
	var samples, others []float64
	queries := logQueries()
	took, rows := make([][]float64, len(queries)), make([]int, len(queries))
	for range logSamples { // in turns, so that all see the same noise
		begin := time.Now()
		if _, err := l.api.WhoAmI(ctx); err != nil {
			return err
		}
		others = append(others, milliseconds(time.Since(begin)))
		for i, q := range queries {
			q.Limit = 100
			begin := time.Now()
			page, err := l.api.Connections(ctx, q.ConnectionQuery)
			if err != nil {
				return fmt.Errorf("%s: %w", q.name, err)
			}
			took[i] = append(took[i], milliseconds(time.Since(begin)))
			rows[i] = len(page.Connections)
		}
	}
	for i, q := range queries {
		samples = append(samples, took[i]...)
		slices.Sort(took[i])
		answers = append(answers, answer{q.name, quantile(took[i], 0.5), quantile(took[i], 0.99), rows[i]})
	}
	slices.Sort(others)
	slices.SortFunc(answers, func(a, b answer) int { return int((b.p99 - a.p99) * 1000) })
	slices.Sort(samples)
	fmt.Printf("| page of 100 of %d rows, over HTTP (ms) | rows | p50 | p99 |\n|---|---|---|---|\n", logRows)
	fmt.Printf("| all %d questions | | %.1f | %.1f |\n", len(answers), quantile(samples, 0.5), quantile(samples, 0.99))
	fmt.Printf("| for comparison: `fairlead whoami` | | %.1f | %.1f |\n", quantile(others, 0.5), quantile(others, 0.99))
	for _, a := range answers[:12] {
		fmt.Printf("| %s | %d | %.1f | %.1f |\n", a.name, a.rows, a.p50, a.p99)
	}
	fmt.Println()
	return nil
}
