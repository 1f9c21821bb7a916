package verdict

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"fairlead.dev/fairlead/disconnect"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestEveryKindOfFact walks the set: each has a word, a sentence, somebody who can know
// it, a line in the design text, and a part in some case of these tests.
func TestEveryKindOfFact(t *testing.T) {
	design, err := os.ReadFile("DESIGN.md")
	require.NoError(t, err)
	used := map[FactKind]bool{}
	for _, row := range matrix() {
		for _, said := range row.says {
			used[Account] = used[Account] || said.Evidence != 0
			for _, f := range said.Facts {
				used[f.Kind] = true
			}
		}
	}
	for _, elsewhere := range []FactKind{StatusOK, Supervisor, ParentKilled, SleepAnnounced, LinkChanged, HeardAgain, Error} {
		require.False(t, used[elsewhere], "%s has a row now", elsewhere)
		used[elsewhere] = true // in the tests of the rules
	}
	words := map[string]bool{}
	for _, kind := range FactKinds() {
		t.Run(kind.String(), func(t *testing.T) {
			require.True(t, kind.Valid())
			require.Regexp(t, `^[a-z]+(_[a-z]+)*$`, kind.String())
			require.False(t, words[kind.String()])
			words[kind.String()] = true
			require.True(t, strings.HasSuffix(kind.Sentence(), "."), kind.Sentence())
			require.True(t, used[kind], "no test uses it")
			known := 0
			for _, i := range disconnect.Initiators() {
				known += rank(kind.Known(i))
			}
			require.Positive(t, known)
			var by []string
			for _, i := range disconnect.Initiators() {
				if kind.Known(i) {
					by = append(by, i.String())
				}
			}
			require.Contains(t, string(design), "| `"+kind.String()+"` | "+strings.Join(by, ", ")+" | "+kind.Sentence()+" |\n", "DESIGN.md is stale")

			b, err := json.Marshal(kind)
			require.NoError(t, err)
			var got FactKind
			require.NoError(t, json.Unmarshal(b, &got))
			require.Equal(t, kind, got)
		})
	}
	for _, o := range Outcomes() {
		require.Contains(t, string(design), "`"+string(o)+"`")
	}
	require.False(t, FactKind(0).Valid())
	require.False(t, FactKind(len(factTable)+1).Valid())
	require.Empty(t, FactKind(99).Sentence())
	_, err = json.Marshal(FactKind(99))
	require.ErrorContains(t, err, "fact(99)")
	var got FactKind
	require.ErrorContains(t, json.Unmarshal([]byte(`"hunch"`), &got), "hunch")
}

func TestRules(t *testing.T) {
	for rule := R0; rule <= R11; rule++ {
		require.NotEmpty(t, rule.Says())
		b, err := json.Marshal(rule)
		require.NoError(t, err)
		var got Rule
		require.NoError(t, json.Unmarshal(b, &got))
		require.Equal(t, rule, got)
	}
	for i := range rules {
		require.Equal(t, Rule(i+1), rules[i].rule, "in their order")
	}
	var got Rule
	require.Error(t, json.Unmarshal([]byte(`"R12"`), &got))
}

func TestValidate(t *testing.T) {
	good := func() Testimony { return says(agent, ac, 0, 0, exited(0, 0)) }
	ok := good()
	require.NoError(t, ok.Validate())
	for want, spoil := range map[string]func(*Testimony){
		"cannot testify":              func(t *Testimony) { t.Observer = disconnect.Network },
		"connect_type is missing":     func(t *Testimony) { t.ConnectType = 0 },
		"kind \"\" is not known":      func(t *Testimony) { t.Kind = "" },
		"phase \"lunar\"":             func(t *Testimony) { t.Phase = "lunar" },
		"not there":                   func(t *Testimony) { t.Evidence = disconnect.EvidenceLocal },
		"rests on is missing":         func(t *Testimony) { t.Account = attr(disconnect.Graceful, agent, "") },
		"65 facts":                    func(t *Testimony) { t.Facts = make([]Fact, 65) },
		"longer than 64":              func(t *Testimony) { t.ID = strings.Repeat("x", 65) },
		"below zero":                  func(t *Testimony) { t.Clock.Bound = -1 },
		"fact 1: the kind is missing": func(t *Testimony) { t.Facts[0].Kind = 0 },
		"nothing that the agent can":  func(t *Testimony) { t.Facts[0].Kind = ParentKilled },
		"sent_by \"ghost\"":           func(t *Testimony) { t.Facts[0].SentBy = "ghost" },
		"outcome \"vanished\"":        func(t *Testimony) { t.Facts[0].Outcome = "vanished" },
		"obituary without an outcome": func(t *Testimony) { t.Facts[0].Kind = Obituary },
		"own_cause without a cause":   func(t *Testimony) { t.Facts[0].Kind = OwnCause },
		"does not say whom":           func(t *Testimony) { t.Facts[0] = fact(SocketClosed, 0) },
		"id is longer":                func(t *Testimony) { t.Facts[0].Ref = strings.Repeat("x", 65) },
	} {
		bad := good()
		spoil(&bad)
		require.ErrorContains(t, bad.Validate(), want)
		require.NotContains(t, bad.Validate().Error(), "\n")
		require.Equal(t, R11, Judge([]Testimony{bad}, ctxOf(ac)).Rule, "what is not valid is not judged")
	}
}

// TestNobodyMakesAJudgementLong: the bound of one observer's facts.
func TestNobodyMakesAJudgementLong(t *testing.T) {
	var flood []Testimony
	for i := range 2000 {
		said := remarks(says(client, ac, 0, float64(i)))
		for range MaxFacts {
			said.Facts = append(said.Facts, ownCause(float64(i), disconnect.ClientClosed, client, ""))
		}
		flood = append(flood, said)
	}
	flood = append(flood, says(agent, ac, 0, 0, exited(0, 0)))
	v := Judge(flood, ctxOf(ac))
	require.LessOrEqual(t, len(v.Used), maxSeen+1)
	require.Equal(t, "graceful/agent", cell(v))
}
