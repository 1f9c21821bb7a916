package connlog_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/server/connlog"
	"fairlead.dev/fairlead/server/store"
)

// TestGapToldAgain: an agent that did not hear the answer tells of a gap again, also
// after another one and in another life. It is one.
func TestGapToldAgain(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	tell := func(instance string, from, to time.Time) {
		_, err := r.log.Announce(t.Context(), r.agent(r.ws, instance), connlog.Former{}, connlog.Announcement{
			SentAt: time.Now(), GapFrom: from, GapTo: to, GapDetail: "the machine went down",
		})
		require.NoError(t, err)
	}
	now := time.Now()
	first, second := now.Add(-3*time.Hour), now.Add(-time.Hour)
	tell("one", first, first.Add(time.Minute))
	tell("one", second, second.Add(time.Minute))
	tell("one", first, first.Add(time.Minute))
	tell("two", first, first.Add(time.Minute))
	tell("two", second, second.Add(time.Minute))
	gaps, err := r.db.Gaps(t.Context(), store.GapFilter{Limit: 100})
	require.NoError(t, err)
	require.Len(t, gaps, 2)
}
