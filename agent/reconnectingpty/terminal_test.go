//go:build unix

package reconnectingpty_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/charmbracelet/x/vt"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"fairlead.dev/fairlead/agent/reconnectingpty"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/pty"
)

const patience = 60 * time.Second

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	usual    = pty.Size{Rows: 24, Cols: 80}
	shutdown = disconnect.Attribution{
		ConnectType: disconnect.AgentToClient, Reason: disconnect.ServerShutdown, Initiator: disconnect.Agent, Detail: "test is over",
	}
)

// agent keeps terminals of one user.
type agent struct {
	*reconnectingpty.Manager
	t   testing.TB
	dir string // for programs to find each other
}

func newAgent(t testing.TB, cfg reconnectingpty.Config) *agent {
	t.Helper()
	a := &agent{reconnectingpty.New(cfg), t, t.TempDir()}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		a.Close(ctx, shutdown)
	})
	return a
}

// attach attaches to a terminal that runs command if it is not there.
func (a *agent) attach(name, command string, size pty.Size, takeOver bool) *reconnectingpty.Viewer {
	a.t.Helper()
	tty, err := pty.Open()
	require.NoError(a.t, err)
	require.NoError(a.t, tty.Resize(size))
	v, err := a.Attach(reconnectingpty.Request{
		User: "ann", Name: name, Terminal: tty, TakeOver: takeOver, Title: command,
		Command: func() *exec.Cmd {
			cmd := exec.Command("/bin/sh", "-c", command)
			cmd.Env = append(os.Environ(), "TERM=xterm-256color", "PS1=$ ", "LC_ALL=C.UTF-8", "LESSHISTFILE=-", "HOME="+a.dir)
			cmd.Dir = a.dir
			return cmd
		},
	})
	require.NoError(a.t, err)
	a.t.Cleanup(func() { _ = v.Close() })
	return v
}

// screen is a viewer's terminal emulator.
type screen struct {
	*reconnectingpty.Viewer
	t    testing.TB
	done chan struct{} // closed when the attachment is over and all was shown

	mu  sync.Mutex // guards all below
	emu *vt.Emulator
	raw strings.Builder
	dim bool // the emulator, which is slow, sees nothing
}

func (a *agent) look(v *reconnectingpty.Viewer, size pty.Size) *screen {
	return a.watch(v, size, false)
}

// collect attaches without an emulator.
func (a *agent) collect(name string, size pty.Size) *screen {
	return a.watch(a.attach(name, "", size, false), size, true)
}

func (s *screen) awaitRaw(text string) {
	s.t.Helper()
	eventually(s.t, text, func() bool { return strings.Contains(s.all(), text) })
}

func (a *agent) watch(v *reconnectingpty.Viewer, size pty.Size, dim bool) *screen {
	s := &screen{Viewer: v, t: a.t, dim: dim, done: make(chan struct{}), emu: vt.NewEmulator(int(size.Cols), int(size.Rows))}
	answers := make(chan struct{})
	go func() {
		defer close(answers)
		b := make([]byte, 1024)
		for {
			if _, err := s.emu.Read(b); err != nil {
				return
			}
		}
	}()
	go func() {
		defer close(s.done)
		_, _ = io.Copy(struct{ io.Writer }{s}, struct{ io.Reader }{v})
	}()
	a.t.Cleanup(func() {
		_ = v.Close()
		<-s.done
		_ = s.emu.InputPipe().(io.Closer).Close()
		<-answers
		if a.t.Failed() {
			a.t.Logf("screen:\n%s", s.show())
		}
	})
	return s
}

// open attaches and looks.
func (a *agent) open(name, command string, size pty.Size) *screen {
	a.t.Helper()
	return a.look(a.attach(name, command, size, false), size)
}

// Write implements io.Writer for what is to be shown.
func (s *screen) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.raw.Write(b)
	if s.dim {
		return len(b), nil
	}
	return s.emu.Write(b)
}

func (s *screen) show() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.emu.CursorPosition()
	return fmt.Sprintf("%s\ncursor %d,%d alternate %v", s.emu.Render(), p.X, p.Y, s.emu.IsAltScreen())
}

func (s *screen) all() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.raw.String()
}

func (s *screen) kind(keys string) {
	s.t.Helper()
	_, err := io.WriteString(s.Viewer, keys)
	require.NoError(s.t, err)
}

func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	require.Eventually(t, f, patience, 20*time.Millisecond, what)
}

func (s *screen) await(text string) {
	s.t.Helper()
	eventually(s.t, text+" on the screen", func() bool { return strings.Contains(s.show(), text) })
}

// settled waits until the screen has not changed for a while, and returns it.
func (s *screen) settled() string {
	s.t.Helper()
	last, since := s.show(), time.Now()
	eventually(s.t, "a screen that does not change", func() bool {
		if now := s.show(); now != last {
			last, since = now, time.Now()
		}
		return time.Since(since) > 200*time.Millisecond
	})
	return last
}

