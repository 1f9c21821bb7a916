package main

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
)

// table collects samples by row and prints medians with their spread. The ratio of a
// row is to the first.
type table struct {
	title, unit string
	rows        []string
	samples     map[string][]float64
}

func newTable(title, unit string) *table {
	return &table{title: title, unit: unit, samples: map[string][]float64{}}
}

func (t *table) add(row string, samples []float64) {
	if _, known := t.samples[row]; !known {
		t.rows = append(t.rows, row)
	}
	t.samples[row] = append(t.samples[row], samples...)
}

func (t *table) print() {
	fmt.Printf("| %s (%s) | n | min | p50 | p99 | max | p50 ratio |\n|---|---|---|---|---|---|---|\n", t.title, t.unit)
	var base float64
	for i, row := range t.rows {
		s := slices.Sorted(slices.Values(t.samples[row]))
		p50 := quantile(s, 0.5)
		if i == 0 {
			base = p50
		}
		fmt.Printf("| %s | %d | %.2f | %.2f | %.2f | %.2f | %.2f |\n", row, len(s), s[0], p50, quantile(s, 0.99), s[len(s)-1], p50/base)
	}
	fmt.Println()
}

// quantile of sorted samples, by the nearest rank.
func quantile(sorted []float64, q float64) float64 {
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}

// machine names what the figures were measured on.
func machine() string {
	model := "unknown CPU"
	if data, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.SplitSeq(string(data), "\n") {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	return fmt.Sprintf("%d CPUs (%s), %s", runtime.NumCPU(), model, runtime.Version())
}
