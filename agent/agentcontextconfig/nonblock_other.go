//go:build !unix

package agentcontextconfig

// nonblock is not needed where files do not block when they are opened.
const nonblock = 0
