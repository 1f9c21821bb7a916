//go:build !linux

package hostwatch

import "context"

// follow polls. A change that is over between two looks is not seen.
func (systemLinks) follow(ctx context.Context, changed chan<- struct{}) { poll(ctx, changed) }
