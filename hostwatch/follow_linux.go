package hostwatch

import (
	"context"
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// groups are the kernel's messages of links, addresses and routes.
const groups = unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR | unix.RTMGRP_IPV4_ROUTE | unix.RTMGRP_IPV6_ROUTE

// follow listens to the kernel. What a message says is not read: several belong to one
// change, and some may be lost.
func (systemLinks) follow(ctx context.Context, changed chan<- struct{}) {
	socket, err := listen()
	if err != nil {
		poll(ctx, changed) // a sandbox that forbids it
		return
	}
	stop := context.AfterFunc(ctx, func() { _ = socket.Close() })
	defer func() {
		if stop() {
			_ = socket.Close()
		}
	}()
	kick(changed) // for what happened before it listened
	buf := make([]byte, 4096)
	for {
		_, err := socket.Read(buf)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && !errors.Is(err, unix.ENOBUFS): // which is: some messages are lost
			poll(ctx, changed)
			return
		}
		kick(changed)
	}
}

func listen() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		_ = unix.Close(fd)
		return nil, os.NewSyscallError("bind", err)
	}
	return os.NewFile(uintptr(fd), "rtnetlink"), nil
}
