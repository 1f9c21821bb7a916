package disconnect

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxText is the bound on any free text that crosses a border, in bytes.
const maxText = 256

// Scrub makes remote or free text safe to log, store and show on a terminal: valid
// UTF-8, no control, bidirectional-override, line-separator or other format
// characters, at most 256 bytes. Each bad run becomes one space. Clean text is
// returned as it is, without allocation.
func Scrub(s string) string { return ScrubTo(s, maxText) }

// ScrubTo is [Scrub] with a bound of limit bytes, for text of our own that may name
// long paths.
func ScrubTo(s string, limit int) string {
	if clean(s, limit) {
		return s
	}
	var b strings.Builder
	b.Grow(min(len(s), limit))
	gap := false
	for i := 0; i < len(s) && b.Len() < limit; {
		r, size := utf8.DecodeRuneInString(s[i:])
		i += size
		if (r == utf8.RuneError && size == 1) || !printable(r) {
			gap = b.Len() > 0
			continue
		}
		if gap && r != ' ' {
			b.WriteByte(' ')
		}
		gap = false
		b.WriteRune(r)
	}
	return strings.TrimSpace(truncate(b.String(), limit))
}

func clean(s string, limit int) bool {
	if len(s) > limit {
		return false
	}
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < 0x20 || c >= 0x7f {
			return cleanUnicode(s[i:])
		}
	}
	return true
}

func cleanUnicode(s string) bool {
	if !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if !printable(r) {
			return false
		}
	}
	return true
}

// printable excludes Cc (controls), Cf (bidi overrides, zero-width marks), Zl, Zp,
// Co and Cs, which unicode.IsPrint leaves out; of spaces only U+0020 is kept.
func printable(r rune) bool { return unicode.IsPrint(r) }

// truncate cuts s to at most n bytes at a rune border.
func truncate(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
