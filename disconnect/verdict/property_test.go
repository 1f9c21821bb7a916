package verdict

import (
	"encoding/json"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	d "fairlead.dev/fairlead/disconnect"
)

// some makes testimonies at random: any party, any fact that it can know, times around
// noon, good and bad clocks, hearsay, strangers.
func some(r *rand.Rand, leg d.ConnectType) []Testimony {
	all := make([]Testimony, 1+r.IntN(5))
	for i := range all {
		all[i] = any1(r, leg)
	}
	return all
}

func pick[T any](r *rand.Rand, all []T) T { return all[r.IntN(len(all))] }

func any1(r *rand.Rand, leg d.ConnectType) Testimony {
	who := pick(r, anyone)
	seconds := func() float64 { return float64(r.IntN(4000)-1000) / 100 * float64(1+r.IntN(20)) }
	good := seconds()
	t := says(who, leg, good, good+float64(r.IntN(40)))
	t.Kind = pick(r, []Kind{Ending, Ending, Remark})
	t.Phase = pick(r, []string{"", PhaseOpen, PhaseOpen, PhaseHandshake})
	if r.IntN(8) == 0 {
		t.LastGood = Moment{}
	}
	t.Clock.Bound = int64(r.IntN(3)) * 700_000
	if r.IntN(10) == 0 && who != server {
		t.Via = agent
	}
	if r.IntN(10) == 0 {
		t.Principal = "mallory"
	}
	cause := func() d.Attribution { return attr(pick(r, d.Reasons()[1:]), pick(r, d.Initiators()), "") }
	if r.IntN(2) == 0 {
		t.Account, t.Evidence = cause(), pick(r, []d.Evidence{d.EvidenceDeclared, d.EvidenceLocal, d.EvidenceInferred, d.EvidenceInferred})
	}
	for range r.IntN(5) {
		kind := FactKind(2 + r.IntN(len(factTable)-1))
		if !kind.Known(who) {
			continue
		}
		at0 := seconds()
		f := Fact{Kind: kind, At: at(at0), About: pick(r, anyone)}
		if r.IntN(3) > 0 {
			f.Leg = pick(r, []d.ConnectType{0, 0, ac, sa, cs})
		}
		if r.IntN(2) == 0 {
			f.Until = at(at0 + float64(r.IntN(100)))
		}
		switch kind {
		case GoodbyeReceived, GoodbyeSent, OwnCause, StopOrder, PlatformNotice, Error:
			f.Cause = cause()
		case ProcessExit:
			if code := int32(r.IntN(3)); r.IntN(2) == 0 {
				f.ExitCode = &code
			} else {
				f.Signal, f.SentBy = "KILL", pick(r, senders)
			}
		case Obituary, Supervisor:
			f.Outcome = pick(r, outcomes)
		}
		t.Facts = append(t.Facts, f)
	}
	return t
}

