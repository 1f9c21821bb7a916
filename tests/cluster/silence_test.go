package cluster

import (
	"fmt"
	"io"
	"strings"
	"syscall"
	"testing"

	"github.com/charmbracelet/x/vt"
	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/tests/site"
)

// screenOf is what a terminal of 80x24 shows after so much output.
func screenOf(t *testing.T, term *site.Terminal) string {
	t.Helper()
	emulator := vt.NewEmulator(80, 24)
	drained := make(chan struct{})
	go func() { // its answers, which nobody wants
		defer close(drained)
		b := make([]byte, 1024)
		for {
			if _, err := emulator.Read(b); err != nil {
				return
			}
		}
	}()
	_, err := emulator.Write([]byte(term.Out.String()))
	require.NoError(t, err)
	at := emulator.CursorPosition()
	shown := fmt.Sprintf("%s\ncursor %d,%d", emulator.Render(), at.X, at.Y)
	require.NoError(t, emulator.InputPipe().(io.Closer).Close()) // not the emulator itself, which races with Read
	<-drained
	return shown
}

// repainter paints the whole screen, and again when its size changes, until there is a
// file for it.
const repainter = `
paint() {
	printf '\033[H\033[2J'
	for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do printf '\033[%d;1Hrow %d' $i $i; done
	printf '\033[24;1H<%s>' shown
}
trap paint WINCH
printf '\033[?1049h'
paint
while ! [ -e ~/enough ]; do sleep 0.1; done
rm ~/enough
printf '\033[?1049l'
`

const silence = "silent since "

// TestSilenceIsShown: while the agent is silent the terminal says so and keys are dropped;
// when it is back the screen is what it was, and what is typed then counts.
func TestSilenceIsShown(t *testing.T) {
	t.Parallel()
	s := site.New(t)
	s.Write("repaint", repainter)
	for _, test := range []struct{ name, command, paint string }{
		{"attach", "attach", `for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30; do printf 'line %d\n' $i; done; printf 'all <%s>' shown`},
		{"a program that repaints", "attach", "sh ~/repaint"},
		{"a program that repaints, without attach", "ssh", "sh ~/repaint"},
		{"ssh, a screen full of lines", "ssh", `for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30; do printf '\033[3%dmline\033[0m %d\n' 2 $i; done; printf 'all <%s>' shown`},
		{"ssh", "ssh", `printf '\033[H\033[2J\n\n\n<%s>' shown`},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := s.With(t)
			term := h.OnTerminal(test.command, "dev")
			term.Echo("ready")
			term.Type("PS1=; stty -echo; " + test.paint + "\r")
			term.Out.AwaitText(t, "<shown>")
			var before string
			site.Eventually(t, "a screen that stays", func() bool {
				last := before
				before = screenOf(t, term)
				return last == before
			})
			require.NotContains(t, before, silence)

			s.Agent.Freeze()
			term.Out.AwaitText(t, silence)
			term.Type("printf '<%s>' bad\r")
			term.Out.AwaitText(t, "keys not sent (18)")
			during := screenOf(t, term)
			require.Contains(t, strings.SplitN(during, "\n", 2)[0], silence)
			require.Contains(t, during, "; ~. leaves")
			require.Regexp(t, `, (server hears it|server lost it|agent is gone);`, during)
			require.Contains(t, during, "<shown>", "the rest is as it was")

			s.Agent.Signal(syscall.SIGCONT)
			site.Eventually(t, "the screen as it was", func() bool { return screenOf(t, term) == before })
			if test.paint == "sh ~/repaint" {
				h.Write("enough", "")
			}
			term.Echo("back")
			require.NotContains(t, term.Out.String(), "<bad>")
			term.Type("exit 3\r")
			require.Equal(t, 3, term.Wait())
		})
	}
}

// TestLeavingASilentWorkspace: at once, and it is not called the user's choice.
func TestLeavingASilentWorkspace(t *testing.T) {
	t.Parallel()
	s := site.New(t)
	term := s.OnTerminal("attach", "dev")
	term.Echo("ready")
	s.Agent.Freeze()
	term.Out.AwaitText(t, silence)
	term.Type("x~.")
	require.Equal(t, 255, term.Wait())
	require.Contains(t, term.Out.String(), "reason=network_timeout initiator=network expected=false")
	require.Contains(t, term.Out.String(), "come back with: ")
	require.NotContains(t, screenOf(t, term), silence)
	s.Agent.Signal(syscall.SIGCONT)
}

// TestTerminalsAreOffered: to who lost a shell in a workspace where a terminal of theirs
// was still there, and to nobody else.
func TestTerminalsAreOffered(t *testing.T) {
	t.Parallel()
	s := site.New(t)
	kept := s.OnTerminal("attach", "dev", "--session", "build")
	kept.Echo("begun")
	kept.Type("\r~.")
	require.Equal(t, 0, kept.Wait())
	bob := s.NewUser("bob")
	s.Must("workspace", "share", "dev", "bob")

	mine := s.OpenShell("dev", "--outage-limit", "7s")
	his := bob.OpenShell("admin/dev", "--outage-limit", "7s")
	clean := s.OpenShell("dev")
	const offer = "was still there when "
	mine.Type("sleep 5; printf '<%s>' beat\r") // the agent tells of them every 2 s
	mine.Out.AwaitText(t, "<beat>")
	clean.Type("exit\r")
	require.Equal(t, 0, clean.Wait())
	require.NotContains(t, clean.Out.String(), offer)
	s.Agent.Freeze()
	for _, term := range []*site.Terminal{mine, his} {
		require.Equal(t, 255, term.Wait())
		require.Contains(t, term.Out.String(), "reason=network_timeout")
	}
	require.Contains(t, mine.Out.String(), "fairlead: your terminal build was still there when dev was last heard from; go on there with: ")
	require.Contains(t, mine.Out.String(), " attach dev --session build\r\n")
	require.NotContains(t, his.Out.String(), offer)
	s.Agent.Signal(syscall.SIGCONT)
}
