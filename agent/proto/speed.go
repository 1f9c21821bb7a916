package proto

import "time"

// SpeedPath is where on [APIPort] a client measures how fast bytes come (GET, with the
// query seconds=N) and go (POST; the answer is a [SpeedReceived] in JSON). The bytes mean nothing.
const SpeedPath = "/api/v0/speedtest"

// MaxSpeed is the longest that one direction is measured for.
const MaxSpeed = 30 * time.Second

// SpeedReceived says what the agent has received of a POST.
type SpeedReceived struct {
	Bytes int64 `json:"bytes"`
}
