package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"fairlead.dev/fairlead/agent/proto"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/sdk"
)

const (
	// speedSamples is how many times the rate is looked at in one direction.
	speedSamples = 40
	// speedSlack is what one direction may take beyond its time.
	speedSlack = 15 * time.Second
)

// SpeedDirection is where bytes go.
type SpeedDirection string

// Directions.
const (
	Download SpeedDirection = "download" // from the workspace
	Upload   SpeedDirection = "upload"
)

// Speed is what one direction of a path carried.
type Speed struct {
	Direction SpeedDirection
	Bytes     int64 // that arrived
	Took      time.Duration
	// Samples are the rates over time, in bits per second, at equal distances. Of an
	// upload they count what this machine has handed on.
	Samples []float64
	// Path is the one at the end, and Before the one at the beginning.
	Path, Before Path
}

// BitsPerSecond is the mean rate.
func (s Speed) BitsPerSecond() float64 {
	if s.Took <= 0 {
		return 0
	}
	return float64(s.Bytes) * 8 / s.Took.Seconds()
}

// MeasureSpeed sends bytes in one direction for about as long as d says, a whole number
// of seconds up to [proto.MaxSpeed], on a connection of its own on the path that sessions
// take. onSample, unless it is nil, gets each sample as it is taken. An error is one
// sentence; [disconnect.FromError] tells its attribution if the connection ended. The
// ending is logged once.
func (w *Workspace) MeasureSpeed(ctx context.Context, direction SpeedDirection, d time.Duration, onSample func(bitsPerSecond float64)) (Speed, error) {
	there, stop := w.whileThere(ctx)
	defer stop()
	bounded, cancel := context.WithTimeoutCause(there, d+speedSlack, &disconnect.EndedError{Attribution: disconnect.Attribution{
		ConnectType: disconnect.AgentToClient, Reason: disconnect.NetworkTimeout, Initiator: disconnect.Network,
		Detail: fmt.Sprintf("the %s did not end within %v", direction, d+speedSlack),
	}})
	defer cancel()
	m := &measurement{direction: direction, length: d, onSample: onSample}
	speed := Speed{Direction: direction, Before: w.Path()}
	err := m.run(bounded, w.config.dialAPI)
	speed.Bytes, speed.Took, speed.Samples, speed.Path = m.arrived, m.took, m.samples, w.Path()
	a := disconnect.Attribution{
		ConnectType: disconnect.AgentToClient, Reason: disconnect.Graceful, Initiator: disconnect.Client, Detail: string(direction) + " measured",
	}
	var refused *speedRefused
	switch {
	case errors.As(err, &refused):
		a.Reason, a.Initiator, a.Detail = disconnect.LimitExceeded, disconnect.Agent, disconnect.Scrub(refused.text)
		err = &failure{text: "measure the " + string(direction) + ": " + a.Detail, ended: &disconnect.EndedError{Attribution: a, Err: err}}
	case err != nil:
		if a = w.notConnected(bounded, err); ctx.Err() != nil {
			a = w.leaving(ctx)
		}
		err = failed("measure the "+string(direction), a, err)
	}
	a.Log(context.WithoutCancel(ctx), w.config.logger, "speed test ended",
		slog.String("workspace", disconnect.Scrub(w.config.name)), slog.String("direction", string(direction)),
		slog.Int64("bytes", speed.Bytes), slog.String("path", speed.Path.String()))
	return speed, err
}

// speedRefused is the agent's word of why it measures nothing.
type speedRefused struct{ text string }

func (r *speedRefused) Error() string { return r.text }

// measurement is one run of MeasureSpeed.
type measurement struct {
	direction SpeedDirection
	length    time.Duration
	onSample  func(float64)

	passed  atomic.Int64 // bytes so far
	arrived int64
	took    time.Duration
	samples []float64 // the sampler's, until it has ended
}