// shows waits for a screen.
func (s *screen) shows(want string) {
	s.t.Helper()
	eventually(s.t, "the screen as it was", func() bool { return s.show() == want })
}

const repainter = `
paint() { stty size | { read r c; printf '\033[2J'; i=1; while [ $i -le $r ]; do printf '\033[%d;1H\033[3%dm%d of %d by %d' $i $((i%8)) $i $r $c; i=$((i+1)); done; }; }
trap paint WINCH
printf '\033[?1049h\033[?25l\033[?1000h'
paint
while :; do read x; done
`

// After reattaching, the screen is what it was before.
func TestTheScreenIsWhatItWas(t *testing.T) {
	vim, _ := exec.LookPath("vim")
	less, _ := exec.LookPath("less")
	for _, test := range []struct {
		name, command, skip string
		drive               func(s *screen)
	}{
		{"shell", "exec /bin/sh -i", "", func(s *screen) {
			s.await("$\n")
			s.kind("i=0; while [ $i -lt 40 ]; do printf '\\033[3%dmline %d\\033[0m\\n' $((i%8)) $i; i=$((i+1)); done; echo de''ad\r")
			s.await("dead")
			s.kind("echo unfinished")
			s.await("echo unfinished")
		}},
		{"less", "seq 1 5000 > f; exec less f", less, func(s *screen) {
			s.await("23\n")
			for _, step := range []struct{ key, last string }{{" ", "46\n"}, {" ", "69\n"}, {"j", "70\n"}} {
				s.settled() // less drops what is typed while it paints
				s.kind(step.key)
				s.await(step.last)
			}
		}},
		{"vim", "seq 1 500 > f; exec vim -u NONE -N -c 'set ruler' f", vim, func(s *screen) {
			s.await("500L")
			s.kind("100Gzzix\x1b")
			s.await("x100")
		}},
		{"full screen", repainter, "sh", func(s *screen) { s.await("24 of 24 by 80") }},
		{"100,000 lines", "seq 1 100000; printf 'the \\033[1mend\\033[0m '; read x", "sh", func(s *screen) { s.await("end") }},
		{"wide and combining", "i=0; while [ $i -lt 60 ]; do printf '\u6f22\u5b57 e\u0301 \U0001f600 \uac00 %d\\n' $i; i=$((i+1)); done; printf '\u5b57\u5b57'; read x", "sh", func(s *screen) { s.await(" 59") }},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.name == "less" && less == "" || test.name == "vim" && vim == "" {
				t.Skip("it is not installed")
			}
			// Less than the program wrote, so that most of it is forgotten.
			a := newAgent(t, reconnectingpty.Config{History: 64 << 10})
			first := a.open("main", test.command, usual)
			test.drive(first)
			before := first.settled()
			require.NoError(t, first.Viewer.Close())
			<-first.done

			second := a.open("main", "echo must not be started", usual)
			second.shows(before)
			require.Equal(t, before, second.settled())

			// And at another size, the same as for who was there when it changed.
			other := pty.Size{Rows: 17, Cols: 61}
			third := a.open("main", "echo must not be started", other)
			third.settled()
			fourth := a.open("main", "echo must not be started", other)
			fourth.shows(third.settled())
		})
	}
}

// Who leaves the alternate screen after reattaching finds the main screen as it was.
func TestTheMainScreenIsBehindTheAlternateOne(t *testing.T) {
	a := newAgent(t, reconnectingpty.Config{})
	first := a.open("main", `printf 'before\nall\n'; printf '\033[?1049h\033[2J\033[Hhidden'; read x; printf '\033[?1049l'; echo after; read x`, usual)
	first.await("hidden")
	require.NoError(t, first.Viewer.Close())
	second := a.open("main", "", usual)
	second.await("hidden")
	second.kind("\r")
	second.await("after")
	shown := second.settled()
	require.Contains(t, shown, "before")
	require.NotContains(t, shown, "hidden")
	third := a.open("main", "", usual)
	third.shows(shown)
}

// What the program set holds for who comes later, and nothing is answered twice.
func TestModesAreToldFirstAndQuestionsAreNotRepeated(t *testing.T) {
	a := newAgent(t, reconnectingpty.Config{})
	first := a.open("main", `printf '\033[?2004h\033[?1002h\033[?1006h\033]2;a title\007\033[6n\007\033[5 q'; read x`, usual)
	eventually(t, "all of it", func() bool { return strings.Contains(first.all(), "\x1b[5 q") })
	require.NoError(t, first.Viewer.Close())
	second := a.open("main", "", usual)
	eventually(t, "the modes", func() bool {
		s := second.all()
		return strings.Contains(s, "\x1b[?2004h") && strings.Contains(s, "\x1b[?1002h") && strings.Contains(s, "\x1b[?1006h") &&
			strings.Contains(s, "]2;a title") && strings.Contains(s, "\x1b[5 q")
	})
	require.NotContains(t, second.all(), "\x1b[6n")
	require.Equal(t, "a title", a.List("ann")[0].Title)
}

