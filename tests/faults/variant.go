package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"fairlead.dev/fairlead/tests/faults/scenario"
)

// change is one that is made to a source file of the program under test. The file in the
// tree stays as it is: the compiler is given another by go build -overlay.
type change struct {
	file     string // from the module's root
	old, new string // the first old becomes new; no old: the file is added
}

// variants are programs that do what no input can make the real one do.
var variants = map[scenario.Variant][]change{
	scenario.Panics: {
		{"agent/agentssh/session.go", "flushed := s.await()", "s.spawn(s.panicAtSignal)\n\tflushed := s.await()"},
		{file: "agent/agentssh/faultlab.go", new: `package agentssh

import (
	"os"
	"os/signal"
	"syscall"
)

// panicAtSignal is the bug that the fault lab asks for: it lies in the session's own work.
func (s *session) panicAtSignal() {
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGUSR2)
	defer signal.Stop(asked)
	select {
	case <-asked:
		panic("the fault lab asked for it")
	case <-s.over:
	case <-s.gone:
	}
}
`},
	},
	scenario.Older: {{"control/link.go", `"fairlead-control-v1"`, `"fairlead-control-v0"`}},
}

// writeOverlay makes the overlay of some changes in dir, on top of the replacements that
// former has, and returns its file.
func writeOverlay(dir, former string, changes []change) (path string, err error) {
	root, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "fairlead.dev/fairlead").Output()
	if err != nil {
		return "", fmt.Errorf("find the module: %w", err)
	}
	replace, err := readOverlay(former)
	if err != nil {
		return "", err
	}
	for i, c := range changes {
		file := filepath.Join(strings.TrimSpace(string(root)), c.file)
		text := c.new
		if c.old != "" {
			source := file
			if replace[file] != "" {
				source = replace[file]
			}
			before, err := os.ReadFile(source)
			if err != nil {
				return "", err
			}
			if !strings.Contains(string(before), c.old) {
				return "", fmt.Errorf("%s has no %q to change", c.file, c.old)
			}
			text = strings.Replace(string(before), c.old, c.new, 1)
		}
		replace[file] = filepath.Join(dir, fmt.Sprintf("%d-%s", i, filepath.Base(c.file)))
		if err := os.WriteFile(replace[file], []byte(text), 0o600); err != nil {
			return "", err
		}
	}
	data, err := json.Marshal(overlay{replace})
	if err != nil {
		return "", err
	}
	path = filepath.Join(dir, "overlay.json")
	return path, os.WriteFile(path, data, 0o600)
}

// overlay is the file that go build -overlay reads.
type overlay struct{ Replace map[string]string }

// readOverlay returns what an overlay replaces; no path replaces nothing.
func readOverlay(path string) (map[string]string, error) {
	o := overlay{Replace: map[string]string{}}
	if path == "" {
		return o.Replace, nil
	}
	data, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(data, &o)
	}
	return o.Replace, err
}