func (m *measurement) run(ctx context.Context, dial func(context.Context) (net.Conn, error)) error {
	conn, err := dial(ctx) // its time does not count
	if err != nil {
		return err
	}
	defer conn.Close()
	transport := &http.Transport{
		DialContext:       func(context.Context, string, string) (net.Conn, error) { return conn, nil },
		DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: 16 << 10,
		ReadBufferSize: copyBuffer, WriteBufferSize: copyBuffer,
	}
	defer transport.CloseIdleConnections()
	url := fmt.Sprintf("http://agent%s?seconds=%d", proto.SpeedPath, int(m.length.Round(time.Second).Seconds()))
	var sampling sync.WaitGroup
	over := make(chan struct{})
	var began time.Time
	begin := func() {
		began = time.Now()
		sampling.Go(func() { m.sample(over) })
	}
	if m.direction == Download {
		err = m.download(ctx, transport, url, begin)
	} else {
		err = m.upload(ctx, transport, url, begin)
	}
	if !began.IsZero() {
		m.took = time.Since(began)
	}
	close(over)
	sampling.Wait()
	return err
}

// sample looks at the rate until over is closed.
func (m *measurement) sample(over <-chan struct{}) {
	every := m.length / speedSamples
	tick := time.NewTicker(every)
	defer tick.Stop()
	last, at := int64(0), time.Now()
	for {
		select {
		case <-over:
			return
		case now := <-tick.C:
			passed := m.passed.Load()
			if elapsed := now.Sub(at); elapsed > 0 && len(m.samples) < 2*speedSamples {
				rate := float64(passed-last) * 8 / elapsed.Seconds()
				m.samples = append(m.samples, rate)
				if m.onSample != nil {
					m.onSample(rate)
				}
			}
			last, at = passed, now
		}
	}
}

// ask makes the request and returns an answer that is no refusal.
func ask(ctx context.Context, transport *http.Transport, method, url string, body io.Reader) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return nil, err
	}
	answer, err := transport.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	if answer.StatusCode == http.StatusOK {
		return answer, nil
	}
	defer answer.Body.Close()
	text := fmt.Sprintf("the agent answered %d, as one does that is too old for speed tests", answer.StatusCode)
	var refused sdk.ErrorResponse
	if json.NewDecoder(io.LimitReader(answer.Body, 16<<10)).Decode(&refused) == nil && answer.StatusCode != http.StatusNotFound && refused.Error.Message != "" {
		text = refused.Error.Message
	}
	return nil, &speedRefused{text}
}

// download reads what the agent sends until it ends; a hostile agent is cut off in time.
func (m *measurement) download(ctx context.Context, transport *http.Transport, url string, begin func()) error {
	answer, err := ask(ctx, transport, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	begin()
	buf := make([]byte, copyBuffer)
	for {
		n, err := answer.Body.Read(buf)
		m.arrived = m.passed.Add(int64(n))
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// upload sends for its time; what the agent says that it received is what counts.
func (m *measurement) upload(ctx context.Context, transport *http.Transport, url string, begin func()) error {
	begin()
	answer, err := ask(ctx, transport, http.MethodPost, url, &zeros{m: m, until: time.Now().Add(m.length)})
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	var received proto.SpeedReceived
	if err := json.NewDecoder(io.LimitReader(answer.Body, 16<<10)).Decode(&received); err != nil {
		return fmt.Errorf("the agent's answer makes no sense: %w", err)
	}
	m.arrived = min(max(received.Bytes, 0), m.passed.Load())
	return nil
}

// zeros is the body of an upload: bytes until its time is over.
type zeros struct {
	m     *measurement
	until time.Time
}

// Read implements [io.Reader].
func (z *zeros) Read(b []byte) (int, error) {
	if time.Now().After(z.until) {
		return 0, io.EOF
	}
	clear(b)
	z.m.passed.Add(int64(len(b)))
	return len(b), nil
}
