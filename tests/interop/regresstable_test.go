package interop

// regressTest is a test of OpenSSH that runs against our SSH server.
type regressTest struct {
	name  string
	note  string      // what edits change, and why
	edits [][2]string // regular expressions, and what replaces them
}

// What both OpenSSH of Debian 12 and the agent have.
const (
	ourKex     = "curve25519-sha256 curve25519-sha256@libssh.org diffie-hellman-group16-sha512"
	ourAEADs   = "aes128-gcm@openssh.com aes256-gcm@openssh.com chacha20-poly1305@openssh.com"
	ourCiphers = "aes128-ctr aes192-ctr aes256-ctr " + ourAEADs
	ourMACs    = "hmac-sha2-256 hmac-sha2-512 hmac-sha2-256-etm@openssh.com hmac-sha2-512-etm@openssh.com"
)

const onlyOurs = "algorithms: those that the agent offers"

func algorithms(kind, ours string) [2]string {
	return [2]string{"`\\$\\{SSH\\} -Q " + kind + "`", ours}
}

var regressTests = []regressTest{
	{name: "connect"},
	{name: "proxy-connect", note: "the shim's connection has addresses, where sshd says UNKNOWN", edits: [][2]string{{`\[ "\$SSH_CONNECTION" != "UNKNOWN 65535 UNKNOWN 65535" \]`, `[ -z "$$SSH_CONNECTION" ]`}}},
	{name: "connect-uri"},
	{name: "proto-version"},
	{name: "exit-status"},
	{name: "exit-status-signal"},
	{name: "envpass", note: "without the server's SetEnv: a workspace's variables are defaults, and the client's win", edits: [][2]string{{`(?s)\ntrace "server setenv wins".*`, "\n"}}},
	{name: "transfer"},
	{name: "rekey", note: onlyOurs + ", passed on as was meant (a misspelt variable); without the server's own limits, which are not to be set", edits: [][2]string{
		algorithms("kex", ourKex), algorithms("cipher", ourCiphers), algorithms("mac", ourMACs), algorithms("cipher-auth", ourAEADs),
		{`_kexopts"`, `_kexopt"`}, {`for s in 5 10; do`, `for s in 5; do`},
		{`(?s)\nfor s in 16 1k 128k 256k; do\n\tverbose "server rekeylimit.*`, "\n"},
	}},
	{name: "stderr-data"},
	{name: "stderr-after-eof"},
	{name: "broken-pipe"},
	{name: "try-ciphers", note: onlyOurs, edits: [][2]string{algorithms("cipher", ourCiphers), algorithms("mac", ourMACs)}},
	{name: "yes-head"},
	{name: "agent"},
	{name: "keyscan", note: "key types: Ed25519, which is the agent's", edits: [][2]string{{`for t in \$SSH_KEYTYPES`, "for t in ssh-ed25519"}}},
	{name: "scp"},
	{name: "scp3"},
	{name: "scp-uri"},
	{name: "sftp"},
	{name: "sftp-cmds", note: "without cp, a copy within the server: the agent does not offer it (copy-data), and sftp says so", edits: [][2]string{{`(?s)\nverbose "\$tid: cp".*?\ncmp [^\n]*\n`, "\n"}}},
	{name: "sftp-badcmds"},
	{name: "sftp-batch"},
	{name: "sftp-glob"},
	{name: "sftp-uri"},
	{name: "dynamic-forward"},
	{name: "forwarding"},
	{name: "multiplex", note: "what is not SSH is answered with the server's name only, where sshd adds a sentence", edits: [][2]string{{`"Invalid SSH identification string"`, `"^SSH-2.0-Fairlead"`}}},
	{name: "localcommand"},
	{name: "portnum"},
	{name: "kextype", note: onlyOurs, edits: [][2]string{algorithms("kex", ourKex)}},
	{name: "host-expand"},
	{name: "integrity", note: onlyOurs, edits: [][2]string{algorithms("mac", ourMACs), algorithms("cipher-auth", ourAEADs)}},
	{name: "knownhosts"},
}

// regressSkipped has the reason of every other test.
var regressSkipped = []struct{ names, why string }{
	{"brokenkeys keytype cert-hostkey cert-userkey keys-command forward-control krl multipubkey limit-keytype principals-command cert-file allow-deny-users authinfo hostbased key-options agent-restrict knownhosts-command sshfp-connect hostkey-agent hostkey-rotate",
		"authentication and host keys: the tailnet says who calls, the server pins the agent's one host key, and SSH itself asks for neither"},
	{"forcecommand banner sftp-chroot login-timeout reconfigure reexec connect-privsep cfgmatch cfgmatchlisten servcfginclude channel-timeout connection-timeout",
		"sshd's own configuration or processes: the agent has policies of the workspace instead (tests/cluster)"},
	{"agent-getpeereid agent-timeout agent-ptrace agent-subprocess agent-pkcs11 keygen-change keygen-comment keygen-convert keygen-knownhosts keygen-moduli keygen-sshfp sshcfgparse cfgparse addrmatch percent cfginclude sshsig",
		"OpenSSH's programs by themselves: no server is met, or only to be there"},
	{"sftp-perm", "options of the program sftp-server (read-only, lists of requests)"},
	{"proto-mismatch", "wants sshd's exit status 255 for a client of SSH 1; the agent closes such a connection"},
	{"dhgex", "group exchange, which the agent does not offer"},
	{"putty-transfer putty-ciphers putty-kex", "PuTTY is given the RSA host key, and the agent's is Ed25519; plink and psftp are above"},
	{"conch-ciphers", "Conch is no client of the list, and AsyncSSH and paramiko stand for Python"},
}