func TestSeveralViewersSeeTheSameAndTheLatestHasTheSize(t *testing.T) {
	a := newAgent(t, reconnectingpty.Config{})
	first := a.open("main", `trap 'stty size' WINCH; while :; do read x && echo "got $x"; done`, usual)
	first.kind("one\r")
	first.await("got one")
	second := a.open("main", "", pty.Size{Rows: 30, Cols: 100})
	second.await("got one")
	second.kind("two\r")
	first.await("got two")
	first.await("30 100")
	require.NoError(t, first.Resize(pty.Size{Rows: 20, Cols: 70}))
	first.kind("\r") // dash runs a trap when read returns
	second.await("20 70")
	require.NoError(t, first.Viewer.Close())
	second.kind("\r")
	second.await("30 100")
	require.Equal(t, 1, a.List("ann")[0].Viewers)
}

func TestTakeOverTellsTheLoser(t *testing.T) {
	a := newAgent(t, reconnectingpty.Config{})
	first := a.open("main", "read x", usual)
	a.attach("main", "", usual, true)
	state, why := first.Wait()
	require.Nil(t, state)
	require.Equal(t, disconnect.SessionReplaced, why.Reason)
	require.Equal(t, disconnect.Client, why.Initiator)
	<-first.done
	_, err := first.Viewer.Write([]byte("x"))
	require.ErrorIs(t, err, os.ErrClosed)
}

// A viewer whose terminal shows something else is shown the state again, and nobody else.
func TestRefresh(t *testing.T) {
	a := newAgent(t, reconnectingpty.Config{})
	first := a.open("main", `printf 'one\ntwo\n'; read x; echo got $x; read x`, usual)
	first.await("two")
	other := a.open("main", "", usual)
	other.await("two")
	before, shown := first.settled(), len(other.all())
	_, err := first.Write([]byte("\x1b[Hspoilt"))
	require.NoError(t, err)
	require.NotEqual(t, before, first.show())
	first.Refresh()
	first.shows(before)
	require.Len(t, other.all(), shown)
	first.kind("it\r")
	other.await("got it")
	first.shows(other.settled())
	require.NoError(t, first.Viewer.Close())
	first.Refresh()
}

// A viewer that reads nothing holds up nobody, and is dropped.
func TestSlowViewerIsDropped(t *testing.T) {
	a := newAgent(t, reconnectingpty.Config{SlowLimit: 300 * time.Millisecond})
	stuck := a.attach("main", "while read x; do seq 1 100000; echo al''l; done", usual, false)
	first := a.collect("main", usual)
	first.kind("go\r")
	first.awaitRaw("all")
	eventually(t, "one viewer", func() bool {
		first.kind("go\r")
		return a.List("ann")[0].Viewers == 1
	})
	state, why := stuck.Wait()
	require.Nil(t, state)
	require.Equal(t, disconnect.SlowPeer, why.Reason)
	require.Equal(t, disconnect.Client, why.Initiator)
	require.Equal(t, 1, a.List("ann")[0].Viewers)
}

// A viewer that reads, but less than others, misses some and has the right screen.
func TestOvertakenViewerIsShownTheState(t *testing.T) {
	a := newAgent(t, reconnectingpty.Config{History: 64 << 10})
	slow := a.attach("main", "read go; seq 1 200000; echo al''l; read x", usual, false)
	b := make([]byte, 64<<10)
	_, err := slow.Read(b)
	require.NoError(t, err)
	first := a.collect("main", usual)
	first.kind("go\r")
	first.awaitRaw("all")
	reference := a.open("main", "", usual)
	reference.await("all")
	late := a.look(slow, usual)
	late.shows(reference.settled())
	require.Less(t, len(late.all()), 100_000)
}

// Alone, a viewer that does not read holds up the program as every terminal does, until
// it is dropped; nothing is lost before.
func TestProgramWaitsForItsOnlyViewer(t *testing.T) {
	a := newAgent(t, reconnectingpty.Config{})
	v := a.attach("main", "seq 1 200000; touch written; read x", usual, false)
	b := make([]byte, 100)
	_, err := v.Read(b)
	require.NoError(t, err)
	require.Never(t, func() bool {
		_, err := os.Stat(filepath.Join(a.dir, "written"))
		return err == nil
	}, 300*time.Millisecond, 50*time.Millisecond)
	s := a.watch(v, usual, true)
	s.awaitRaw("\n200000\r")
	for _, n := range []string{"2", "60000", "100000"} {
		require.Equal(t, 1, strings.Count(s.all(), "\n"+n+"\r"), n)
	}
}

