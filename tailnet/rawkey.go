package tailnet

//lint:file-ignore SA1019 upstream keeps its keys' bytes to itself; ours cross the wire as bytes

import (
	"go4.org/mem"
	"tailscale.com/types/key"

	"fairlead.dev/fairlead/tailnet/proto"
)

// Between our keys and the engine's: the same 32 bytes.

func enginePrivate(k PrivateKey) key.NodePrivate    { return key.NodePrivateFromRaw32(mem.B(k[:])) }
func enginePublic(k proto.NodeKey) key.NodePublic   { return key.NodePublicFromRaw32(mem.B(k[:])) }
func engineDisco(k [32]byte) key.DiscoPublic        { return key.DiscoPublicFromRaw32(mem.B(k[:])) }
func nodeKeyOf(k key.NodePublic) proto.NodeKey      { return k.Raw32() }
func discoBytes(k key.DiscoPublic) (bytes [32]byte) { return k.Raw32() }
