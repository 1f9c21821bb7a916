// Package wsconn is a WebSocket as a net.Conn of binary messages that remembers how
// it ended: the close code, the first raw error or the own act, whichever came
// first. It is the only importer of the WebSocket library and judges close codes.
//
// It is not for text messages or for users who need message borders, it authenticates
// nobody, and it never reconnects.
package wsconn
