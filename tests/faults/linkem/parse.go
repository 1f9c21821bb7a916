package linkem

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Parse reads an impairment as "delay=50ms,jitter=40ms,loss=20,reorder=30,rate=256000".
func Parse(text string) (m Impairment, err error) {
	shares := map[string]*float64{
		"loss": &m.Loss, "duplicate": &m.Duplicate, "reorder": &m.Reorder, "corrupt": &m.Corrupt, "mangle": &m.Mangle,
	}
	for part := range strings.SplitSeq(text, ",") {
		key, value, _ := strings.Cut(part, "=")
		var failed error
		switch share := shares[key]; {
		case share != nil:
			*share, failed = strconv.ParseFloat(value, 64)
		case key == "delay":
			m.Delay, failed = time.ParseDuration(value)
		case key == "jitter":
			m.Jitter, failed = time.ParseDuration(value)
		case key == "rate":
			m.Rate, failed = strconv.ParseInt(value, 10, 64)
		default:
			failed = fmt.Errorf("%q is no way in which a link can be bad", key)
		}
		err = errors.Join(err, failed)
	}
	return m, err
}
