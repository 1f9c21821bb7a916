package cli

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPlot(t *testing.T) {
	require.Equal(t, "", plot(nil, 4))
	require.Equal(t, "▁▁", plot([]float64{0, 0}, 4))
	require.Equal(t, "▁▄██", plot([]float64{0, 49, 100, 100}, 4))
	require.Equal(t, "▁█", plot([]float64{0, 0, 5, 5}, 2))
}

func TestBitRate(t *testing.T) {
	for rate, want := range map[float64]string{0: "  0.0 bit/s", 999: "999.0 bit/s", 1500: "  1.5 kbit/s", 2.5e8: "250.0 Mbit/s", 1.2e10: " 12.0 Gbit/s"} {
		require.Equal(t, want, bitRate(rate))
	}
}
