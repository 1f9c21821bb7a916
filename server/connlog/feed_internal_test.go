package connlog

import (
	"testing"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/server/store"
)

// TestFeedThatIsNotRead: a reader who is too far behind is told so, and holds nothing.
func TestFeedThatIsNotRead(t *testing.T) {
	l := &Log{feeds: map[*Feed]bool{}, cfg: Config{Ended: func(store.Connection) {}, Changed: func(store.Connection) {}}}
	f := l.Follow()
	defer f.Close()
	l.publish(make([]store.Connection, 2*maxBehind)) // one batch is taken, however large
	rows, err := f.Next()
	require.NoError(t, err)
	require.Len(t, rows, 2*maxBehind)
	for range maxBehind/100 + 1 {
		l.publish(make([]store.Connection, 100))
	}
	rows, err = f.Next()
	require.NoError(t, err)
	require.Len(t, rows, 100)
	for range 3 {
		l.publish(make([]store.Connection, 100))
	}
	<-f.Ready()
	for range 2 {
		rows, err = f.Next()
		require.ErrorIs(t, err, ErrSlow)
		require.Empty(t, rows)
	}
	require.Empty(t, f.rows)
}
