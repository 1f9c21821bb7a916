package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"

	"fairlead.dev/fairlead/pty"
)

// painter is a program on the alternate screen that paints all of it when its size
// changes; lastRow ends what it paints.
const (
	painter = `paint() { printf '\033[H\033[2J'; i=1; while [ $i -le 24 ]; do printf '\033[%d;1H\033[3%dmrow %d of 24' $i $((i%8)) $i; i=$((i+1)); done; }
trap paint WINCH
printf '\033[?1049h'
paint
while :; do read x; done`
	lastRow = "row 24 of 24"
)

// viewing is one way to attach.
type viewing struct {
	name string
	cmd  func() *exec.Cmd
}

// reportAttach times from process start to a whole screen of a program that has been there
// before, which another viewer left.
func (b *bench) reportAttach() error {
	script := b.lab.Write("painter", painter)
	socket := b.lab.Path("tmux")
	ways := []viewing{
		{"OpenSSH and tmux, plain loopback", func() *exec.Cmd {
			return b.lab.ssh("-t", "tmux -S "+socket+" new-session -A 'exec sh "+script+"'")
		}},
		{"fairlead attach, direct", func() *exec.Cmd { return b.lab.Command(b.ctx, "attach", "dev", "--", "sh", script) }},
		{"fairlead attach, relayed", func() *exec.Cmd { return b.lab.Command(b.ctx, "attach", "--force-relay", "dev", "--", "sh", script) }},
	}
	if _, err := exec.LookPath("tmux"); err != nil {
		ways = ways[1:]
	}
	defer func() { _ = exec.Command("tmux", "-S", socket, "kill-server").Run() }() // it may not be there
	table := newTable("attach, from process start to a whole screen", "ms")
	for round := range b.rounds + 1 {
		for _, way := range ways {
			took, err := firstScreen(way.cmd())
			if err != nil {
				return fmt.Errorf("%s: %w", way.name, err)
			}
			if round > 0 { // the first one starts the program
				table.add(way.name, []float64{milliseconds(took)})
			}
		}
	}
	table.print()
	return nil
}

// firstScreen runs a viewer until its screen is whole, and then crashes it.
func firstScreen(cmd *exec.Cmd) (took time.Duration, err error) {
	tty, err := pty.Open()
	if err != nil {
		return 0, err
	}
	defer tty.Close()
	if cmd.Env == nil {
		cmd.Env = os.Environ()
	}
	cmd.Env = append(cmd.Env[:len(cmd.Env):len(cmd.Env)], "TERM=xterm-256color")
	if err := tty.Resize(pty.Size{Rows: 24, Cols: 80}); err != nil {
		return 0, err
	}
	began := time.Now()
	if err := tty.Start(cmd); err != nil {
		return 0, err
	}
	late := time.AfterFunc(30*time.Second, func() { _ = cmd.Process.Kill() })
	defer late.Stop()
	var shown []byte
	piece := make([]byte, 32<<10)
	for err == nil && !bytes.Contains(shown, []byte(lastRow)) {
		var n int
		n, err = tty.Read(piece)
		shown = append(shown, piece[:n]...)
	}
	took = time.Since(began)
	_ = cmd.Process.Kill()
	_ = cmd.Wait() // killed
	if err != nil {
		return 0, errors.Join(err, fmt.Errorf("it showed %q", shown))
	}
	return took, nil
}
