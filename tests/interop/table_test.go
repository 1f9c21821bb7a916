package interop

// feature is a column of the table.
type feature string

const (
	connects feature = "connect"
	exits    feature = "exit status"
	uploads  feature = "upload"
	download feature = "download"
	terminal feature = "terminal"
	forwards feature = "forward"
)

var features = []feature{connects, exits, uploads, download, terminal, forwards}

// client is a row. A script is bash with -eu -o pipefail; that it ends well is the proof,
// so that it checks what came. It may use, besides programs that needs names:
//
//	$CONFIG  configuration of OpenSSH, with the host dev.fairlead
//	$PORT    on 127.0.0.1: leads to the agent's SSH server
//	$KEY     the agent's host key, as in SHA256:…
//	$DATA    the file to copy; $W/up and $W/down are where it goes
//	$W       a directory of its own, the same on both sides
//	$WEB     address of a page in the workspace that says "hello"; $SOCKET: the same page
//	$FREE    a port that nobody listens on; it is listened on in the test
type client struct {
	name    string
	needs   string // programs, separated by spaces
	check   string // a script that fails if something else is missing
	version string // a script that prints it
	prepare string // goes before each script
	scripts map[feature]string
}

const openSSH = `S() { ssh -F "$CONFIG" -o BatchMode=yes -o ExitOnForwardFailure=yes "$@"; }
C() { curl -sf --max-time 20 --retry 30 --retry-delay 1 --retry-all-errors "$@" | grep -qx hello; }
background() { "$@" & trap "kill $! 2>/dev/null || true; wait" EXIT; }
`

const sameUp, sameDown = `
cmp "$DATA" "$W/up"`, `
cmp "$DATA" "$W/down"`

const status3 = ` && exit 1 || [ $? = 3 ]`

