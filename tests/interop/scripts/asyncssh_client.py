"""One feature of AsyncSSH against a workspace: asyncssh_client.py FEATURE."""
import asyncio
import os
import sys

import asyncssh

env = os.environ
work = env["W"]


async def main(feature):
    async with asyncssh.connect("127.0.0.1", int(env["PORT"]), username="me", known_hosts=None,
                                client_keys=None, config=None) as conn:
        if feature == "connect":
            assert (await conn.run("echo ok")).stdout == "ok\n"
        elif feature == "exit":
            assert (await conn.run("exit 3")).exit_status == 3
        elif feature == "upload":
            async with conn.start_sftp_client() as sftp:
                await sftp.put(env["DATA"], work + "/up")
        elif feature == "download":
            async with conn.start_sftp_client() as sftp:
                await sftp.get(env["DATA"], work + "/down")
        elif feature == "terminal":
            done = await conn.run("test -t 0 && echo terminal", term_type="xterm")
            assert "terminal" in done.stdout
        elif feature == "forward":
            host, port = env["WEB"].split(":")
            reader, writer = await conn.open_connection(host, int(port))
            writer.write(b"GET / HTTP/1.0\r\n\r\n")
            assert (await reader.read()).endswith(b"hello\n")


asyncio.run(main(sys.argv[1]))
