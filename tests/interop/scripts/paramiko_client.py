"""One feature of paramiko against a workspace: paramiko_client.py FEATURE."""
import os
import socket
import sys

import paramiko

env = os.environ
work = env["W"]


def run(transport, command, pty=False):
    channel = transport.open_session()
    if pty:
        channel.get_pty()
    channel.exec_command(command)
    out = channel.makefile("rb").read()
    return out, channel.recv_exit_status()


def sftp(transport):
    return paramiko.SFTPClient.from_transport(transport)


def forward(transport):
    host, port = env["WEB"].split(":")
    channel = transport.open_channel("direct-tcpip", (host, int(port)), ("127.0.0.1", 1))
    channel.sendall(b"GET / HTTP/1.0\r\n\r\n")
    assert channel.makefile("rb").read().endswith(b"hello\n")


features = {
    "connect": lambda t: check(run(t, "echo ok") == (b"ok\n", 0)),
    "exit": lambda t: check(run(t, "exit 3")[1] == 3),
    "upload": lambda t: sftp(t).put(env["DATA"], work + "/up"),
    "download": lambda t: sftp(t).get(env["DATA"], work + "/down"),
    "terminal": lambda t: check(b"terminal" in run(t, "test -t 0 && echo terminal", pty=True)[0]),
    "forward": forward,
}


def check(ok):
    assert ok


transport = paramiko.Transport(socket.create_connection(("127.0.0.1", int(env["PORT"]))))
transport.start_client(timeout=30)
transport.auth_none("me")
features[sys.argv[1]](transport)
transport.close()
