/* One feature of libssh against a workspace: libssh_client FEATURE. */
#include <fcntl.h>
#include <libssh/libssh.h>
#include <libssh/sftp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static ssh_session session;
static char buffer[16384];

static void check(int ok, const char *what) {
	if (ok)
		return;
	fprintf(stderr, "%s: %s\n", what, ssh_get_error(session));
	exit(1);
}

/* Runs a command, and returns its exit status; what it prints is in buffer. */
static int run(const char *command, int terminal) {
	ssh_channel channel = ssh_channel_new(session);
	size_t have = 0;
	int n, status;
	check(channel && ssh_channel_open_session(channel) == SSH_OK, "open a session");
	check(!terminal || ssh_channel_request_pty(channel) == SSH_OK, "request a terminal");
	check(ssh_channel_request_exec(channel, command) == SSH_OK, "run a command");
	while ((n = ssh_channel_read(channel, buffer + have, sizeof buffer - 1 - have, 0)) > 0)
		have += n;
	check(n == 0, "read its output");
	buffer[have] = 0;
	ssh_channel_send_eof(channel);
	ssh_channel_close(channel);
	status = ssh_channel_get_exit_status(channel);
	ssh_channel_free(channel);
	return status;
}

static void copy(const char *name, int up) {
	const char *data = getenv("DATA");
	char other[4096];
	sftp_session sftp = sftp_new(session);
	sftp_file file;
	ssize_t n;
	int local;
	snprintf(other, sizeof other, "%s/%s", getenv("W"), name);
	check(sftp && sftp_init(sftp) == SSH_OK, "start sftp");
	file = up ? sftp_open(sftp, other, O_WRONLY | O_CREAT | O_TRUNC, 0600) : sftp_open(sftp, data, O_RDONLY, 0);
	local = up ? open(data, O_RDONLY) : open(other, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	check(file && local >= 0, "open the file");
	if (up)
		while ((n = read(local, buffer, sizeof buffer)) > 0)
			check(sftp_write(file, buffer, n) == n, "write");
	else
		while ((n = sftp_read(file, buffer, sizeof buffer)) > 0)
			check(write(local, buffer, n) == n, "write");
	check(n == 0, "read");
	check(sftp_close(file) == SSH_OK && close(local) == 0, "close the file");
	sftp_free(sftp);
}

static void forward(void) {
	static const char request[] = "GET / HTTP/1.0\r\n\r\n";
	char host[64];
	int port, n;
	size_t have = 0;
	ssh_channel channel = ssh_channel_new(session);
	check(sscanf(getenv("WEB"), "%63[^:]:%d", host, &port) == 2, "address of the page");
	check(channel && ssh_channel_open_forward(channel, host, port, "127.0.0.1", 1) == SSH_OK, "open a forward");
	check(ssh_channel_write(channel, request, sizeof request - 1) == sizeof request - 1, "send");
	while ((n = ssh_channel_read(channel, buffer + have, sizeof buffer - 1 - have, 0)) > 0)
		have += n;
	buffer[have] = 0;
	check(strstr(buffer, "hello\n") != NULL, "the page");
	ssh_channel_free(channel);
}

int main(int argc, char **argv) {
	const char *feature = argc == 2 ? argv[1] : "";
	int port = atoi(getenv("PORT"));
	session = ssh_new();
	check(session != NULL, "start");
	ssh_options_set(session, SSH_OPTIONS_HOST, "127.0.0.1");
	ssh_options_set(session, SSH_OPTIONS_PORT, &port);
	ssh_options_set(session, SSH_OPTIONS_USER, "me");
	check(ssh_connect(session) == SSH_OK, "connect");
	check(ssh_userauth_none(session, NULL) == SSH_AUTH_SUCCESS, "log in");
	if (!strcmp(feature, "connect"))
		check(run("echo ok", 0) == 0 && !strcmp(buffer, "ok\n"), "echo");
	else if (!strcmp(feature, "exit"))
		check(run("exit 3", 0) == 3, "exit status");
	else if (!strcmp(feature, "terminal"))
		check(run("test -t 0 && echo terminal", 1) == 0 && strstr(buffer, "terminal"), "terminal");
	else if (!strcmp(feature, "upload"))
		copy("up", 1);
	else if (!strcmp(feature, "download"))
		copy("down", 0);
	else if (!strcmp(feature, "forward"))
		forward();
	else
		check(0, "no such feature");
	ssh_disconnect(session);
	ssh_free(session);
	return 0;
}
