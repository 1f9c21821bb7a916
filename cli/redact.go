package cli

import (
	"cmp"
	"encoding/json"
	"regexp"
	"slices"
	"strings"
)

// hidden stands where a secret was.
const hidden = "[redacted]"

// secretForms are texts that are secrets by how they look: our tokens, begun ones
// included, one-time codes, keys in PEM, what authorizes a request, passwords in URLs,
// what is called a secret, and JSON Web Tokens.
var secretForms = []struct {
	form *regexp.Regexp
	with string
}{
	{regexp.MustCompile(`(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|$)`), hidden},
	{regexp.MustCompile(`fl_[a-z]_[A-Za-z0-9_-]+`), hidden},
	{regexp.MustCompile(`\b[0-9a-z]{4}-[0-9a-z]{4}-[0-9a-z]{4}-[0-9a-z]{4}\b`), hidden},
	{regexp.MustCompile(`\beyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*`), hidden},
	{regexp.MustCompile(`(?i)\b(bearer|basic)([ +]|%20)+[A-Za-z0-9._~+/=-]+`), "${1} " + hidden},
	{regexp.MustCompile(`([A-Za-z][A-Za-z0-9+.-]*://)[^/\s"'@]+@`), "${1}" + hidden + "@"},
	{regexp.MustCompile(`(?i)((?:authorization|cookie|password|passwd|secret|token|api[_-]?key|private[_-]?key)"?\s*[:=]\s*"?)[^\s",;&}]+`), "${1}" + hidden},
}

// secretNames are parts of the names of variables whose values are secrets.
var secretNames = []string{"TOKEN", "SECRET", "PASSW", "KEY", "CREDENTIAL", "AUTH", "COOKIE", "DSN", "PROXY"}

// redactor takes secrets out of texts: those that look like one, and those that this
// process knows of.
type redactor struct {
	known *strings.Replacer
}

// newRedactor knows the secrets that are given, and those in the environment.
func newRedactor(secrets []string, environ []string) *redactor {
	for _, kv := range environ {
		name, value, _ := strings.Cut(kv, "=")
		if slices.ContainsFunc(secretNames, func(part string) bool { return strings.Contains(strings.ToUpper(name), part) }) {
			secrets = append(secrets, value)
		}
	}
	var pairs []string
	// The longest first: one may be the beginning of another.
	slices.SortFunc(secrets, func(a, b string) int { return cmp.Compare(len(b), len(a)) })
	for _, secret := range secrets {
		if len(secret) < 6 { // too short to be one, and in every other word
			continue
		}
		pairs = append(pairs, secret, hidden)
		if quoted, err := json.Marshal(secret); err == nil && string(quoted[1:len(quoted)-1]) != secret {
			pairs = append(pairs, string(quoted[1:len(quoted)-1]), hidden)
		}
	}
	return &redactor{known: strings.NewReplacer(pairs...)}
}

// redact returns text without what is a secret, or looks like one.
func (r *redactor) redact(text string) string {
	text = r.known.Replace(text)
	for _, secret := range secretForms {
		text = secret.form.ReplaceAllString(text, secret.with)
	}
	return text
}