var clients = []client{
	{
		name: "OpenSSH ssh", needs: "ssh curl", version: "ssh -V 2>&1", prepare: openSSH,
		scripts: map[feature]string{
			connects: `[ "$(S dev.fairlead echo ok)" = ok ]`,
			exits:    `S dev.fairlead exit 3` + status3,
			uploads:  `S dev.fairlead "cat >'$W/up'" <"$DATA"` + sameUp,
			download: `S dev.fairlead "cat '$DATA'" >"$W/down"` + sameDown,
			terminal: `S -tt dev.fairlead 'test -t 0 && test -t 1 && echo terminal' </dev/null | grep -q terminal`,
			forwards: `background S -N -L "$FREE:$WEB" dev.fairlead; C "http://127.0.0.1:$FREE/"`,
		},
	},
	{
		name: "OpenSSH scp (SFTP)", needs: "scp", version: "ssh -V 2>&1",
		scripts: map[feature]string{
			uploads:  `scp -q -s -F "$CONFIG" "$DATA" "dev.fairlead:$W/up"` + sameUp,
			download: `scp -q -s -F "$CONFIG" "dev.fairlead:$DATA" "$W/down"` + sameDown,
		},
	},
	{
		name: "OpenSSH scp (old protocol)", needs: "scp", version: "ssh -V 2>&1",
		scripts: map[feature]string{
			uploads:  `scp -q -O -F "$CONFIG" "$DATA" "dev.fairlead:$W/up"` + sameUp,
			download: `scp -q -O -F "$CONFIG" "dev.fairlead:$DATA" "$W/down"` + sameDown,
		},
	},
	{
		name: "OpenSSH sftp", needs: "sftp", version: "ssh -V 2>&1",
		prepare: `F() { sftp -q -b - -F "$CONFIG" dev.fairlead; }
`,
		scripts: map[feature]string{
			connects: `echo pwd | F | grep -q /`,
			uploads:  `printf 'put "%s" "%s"\nrename "%s" "%s"\ndf "%s"\n' "$DATA" "$W/new" "$W/new" "$W/up" "$W" | F` + sameUp,
			download: `printf 'get "%s" "%s"\n' "$DATA" "$W/down" | F` + sameDown,
		},
	},
	{
		name: "Dropbear dbclient", needs: "dbclient curl script", version: "dbclient -V 2>&1",
		prepare: openSSH + `D() { dbclient -y -y -T -p "$PORT" "$@"; }
`,
		scripts: map[feature]string{
			connects: `[ "$(D 127.0.0.1 echo ok </dev/null)" = ok ]`,
			exits:    `D 127.0.0.1 'exit 3' </dev/null` + status3,
			uploads:  `D 127.0.0.1 "cat >'$W/up'" <"$DATA"` + sameUp,
			download: `D 127.0.0.1 "cat '$DATA'" </dev/null >"$W/down"` + sameDown,
			terminal: `script -qec "dbclient -y -y -t -p $PORT 127.0.0.1 'test -t 0 && echo terminal'" /dev/null </dev/null | grep -q terminal`,
			forwards: `background dbclient -y -y -N -L "$FREE:$WEB" -p "$PORT" 127.0.0.1; C "http://127.0.0.1:$FREE/"`,
		},
	},
	{
		name: "PuTTY plink", needs: "plink curl", version: "plink -V",
		prepare: openSSH + `P() { plink -batch -ssh -l me -hostkey "$KEY" -P "$PORT" "$@"; }
`,
		scripts: map[feature]string{
			connects: `[ "$(P 127.0.0.1 echo ok)" = ok ]`,
			exits:    `P 127.0.0.1 'exit 3'` + status3,
			uploads:  `P 127.0.0.1 "cat >'$W/up'" <"$DATA"` + sameUp,
			download: `P 127.0.0.1 "cat '$DATA'" >"$W/down"` + sameDown,
			terminal: `P -t 127.0.0.1 'test -t 0 && echo terminal' | grep -q terminal`,
			forwards: `background plink -batch -ssh -l me -hostkey "$KEY" -P "$PORT" -N -L "$FREE:$WEB" 127.0.0.1; C "http://127.0.0.1:$FREE/"`,
		},
	},
	{
		name: "PuTTY psftp", needs: "psftp", version: "psftp -V",
		prepare: `P() { psftp -batch -l me -hostkey "$KEY" -P "$PORT" -b "$W/batch" 127.0.0.1; }
`,
		scripts: map[feature]string{
			connects: `echo pwd >"$W/batch"; P`,
			uploads:  `echo "put $DATA $W/up" >"$W/batch"; P` + sameUp,
			download: `echo "get $DATA $W/down" >"$W/batch"; P` + sameDown,
		},
	},
	{
		name: "paramiko", needs: "/usr/bin/python3", check: `/usr/bin/python3 -c 'import paramiko'`,
		version: `/usr/bin/python3 -c 'import paramiko; print("paramiko", paramiko.__version__)'`,
		prepare: `P() { /usr/bin/python3 "$SCRIPTS/paramiko_client.py" "$@"; }
`,
		scripts: map[feature]string{
			connects: `P connect`, exits: `P exit`, uploads: `P upload` + sameUp, download: `P download` + sameDown,
			terminal: `P terminal`, forwards: `P forward`,
		},
	},
	{
		name: "AsyncSSH", needs: "/usr/bin/python3", check: `/usr/bin/python3 -W ignore -c 'import asyncssh'`,
		version: `/usr/bin/python3 -W ignore -c 'import asyncssh; print("AsyncSSH", asyncssh.__version__)'`,
		prepare: `P() { /usr/bin/python3 -W ignore "$SCRIPTS/asyncssh_client.py" "$@"; }
`,
		scripts: map[feature]string{
			connects: `P connect`, exits: `P exit`, uploads: `P upload` + sameUp, download: `P download` + sameDown,
			terminal: `P terminal`, forwards: `P forward`,
		},
	},
	{
		name: "Net::SSH (Perl)", needs: "perl ssh", check: `perl -MNet::SSH -e 1`,
		version: `perl -MNet::SSH -e 'print "Net::SSH $Net::SSH::VERSION\n"'`,
		prepare: `P() { perl -MNet::SSH=ssh,ssh_cmd -e 'BEGIN { @Net::SSH::ssh_options = ("-F", $ENV{CONFIG}); } '"$1"; }
`,
		scripts: map[feature]string{
			connects: `P 'print ssh_cmd("dev.fairlead", "echo ok")' | grep -qx ok`,
			exits:    `P 'exit(ssh("dev.fairlead", "exit 3") >> 8)'` + status3,
		},
	},
	{
		name: "libssh2 (curl)", needs: "curl", check: `curl --version | grep -q libssh2`,
		version: `curl --version | grep -o 'libssh2/[0-9.]*'`,
		prepare: `H=sftp://me@127.0.0.1:$PORT
`,
		scripts: map[feature]string{
			connects: `curl -sfk "$H$W/" >/dev/null`,
			uploads:  `curl -sfk -T "$DATA" "$H$W/up"` + sameUp,
			download: `curl -sfk -o "$W/down" "$H$DATA"` + sameDown,
		},
	},
	{
		name: "libssh", needs: "gcc", check: `echo '#include <libssh/libssh.h>' | gcc -E - >/dev/null`,
		version: `awk '/define LIBSSH_VERSION_M/ { v = v dot $3; dot = "." } END { print "libssh", v }' /usr/include/libssh/libssh_version.h`,
		prepare: `gcc -O1 -o "$W/client" "$SCRIPTS/libssh_client.c" -lssh
P() { "$W/client" "$@"; }
`,
		scripts: map[feature]string{
			connects: `P connect`, exits: `P exit`, uploads: `P upload` + sameUp, download: `P download` + sameDown,
			terminal: `P terminal`, forwards: `P forward`,
		},
	},
	{
		name: "lftp", needs: "lftp ssh", version: "lftp --version | grep -o 'Version [0-9.]*'",
		prepare: `L() { lftp -c "set sftp:connect-program \"ssh -a -x -F $CONFIG\"; set net:max-retries 1; open sftp://dev.fairlead; $1"; }
`,
		scripts: map[feature]string{
			connects: `L "cls -d $W" | grep -q "$W"`,
			uploads:  `L "put $DATA -o $W/up"` + sameUp,
			download: `L "get $DATA -o $W/down"` + sameDown,
		},
	},
	{
		name: "sshfs", needs: "sshfs fusermount3 ssh", check: `test -w /dev/fuse`, version: "sshfs -V | grep SSHFS",
		prepare: `mkdir "$W/mount"
sshfs -F "$CONFIG" "dev.fairlead:$W" "$W/mount"
trap 'fusermount3 -uz "$W/mount"' EXIT
`,
		scripts: map[feature]string{
			connects: `touch "$W/seen"; test -e "$W/mount/seen"`,
			uploads:  `cp "$DATA" "$W/mount/up"; sync "$W/mount/up"` + sameUp,
			download: `cp "$DATA" "$W/there"; cp "$W/mount/there" "$W/down"` + sameDown,
		},
	},
	{
		name: "rclone", needs: "rclone", version: "rclone version | head -1",
		prepare: `R() { rclone --config /dev/null --retries 1 --sftp-host 127.0.0.1 --sftp-port "$PORT" --sftp-user me --sftp-pass "$(rclone obscure none)" "$@"; }
`,
		scripts: map[feature]string{
			connects: `R lsf ":sftp:$W"`,
			uploads:  `R copyto "$DATA" ":sftp:$W/up"` + sameUp,
			download: `R copyto ":sftp:$DATA" "$W/down"` + sameDown,
		},
	},
	{
		name: "rsync", needs: "rsync ssh", version: "rsync --version | grep -o 'version [0-9.]*'",
		scripts: map[feature]string{
			uploads:  `rsync -q -e "ssh -F $CONFIG" "$DATA" "dev.fairlead:$W/up"` + sameUp,
			download: `rsync -q -e "ssh -F $CONFIG" "dev.fairlead:$DATA" "$W/down"` + sameDown,
		},
	},
	{
		name: "git", needs: "git ssh", version: "git --version",
		prepare: `export GIT_SSH_COMMAND="ssh -F $CONFIG" GIT_CONFIG_GLOBAL=/dev/null
G() { git -C "$W/one" -c user.name=a -c user.email=a@example.com "$@"; }
git init -q --bare "$W/bare"; git init -q "$W/one"
cp "$DATA" "$W/one/file"; G add file; G commit -qm one
`,
		scripts: map[feature]string{
			uploads:  `G push -q "dev.fairlead:$W/bare" HEAD:main; git -C "$W/bare" show main:file | cmp - "$DATA"`,
			download: `git clone -q "dev.fairlead:$W/one" "$W/two"; cmp "$W/two/file" "$DATA"`,
		},
	},
	{
		name: "Ansible", needs: "ansible ssh", version: "ansible --version | head -1",
		prepare: `export ANSIBLE_HOME="$W" ANSIBLE_LOCAL_TEMP="$W/l" ANSIBLE_REMOTE_TEMP="$W/r" ANSIBLE_SSH_CONTROL_PATH_DIR="$W/cp"
A() { ansible dev.fairlead -i dev.fairlead, --ssh-common-args="-F $CONFIG -o ControlMaster=no -o ControlPersist=no" -e ansible_python_interpreter=/usr/bin/python3 "$@" >"$W/out" 2>&1 || { cat "$W/out"; return 1; }; }
`,
		scripts: map[feature]string{
			connects: `A -m ping; grep -q pong "$W/out"`,
			exits:    `A -m command -a 'sh -c "exit 3"' && exit 1 || grep -q rc=3 "$W/out"`,
			uploads:  `A -m copy -a "src=$DATA dest=$W/up"` + sameUp,
			download: `A -m fetch -a "src=$DATA dest=$W/down flat=yes"` + sameDown,
		},
	},
	{
		name: "Erlang ssh", needs: "erl", check: `erl -noshell -eval '{ok, _} = application:ensure_all_started(ssh), halt(0).'`,
		version: `erl -noshell -eval 'io:format("Erlang/OTP ~s~n", [erlang:system_info(otp_release)]), halt(0).'`,
		prepare: `E() { HOME="$W" escript "$SCRIPTS/erlang_client.escript" "$@"; }
`,
		scripts: map[feature]string{
			connects: `E connect`, exits: `E exit`, uploads: `E upload` + sameUp, download: `E download` + sameDown,
		},
	},
}

