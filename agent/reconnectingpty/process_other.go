//go:build !unix

package reconnectingpty

// There are no terminals on this platform, and so no programs on them.

func hangUp(int) {}

func killGroup(int) {}
