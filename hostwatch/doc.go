// Package hostwatch is what an end can testify about its own host: that the machine slept,
// that this process did not run, and that the link or route out of the host was down or
// another one. An agent, a client and a server each keep one [Watcher] for their whole
// life, and add [Watcher.Facts] to what they say of an ending.
//
// It watches the one way out of the host, which is the interface by which it reaches the
// internet; interfaces that come and go beside it (containers, VPNs) are nothing that a
// connection broke by. It measures nothing beyond the host: a cable that is out behind the
// next switch is silence, and not known here. It sends no packet.
package hostwatch