func TestEndOfTheProgramIsToldWithAllItsOutput(t *testing.T) {
	a := newAgent(t, reconnectingpty.Config{})
	s := a.open("main", "seq 1 2000; exit 3", usual)
	state, why := s.Wait()
	require.NotNil(t, state)
	require.Equal(t, 3, state.ExitCode())
	require.True(t, why.IsZero())
	<-s.done
	require.Contains(t, s.show(), "2000\n")
	require.Empty(t, a.List("ann"))
	again := a.open("main", "echo a new one; read x", usual)
	again.await("a new one")
	require.NotContains(t, again.all(), "2000")
}

func TestNobodyAttachedForTooLong(t *testing.T) {
	a := newAgent(t, reconnectingpty.Config{DetachedLimit: 300 * time.Millisecond})
	v := a.attach("main", "read x", usual, false)
	require.Nil(t, a.List("ann")[0].Detached)
	again := a.attach("main", "", usual, false)
	require.NoError(t, v.Close())
	require.Never(t, func() bool { return len(a.List("ann")) == 0 }, 600*time.Millisecond, 50*time.Millisecond)
	require.NoError(t, again.Close())
	require.NotNil(t, a.List("ann")[0].Detached)
	eventually(t, "its end", func() bool { return len(a.List("ann")) == 0 })
}

func TestKill(t *testing.T) {
	a := newAgent(t, reconnectingpty.Config{KillGrace: 200 * time.Millisecond})
	v := a.attach("main", "trap '' HUP; while :; do sleep 1000; done", usual, false)
	require.ErrorIs(t, a.Kill("bob", "main"), reconnectingpty.ErrNotFound)
	require.NoError(t, a.Kill("ann", "main"))
	_, why := v.Wait()
	require.Equal(t, disconnect.ClientClosed, why.Reason)
	require.Equal(t, disconnect.Client, why.Initiator)
	require.ErrorIs(t, a.Kill("ann", "main"), reconnectingpty.ErrNotFound)
}

// The right of a user ends their terminals, with a viewer or without, and no others.
func TestEndUser(t *testing.T) {
	a := newAgent(t, reconnectingpty.Config{})
	seen := a.attach("seen", "read x", usual, false)
	require.NoError(t, a.attach("left", "read x", usual, false).Close())
	require.Equal(t, []string{"ann"}, a.Users())
	revoked := disconnect.Attribution{ConnectType: disconnect.AgentToClient, Reason: disconnect.AuthRevoked, Initiator: disconnect.Server}
	a.EndUser("bob", revoked)
	require.Len(t, a.List("ann"), 2)
	a.EndUser("ann", revoked)
	_, why := seen.Wait()
	require.Equal(t, revoked, why)
	eventually(t, "their ends", func() bool { return len(a.List("ann")) == 0 })
	require.Empty(t, a.Users())
}

func TestCloseTellsViewers(t *testing.T) {
	a := newAgent(t, reconnectingpty.Config{})
	s := a.open("main", "trap '' HUP; while :; do sleep 1000; done", usual)
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	a.Close(ctx, shutdown)
	state, why := s.Wait()
	require.Nil(t, state)
	require.Equal(t, shutdown, why)
	tty, err := pty.Open()
	require.NoError(t, err)
	_, err = a.Attach(reconnectingpty.Request{User: "ann", Name: "main", Terminal: tty})
	require.ErrorContains(t, err, "server_shutdown")
}

func TestWhatIsRefused(t *testing.T) {
	a := newAgent(t, reconnectingpty.Config{MaxTerminals: 1})
	a.attach("main", "read x", usual, false)
	for name, want := range map[string]string{"": "cannot be the name", "-x": "cannot be the name", "a b": "cannot be the name", "other": "limit_exceeded"} {
		tty, err := pty.Open()
		require.NoError(t, err)
		_, err = a.Attach(reconnectingpty.Request{User: "ann", Name: name, Terminal: tty})
		require.ErrorContains(t, err, want)
	}
	require.Empty(t, a.List("bob"))
}

// A program that does not read does not keep who types from leaving.
func TestInputThatNobodyReads(t *testing.T) {
	a := newAgent(t, reconnectingpty.Config{KillGrace: 100 * time.Millisecond})
	v := a.attach("main", "stty raw -echo; exec sleep 1000", usual, false)
	wrote := make(chan error, 1)
	go func() {
		for {
			if _, err := v.Write(make([]byte, 4096)); err != nil {
				wrote <- err
				return
			}
		}
	}()
	time.AfterFunc(300*time.Millisecond, func() { _ = v.Close() })
	require.ErrorIs(t, <-wrote, os.ErrClosed)
}
