package hostwatch

import (
	"context"
	"time"
)

// pollEvery is how often the links are looked at where the system does not tell.
const pollEvery = 2 * time.Second

func poll(ctx context.Context, changed chan<- struct{}) {
	for pause(ctx, pollEvery) {
		kick(changed)
	}
}

func kick(changed chan<- struct{}) {
	select {
	case changed <- struct{}{}:
	default: // it will look anyway
	}
}
