package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/disconnect"
)

func TestPageIsCurrent(t *testing.T) {
	page, err := os.ReadFile("../../docs/disconnects.md")
	require.NoError(t, err)
	require.Equal(t, string(render()), string(page), "stale: run go generate ./disconnect")
}

func TestPageHoldsEveryWord(t *testing.T) {
	file := filepath.Join(t.TempDir(), "page.md")
	require.NoError(t, run([]string{"docgen", file}))
	page, err := os.ReadFile(file)
	require.NoError(t, err)
	for _, r := range disconnect.Reasons() {
		require.Contains(t, string(page), "`"+r.String()+"`")
		require.Contains(t, string(page), r.Sentence())
	}
	for _, i := range disconnect.Initiators() {
		require.Contains(t, string(page), "`"+i.String()+"`")
	}
}

func TestUsage(t *testing.T) {
	require.ErrorContains(t, run([]string{"docgen"}), "usage")
}