// More of what OpenSSH can do.
var openSSHDoes = []struct{ name, needs, script string }{
	{"`-W`", "ssh", `printf 'GET / HTTP/1.0\r\n\r\n' | S -W "$WEB" dev.fairlead | grep -qx hello`},
	{"`-R` to a port", "ssh curl", `background S -N -R "$FREE:$WEB" dev.fairlead; C "http://127.0.0.1:$FREE/"`},
	{"`-D`", "ssh curl", `background S -N -D "$FREE" dev.fairlead; C --socks5-hostname "127.0.0.1:$FREE" "http://$WEB/"`},
	{"`-L` to a unix socket", "ssh curl", `background S -N -L "$FREE:$SOCKET" dev.fairlead; C "http://127.0.0.1:$FREE/"`},
	{"`-L` from a unix socket", "ssh curl", `background S -N -L "$W/l:$WEB" dev.fairlead; C --unix-socket "$W/l" http://x/`},
	{"`-R` to a unix socket", "ssh curl", `background S -N -R "$W/r:$SOCKET" dev.fairlead; C --unix-socket "$W/r" http://x/`},
	{"ControlMaster, 20 sessions at once", "ssh", `M="-o ControlPath=$W/m"
S $M -o ControlMaster=yes -fN dev.fairlead </dev/null >/dev/null 2>&1
trap 'S $M -O exit dev.fairlead' EXIT
for i in $(seq 20); do S $M dev.fairlead "sleep 1; echo $i" </dev/null >"$W/$i" & all="${all-} $!"; done
for p in $all; do wait $p; done
[ "$(cat "$W"/[0-9]* | sort -n | tr '\n' ' ')" = "$(seq 20 | tr '\n' ' ')" ]`},
	{"keepalives (`ServerAliveInterval`)", "ssh", `[ "$(S -o ServerAliveInterval=1 -o ServerAliveCountMax=2 dev.fairlead 'sleep 4; echo ok')" = ok ]`},
	{"`SetEnv`", "ssh", `[ "$(S -o SetEnv='LC_ALL=C FAIRLEAD_APP=table' dev.fairlead 'echo $LC_ALL $FAIRLEAD_APP')" = "C table" ]`},
	{"ssh-audit finds nothing red", "ssh-audit", `ssh-audit -4 -n -p "$PORT" 127.0.0.1 >"$W/audit" || [ $? -lt 3 ]
grep -q '(kex) curve25519-sha256' "$W/audit" && ! grep -F '[fail]' "$W/audit"`},
}
