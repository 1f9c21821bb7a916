package disconnect

import (
	"fmt"
	"strconv"
)

// Evidence is what a testimony rests on. Its numeric value is stable.
type Evidence uint8

// Kinds of evidence. The zero value means that the observer did not say.
const (
	EvidenceDeclared   Evidence = 1 // told by a goodbye on the wire
	EvidenceLocal      Evidence = 2 // the observer's own act, or a fact of its own host
	EvidenceInferred   Evidence = 3 // concluded from an error or from silence
	EvidenceCorrelated Evidence = 4 // concluded from several testimonies
)

var evidenceNames = [...]string{"unspecified", "declared", "local", "inferred", "correlated"}

// Evidences returns all kinds of evidence in ascending order of number.
func Evidences() []Evidence {
	return []Evidence{EvidenceDeclared, EvidenceLocal, EvidenceInferred, EvidenceCorrelated}
}

// String returns the word for e, or "evidence(N)" outside the set.
func (e Evidence) String() string {
	if int(e) < len(evidenceNames) {
		return evidenceNames[e]
	}
	return "evidence(" + strconv.Itoa(int(e)) + ")"
}

// Valid reports whether e is a kind of evidence.
func (e Evidence) Valid() bool { return e != 0 && int(e) < len(evidenceNames) }

// Confidence returns how far e can be trusted by itself: the word of whoever acted
// is certain, two that agree are nearly so, and an inference from one side is weak.
func (e Evidence) Confidence() Confidence {
	switch e {
	case EvidenceDeclared, EvidenceLocal:
		return ConfidenceCertain
	case EvidenceCorrelated:
		return ConfidenceHigh
	case EvidenceInferred:
		return ConfidenceLow
	}
	return 0
}

// ParseEvidence is the inverse of [Evidence.String] for kinds of evidence.
func ParseEvidence(s string) (Evidence, error) {
	for i, name := range evidenceNames {
		if name == s && i != 0 {
			return Evidence(i), nil
		}
	}
	return 0, fmt.Errorf("parse evidence: %q is not a known kind of evidence", s)
}

// Confidence is how far a testimony can be trusted. Its numeric value is stable.
type Confidence uint8

// Degrees of confidence. The zero value means that the observer did not say.
const (
	ConfidenceLow     Confidence = 1
	ConfidenceHigh    Confidence = 2
	ConfidenceCertain Confidence = 3
)

var confidenceNames = [...]string{"unspecified", "low", "high", "certain"}

// Confidences returns all degrees of confidence in ascending order.
func Confidences() []Confidence {
	return []Confidence{ConfidenceLow, ConfidenceHigh, ConfidenceCertain}
}

// String returns the word for c, or "confidence(N)" outside the set.
func (c Confidence) String() string {
	if int(c) < len(confidenceNames) {
		return confidenceNames[c]
	}
	return "confidence(" + strconv.Itoa(int(c)) + ")"
}

// Valid reports whether c is a degree of confidence.
func (c Confidence) Valid() bool { return c != 0 && int(c) < len(confidenceNames) }

// ParseConfidence is the inverse of [Confidence.String] for degrees of confidence.
func ParseConfidence(s string) (Confidence, error) {
	for i, name := range confidenceNames {
		if name == s && i != 0 {
			return Confidence(i), nil
		}
	}
	return 0, fmt.Errorf("parse confidence: %q is not a known degree of confidence", s)
}
