package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strconv"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/sdk"
	"fairlead.dev/fairlead/server/auth"
	"fairlead.dev/fairlead/server/store"
)

// maxBody bounds a request's body, in bytes.
const maxBody = 64 << 10

// refusal is an answer that is not a success: the one shape of errors. It is an error
// so that handlers can return it.
type refusal struct {
	status  int
	code    string
	message string
	// reason is what the refusal means to somebody who wanted a connection.
	reason disconnect.Reason
}

// Error returns the message.
func (e *refusal) Error() string { return e.message }

// Refusals that several handlers use.
var (
	errInternal    = &refusal{http.StatusInternalServerError, sdk.CodeInternal, "the server failed to answer; its log tells why", disconnect.InternalError}
	errFull        = &refusal{http.StatusInsufficientStorage, sdk.CodeInternal, "the server's disk is full: nothing new can be stored until there is space again", disconnect.ResourceExhausted}
	errNoRoute     = &refusal{http.StatusNotFound, sdk.CodeNotFound, "this Fairlead server has nothing at that path", disconnect.ProtocolError}
	errMethod      = &refusal{http.StatusMethodNotAllowed, sdk.CodeMethodNotAllowed, "this path does not take that method", disconnect.ProtocolError}
	errTooLarge    = &refusal{http.StatusRequestEntityTooLarge, sdk.CodeTooLarge, "the request's body is too long", disconnect.LimitExceeded}
	errStopping    = &refusal{http.StatusServiceUnavailable, sdk.CodeUnavailable, "the server is stopping", disconnect.ServerShutdown}
	errGone        = &refusal{http.StatusNotFound, sdk.CodeNotFound, "what this is about does not exist any more", disconnect.AuthFailed}
	errNoWorkspace = &refusal{http.StatusNotFound, sdk.CodeNotFound, "no such workspace, or no right to reach it", disconnect.AuthFailed}
)

// invalid refuses a request that makes no sense.
func invalid(message string) *refusal {
	return &refusal{http.StatusBadRequest, sdk.CodeInvalid, message, disconnect.ProtocolError}
}

// unauthenticated refuses a caller whom nobody knows, or not any more.
func unauthenticated(code, message string) *refusal {
	reason := disconnect.AuthFailed
	if code == sdk.CodeTokenExpired {
		reason = disconnect.AuthExpired
	}
	return &refusal{http.StatusUnauthorized, code, message, reason}
}

// notFound refuses for the lack of something.
func notFound(message string) *refusal {
	return &refusal{http.StatusNotFound, sdk.CodeNotFound, message, disconnect.AuthFailed}
}

// conflict refuses what does not fit what is there.
func conflict(message string) *refusal {
	return &refusal{http.StatusConflict, sdk.CodeConflict, message, disconnect.ProtocolError}
}

// errScope refuses a user whose token is for something else.
func errScope(p auth.Principal) *refusal {
	return notFound("this token's scope is " + string(p.Scope) + ": it cannot be used for this")
}

// forbidden refuses a caller who is known.
func forbidden(message string) *refusal {
	return &refusal{http.StatusForbidden, sdk.CodeForbidden, message, disconnect.AuthFailed}
}

// writeError answers with err. What is not a refusal is our failure: it is logged, and
// the caller learns only that.
func writeError(w http.ResponseWriter, r *http.Request, logger *slog.Logger, err error) {
	var e *refusal
	switch {
	case errors.As(err, &e):
	case errors.Is(err, store.ErrNotFound):
		e = errGone
	case r.Context().Err() != nil:
		e = errStopping // the caller left, or the server stops: nobody's failure
	default:
		logger.LogAttrs(r.Context(), slog.LevelError, "request failed",
			slog.String("path", disconnect.Scrub(r.URL.Path)), slog.String("error", disconnect.Scrub(err.Error())))
		if e = errInternal; store.IsFull(err) {
			e = errFull
		}
	}
	h := w.Header()
	h.Set(sdk.HeaderReason, strconv.Itoa(int(e.reason)))
	if l := (*limited)(nil); errors.As(err, &l) {
		l.setRetryAfter(h)
	}
	if e.status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", "Bearer")
	}
	writeJSON(w, e.status, sdk.ErrorResponse{Error: sdk.ErrorBody{Code: e.code, Message: e.message}})
}

// writeJSON answers with v.
func writeJSON(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // only our own types come here, and they all marshal
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store") // answers hold tokens, and differ by caller
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n')) // a caller who left does not need the answer
}

// receiveBody waits for the whole body of a request, which it keeps in memory.
func receiveBody(w http.ResponseWriter, r *http.Request) error {
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		return errTooLarge
	}
	if err != nil {
		return invalid("the request's body did not arrive")
	}
	r.Body = io.NopCloser(bytes.NewReader(b))
	return nil
}

// readJSON reads a request's body, which has been received, into v.
func readJSON(r *http.Request, v any) error {
	b, err := io.ReadAll(r.Body)
	if err != nil || json.Unmarshal(b, v) != nil {
		return invalid("the request's body is not the JSON that belongs here")
	}
	return nil
}
