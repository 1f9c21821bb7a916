package client

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"time"
)

// socksTimeout bounds how long a program may take to say what it wants.
const socksTimeout = 10 * time.Second

// Words of SOCKS 4, 4a and 5 (RFC 1928).
const (
	socks4, socks5 = 4, 5
	socksConnect   = 1
	socksIPv4      = 1
	socksName      = 3
	socksIPv6      = 4
	socksNoMethod  = 0xff
	socksRefused   = 5 // of SOCKS 5
	socksNoCommand = 7
	socks4Granted  = 90
	socks4Rejected = 91
	maxSocksString = 255
)

// socksRequest reads what the program behind rw wants, and nothing more. The caller bounds the time. say answers it, once, whether its
// connection was made. An error is one sentence and was answered.
func socksRequest(rw io.ReadWriter) (target Endpoint, say func(ok bool) error, err error) {
	version := make([]byte, 1)
	if _, err := io.ReadFull(rw, version); err != nil {
		return Endpoint{}, nil, fmt.Errorf("no SOCKS request came: %w", err)
	}
	switch version[0] {
	case socks4:
		return socks4Request(rw)
	case socks5:
		return socks5Request(rw)
	}
	return Endpoint{}, nil, fmt.Errorf("what came is not SOCKS 4 or 5: it begins with byte %d", version[0])
}

// socks5Request reads the greeting and the request; the version byte is read already.
func socks5Request(rw io.ReadWriter) (Endpoint, func(bool) error, error) {
	fail := func(err error) (Endpoint, func(bool) error, error) {
		return Endpoint{}, nil, fmt.Errorf("the SOCKS 5 request is damaged: %w", err)
	}
	var head [4]byte
	if _, err := io.ReadFull(rw, head[:1]); err != nil {
		return fail(err)
	}
	methods := make([]byte, head[0])
	if _, err := io.ReadFull(rw, methods); err != nil {
		return fail(err)
	}
	method := byte(socksNoMethod)
	for _, m := range methods {
		if m == 0 { // no authentication
			method = 0
		}
	}
	if _, err := rw.Write([]byte{socks5, method}); err != nil {
		return fail(err)
	}
	if method != 0 {
		return Endpoint{}, nil, errors.New("the program insists on a SOCKS login, and there is none")
	}
	if _, err := io.ReadFull(rw, head[:]); err != nil {
		return fail(err)
	}
	answer := func(code byte) error {
		_, err := rw.Write([]byte{socks5, code, 0, socksIPv4, 0, 0, 0, 0, 0, 0})
		return err
	}
	if head[0] != socks5 || head[1] != socksConnect {
		_ = answer(socksNoCommand)
		return Endpoint{}, nil, fmt.Errorf("SOCKS command %d is not supported, only CONNECT", head[1])
	}
	host, err := socks5Host(rw, head[3])
	if err != nil {
		return fail(err)
	}
	var port [2]byte
	if _, err := io.ReadFull(rw, port[:]); err != nil {
		return fail(err)
	}
	return socksTarget(host, port), func(ok bool) error {
		if ok {
			return answer(0)
		}
		return answer(socksRefused)
	}, nil
}

func socks5Host(r io.Reader, kind byte) (string, error) {
	size := 0
	switch kind {
	case socksIPv4:
		size = 4
	case socksIPv6:
		size = 16
	case socksName:
		var n [1]byte
		if _, err := io.ReadFull(r, n[:]); err != nil {
			return "", err
		}
		size = int(n[0])
	default:
		return "", fmt.Errorf("address type %d is not known", kind)
	}
	raw := make([]byte, size)
	if _, err := io.ReadFull(r, raw); err != nil {
		return "", err
	}
	if kind == socksName {
		return string(raw), nil
	}
	addr, _ := netip.AddrFromSlice(raw)
	return addr.String(), nil
}

// socks4Request reads a request of SOCKS 4 or 4a, whose address 0.0.0.x says that a name
// follows.
func socks4Request(rw io.ReadWriter) (Endpoint, func(bool) error, error) {
	fail := func(err error) (Endpoint, func(bool) error, error) {
		return Endpoint{}, nil, fmt.Errorf("the SOCKS 4 request is damaged: %w", err)
	}
	var head [7]byte // command, port, address
	if _, err := io.ReadFull(rw, head[:]); err != nil {
		return fail(err)
	}
	if _, err := socksString(rw); err != nil { // the user's name, which nobody asks for
		return fail(err)
	}
	addr := netip.AddrFrom4([4]byte(head[3:7]))
	host := addr.String()
	if b := addr.As4(); b[0] == 0 && b[1] == 0 && b[2] == 0 && b[3] != 0 {
		name, err := socksString(rw)
		if err != nil {
			return fail(err)
		}
		host = name
	}
	answer := func(code byte) error {
		_, err := rw.Write([]byte{0, code, 0, 0, 0, 0, 0, 0})
		return err
	}
	if head[0] != socksConnect {
		_ = answer(socks4Rejected)
		return Endpoint{}, nil, fmt.Errorf("SOCKS command %d is not supported, only CONNECT", head[0])
	}
	return socksTarget(host, [2]byte(head[1:3])), func(ok bool) error {
		if ok {
			return answer(socks4Granted)
		}
		return answer(socks4Rejected)
	}, nil
}

// socksString reads up to a zero byte.
func socksString(r io.Reader) (string, error) {
	var text []byte
	for one := make([]byte, 1); len(text) <= maxSocksString; text = append(text, one[0]) {
		if _, err := io.ReadFull(r, one); err != nil {
			return "", err
		}
		if one[0] == 0 {
			return string(text), nil
		}
	}
	return "", errors.New("a text in it is too long")
}

func socksTarget(host string, port [2]byte) Endpoint {
	return Endpoint{Network: "tcp", Address: net.JoinHostPort(host, strconv.Itoa(int(binary.BigEndian.Uint16(port[:]))))}
}
