package pty

import "golang.org/x/sys/unix"

// Opcodes of RFC 4254 section 8 that are not flags or control characters.
const (
	opISpeed = 128
	opOSpeed = 129
)

// controlChars maps opcodes to indexes of c_cc.
var controlChars = map[uint8]int{
	1: unix.VINTR, 2: unix.VQUIT, 3: unix.VERASE, 4: unix.VKILL, 5: unix.VEOF,
	6: unix.VEOL, 7: unix.VEOL2, 8: unix.VSTART, 9: unix.VSTOP, 10: unix.VSUSP,
	12: unix.VREPRINT, 13: unix.VWERASE, 14: unix.VLNEXT, 16: unix.VSWTC, 18: unix.VDISCARD,
}

var inputFlags = map[uint8]uint32{
	30: unix.IGNPAR, 31: unix.PARMRK, 32: unix.INPCK, 33: unix.ISTRIP, 34: unix.INLCR,
	35: unix.IGNCR, 36: unix.ICRNL, 37: unix.IUCLC, 38: unix.IXON, 39: unix.IXANY,
	40: unix.IXOFF, 41: unix.IMAXBEL, 42: unix.IUTF8,
}

var localFlags = map[uint8]uint32{
	50: unix.ISIG, 51: unix.ICANON, 52: unix.XCASE, 53: unix.ECHO, 54: unix.ECHOE,
	55: unix.ECHOK, 56: unix.ECHONL, 57: unix.NOFLSH, 58: unix.TOSTOP, 59: unix.IEXTEN,
	60: unix.ECHOCTL, 61: unix.ECHOKE, 62: unix.PENDIN,
}

var outputFlags = map[uint8]uint32{
	70: unix.OPOST, 71: unix.OLCUC, 72: unix.ONLCR, 73: unix.OCRNL, 74: unix.ONOCR, 75: unix.ONLRET,
}

var controlFlags = map[uint8]uint32{92: unix.PARENB, 93: unix.PARODD}

// setModes applies modes to the terminal fd. Speeds mean nothing on a
// pseudo-terminal and are ignored, and so is the character size, which stays 8 bits:
// a client asking for 7 would garble UTF-8.
func setModes(fd int, modes map[uint8]uint32) error {
	t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return err
	}
	for op, value := range modes {
		switch {
		case op == opISpeed || op == opOSpeed:
		case setChar(t, op, value):
		case setFlag(&t.Iflag, inputFlags[op], value):
		case setFlag(&t.Lflag, localFlags[op], value):
		case setFlag(&t.Oflag, outputFlags[op], value):
		case setFlag(&t.Cflag, controlFlags[op], value):
		}
	}
	return unix.IoctlSetTermios(fd, unix.TCSETS, t)
}

func setChar(t *unix.Termios, op uint8, value uint32) bool {
	i, ok := controlChars[op]
	if !ok {
		return false
	}
	if value == 255 { // RFC 4254: this character is not in use; Linux says 0
		value = 0
	}
	t.Cc[i] = uint8(value)
	return true
}

func setFlag(field *uint32, flag, value uint32) bool {
	if flag == 0 {
		return false
	}
	if value != 0 {
		*field |= flag
	} else {
		*field &^= flag
	}
	return true
}
