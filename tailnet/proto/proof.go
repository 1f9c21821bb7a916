package proto

// NonceSize is the size of a challenge's nonce, in bytes. A node seals nothing else.
const NonceSize = 32

// proofContext keeps a sealed proof from meaning anything to another protocol that
// uses the same key.
const proofContext = "fairlead node proof v1\x00"

// ProofMessage returns what a node seals to answer a challenge with this nonce.
func ProofMessage(nonce [NonceSize]byte) []byte {
	return append([]byte(proofContext), nonce[:]...)
}
