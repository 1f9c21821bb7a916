package scenario_test

import (
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/tests/faults/scenario"
)

// TestTableIsWhole: every row of the matrix, twenty of the lab's own, pairs and controls.
func TestTableIsWhole(t *testing.T) {
	rows, own, controls, names := map[int]bool{}, 0, 0, map[string]bool{}
	for _, s := range scenario.All() {
		require.False(t, names[s.Name], "two scenarios are called %s", s.Name)
		names[s.Name] = true
		rows[s.Row] = true
		switch {
		case s.Control:
			controls++
		case s.Row == 0:
			own++
		}
	}
	for row := range 50 {
		require.True(t, rows[row+1], "row %d of the matrix", row+1)
	}
	require.GreaterOrEqual(t, own, 20)
	require.GreaterOrEqual(t, controls, 4)
	s, ok := scenario.ByName("exit-3")
	require.True(t, ok)
	require.Equal(t, 2, s.Row)
	_, ok = scenario.ByName("exit")
	require.False(t, ok)
}

// TestEachScenarioIsOne: a name for files and hosts, a story, steps in order, a truth that
// goes with its fate, and time for it.
func TestEachScenarioIsOne(t *testing.T) {
	name := regexp.MustCompile(`^[a-z0-9-]{3,60}$`)
	for _, s := range scenario.All() {
		t.Run(s.Name, func(t *testing.T) {
			require.Regexp(t, name, s.Name)
			require.Regexp(t, `^[A-Z~k].*\.$`, s.Story)
			require.Contains(t, []scenario.Path{scenario.Direct, scenario.Relayed}, s.Path)
			require.NotZero(t, s.Final)
			require.NotZero(t, s.Provisional)
			require.NotZero(t, s.Limit)
			require.True(t, s.Cannot == "" != (len(s.Steps) == 0), "either steps or a reason why not")
			for i, step := range s.Steps {
				require.NotEmpty(t, step.Act.String())
				require.True(t, i == 0 || step.At >= s.Steps[i-1].At, "steps in the order of time")
			}
			ends := 0
			for _, w := range scenario.Witnesses {
				for _, say := range s.Truth.Of(w) {
					require.NotEmpty(t, say.By)
					if say.Leg == scenario.AC && say.Kind == scenario.Ending && !say.May {
						ends++
					}
				}
			}
			require.Equal(t, s.Truth.Fate == scenario.Ends, ends > 0, "an ending, if it ends")
			if s.Control {
				require.Equal(t, scenario.Truth{Fate: scenario.Lives}, s.Truth)
			}
		})
	}
}

// TestShortFormSurvives: what ends a session past the limit is an interruption before.
func TestShortFormSurvives(t *testing.T) {
	long, ok := scenario.ByName("agent-link-down-direct-long")
	require.True(t, ok)
	short, ok := scenario.ByName("agent-link-down-direct-short")
	require.True(t, ok)
	require.Equal(t, scenario.Ends, long.Truth.Fate)
	require.Equal(t, scenario.Lives, short.Truth.Fate)
	require.Less(t, long.Limit, long.Ends())
	require.Greater(t, short.Limit, short.Ends())
	require.Equal(t, "AC network_unreachable/network", long.Truth.Agent[0].String())
	require.Equal(t, "AC network_unreachable/network, interruption", short.Truth.Agent[0].String())
	require.Equal(t, "(SA network_unreachable/network)", short.Truth.Agent[1].String())
}