// forMany runs a property on many cases, each with its own seed so that a failure can be
// run again.
func forMany(t *testing.T, property func(t *testing.T, r *rand.Rand, ctx Context, said []Testimony)) {
	t.Helper()
	for seed := range uint64(4000) {
		r := rand.New(rand.NewPCG(seed, 7))
		leg := pick(r, []d.ConnectType{ac, ac, sa, cs})
		said := some(r, leg)
		for i := range said {
			require.NoError(t, said[i].Validate(), "seed %d", seed)
		}
		property(t, r, ctxOf(leg), said)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func TestOrderOfArrivalChangesNothing(t *testing.T) {
	forMany(t, func(t *testing.T, r *rand.Rand, ctx Context, said []Testimony) {
		want := Judge(said, ctx)
		for range 3 {
			shuffled := slices.Clone(said)
			r.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
			require.Equal(t, want, Judge(shuffled, ctx))
		}
	})
}

func TestNothingCountsTwice(t *testing.T) {
	forMany(t, func(t *testing.T, r *rand.Rand, ctx Context, said []Testimony) {
		admitted := slices.DeleteFunc(slices.Clone(said), func(s Testimony) bool {
			return s.Principal == "mallory" || (s.Observer != server && s.Observer != relay && !slices.Contains(ends2(ctx.ConnectType), s.Observer))
		})
		want := Judge(admitted, ctx)
		twice := append(slices.Clone(admitted), admitted...)
		require.Equal(t, want, Judge(twice, ctx))
	})
}

func ends2(t d.ConnectType) []d.Initiator { e := endsOf(t); return e[:] }

func TestMoreEvidenceNeverUndeclares(t *testing.T) {
	declared := 0
	forMany(t, func(t *testing.T, r *rand.Rand, ctx Context, said []Testimony) {
		before := Judge(said, ctx)
		if before.Evidence != d.EvidenceDeclared {
			return
		}
		declared++
		after := Judge(append(slices.Clone(said), any1(r, ctx.ConnectType)), ctx)
		require.NotEqual(t, d.EvidenceInferred, after.Evidence, "%s %s then %s %s", before.Rule, cell(before), after.Rule, cell(after))
		require.Less(t, after.Rule, R11)
	})
	require.Greater(t, declared, 500, "the cases prove something")
}

// TestNoFailureIsGraceful: only what somebody said, or work that ended with status 0, may
// be called graceful, and nothing inferred is expected.
func TestNoFailureIsGraceful(t *testing.T) {
	graceful := 0
	forMany(t, func(t *testing.T, r *rand.Rand, ctx Context, said []Testimony) {
		v := Judge(said, ctx)
		if v.Rule >= R5 && v.Rule != R9 || v.Rule == R3 && !v.Expected() {
			require.False(t, v.Expected(), "%s: %s", v.Rule, cell(v))
		}
		if v.Reason != d.Graceful {
			return
		}
		graceful++
		require.LessOrEqual(t, v.Rule, R2)
		proof := slices.ContainsFunc(v.Used, func(i Item) bool {
			switch i.Fact.Kind {
			case ProcessExit:
				return *i.Fact.ExitCode == 0
			case GoodbyeReceived, GoodbyeSent, OwnCause, StopOrder, Obituary, Supervisor:
				return i.Fact.Cause.Reason == d.Graceful
			case Account:
				return i.Fact.Cause.Reason == d.Graceful
			}
			return i.Fact.Kind == StatusOK
		})
		require.True(t, proof, "%+v", v.Used)
	})
	require.Greater(t, graceful, 20)
}

func TestUnknownOnlyWithoutEvidence(t *testing.T) {
	forMany(t, func(t *testing.T, r *rand.Rand, ctx Context, said []Testimony) {
		v := Judge(said, ctx)
		require.Equal(t, v.Reason == d.Unknown, v.Initiator == d.InitiatorUnknown)
		require.Equal(t, v.Reason == d.Unknown, v.Rule == R11)
		if v.Rule != R11 {
			require.NotEmpty(t, v.Used)
			require.NotZero(t, v.Evidence)
			require.NotZero(t, v.Confidence)
			return
		}
		for _, item := range v.Kept {
			if item.Role != NotBelieved && item.Role != Hearsay {
				require.Contains(t, []FactKind{LegAlive, HeardAgain, Resumed, CloseDenied, GoodbyeSent, OwnCause}, item.Fact.Kind, item.Says())
			}
		}
	})
}

// TestVerdictsSurviveJSON: a verdict is stored, and the last one is compared with the next.
func TestVerdictsSurviveJSON(t *testing.T) {
	forMany(t, func(t *testing.T, r *rand.Rand, ctx Context, said []Testimony) {
		v := Judge(said, ctx)
		b, err := json.Marshal(v)
		require.NoError(t, err)
		var got Verdict
		require.NoError(t, json.Unmarshal(b, &got))
		ctx.Previous = &got
		require.Equal(t, 0, Judge(said, ctx).Revision)
		again, err := json.Marshal(got)
		require.NoError(t, err)
		require.JSONEq(t, string(b), string(again))
	})
}

// TestJudgeChangesNothing: raw testimonies are never overwritten.
func TestJudgeChangesNothing(t *testing.T) {
	forMany(t, func(t *testing.T, r *rand.Rand, ctx Context, said []Testimony) {
		before, err := json.Marshal(said)
		require.NoError(t, err)
		Judge(said, ctx)
		Interruptions(said, ctx)
		after, err := json.Marshal(said)
		require.NoError(t, err)
		require.Equal(t, string(before), string(after))
	})
}

var sink Verdict

func BenchmarkJudge(b *testing.B) {
	lost := heard(says(client, ac, -1, 8, silence(agent, -1, 0), about(NewInstance, agent, 21), alive(cs, -600, 600)), d.NetworkTimeout, d.Network)
	said := []Testimony{
		lost, remarks(says(server, ac, -1, 0, on(sa, about(SocketClosed, agent, 0)), about(NewInstance, agent, 20))),
		remarks(says(server, ac, -1, 1, alive(cs, -600, 600))), remarks(says(relay, ac, -1, 1, about(RelayClientGone, agent, 0.1))),
		says(agent, ac, 0, 20, journal(Crashed, -3, 20)),
	}
	for i := range 5 {
		t := interrupted(says(client, ac, -900+float64(i)*100, -890+float64(i)*100, during(LinkDown, -900, -880), fact(Resumed, -870+float64(i)*100)))
		said = append(said, t)
	}
	ctx := ctxOf(ac)
	b.ReportAllocs()
	for b.Loop() {
		sink = Judge(said, ctx)
	}
	if cell(sink) != "peer_crashed/agent/agent" {
		b.Fatal(cell(sink))
	}
}
