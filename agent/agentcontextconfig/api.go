// Package agentcontextconfig finds what a workspace has to tell coding agents:
// instruction files, skills, and where MCP server definitions lie. Paths are resolved
// on every call against the directory of the agent's current manifest, so that a
// manifest that changes on reconnection is followed.
//
// What it reads may be a stranger's: a repository that somebody cloned. So it reads
// regular files only, follows no link out of the directory that it was told to look in,
// takes a bounded time and memory, and gives nothing that a person would not see.
//
// It serves nothing (package agent does), and does not read MCP server definitions,
// which may hold secrets.
package agentcontextconfig

import (
	"os"
	"path/filepath"
	"strings"
)

// Names of the environment variables that [ConfigFromEnv] reads. Several values are
// separated by commas.
const (
	EnvInstructionsDirs = "FAIRLEAD_AGENT_CONTEXT_INSTRUCTIONS_DIRS"
	EnvInstructionsFile = "FAIRLEAD_AGENT_CONTEXT_INSTRUCTIONS_FILE"
	EnvSkillsDirs       = "FAIRLEAD_AGENT_CONTEXT_SKILLS_DIRS"
	EnvSkillMetaFile    = "FAIRLEAD_AGENT_CONTEXT_SKILL_META_FILE"
	EnvMCPConfigFiles   = "FAIRLEAD_AGENT_CONTEXT_MCP_CONFIG_FILES"
)

// Defaults for what a [Config] leaves empty.
const (
	DefaultInstructionsDirs = "." // the manifest's directory
	DefaultInstructionsFile = "AGENTS.md"
	DefaultSkillsDirs       = ".agents/skills"
	DefaultSkillMetaFile    = "SKILL.md"
	DefaultMCPConfigFiles   = ".mcp.json"
)

// Config says where context lies. Each list is comma-separated; a path is absolute,
// or begins with "~", or is relative to the manifest's directory. An empty field
// means its default.
type Config struct {
	InstructionsDirs string
	InstructionsFile string
	SkillsDirs       string
	SkillMetaFile    string
	MCPConfigFiles   string
}

// ConfigFromEnv reads the configuration from the environment and removes it from
// there, so that the processes of sessions do not inherit it.
func ConfigFromEnv() Config {
	return Config{
		InstructionsDirs: takeEnv(EnvInstructionsDirs),
		InstructionsFile: takeEnv(EnvInstructionsFile),
		SkillsDirs:       takeEnv(EnvSkillsDirs),
		SkillMetaFile:    takeEnv(EnvSkillMetaFile),
		MCPConfigFiles:   takeEnv(EnvMCPConfigFiles),
	}
}

func takeEnv(name string) string {
	value := os.Getenv(name)
	_ = os.Unsetenv(name) // fails only for an invalid name
	return value
}

// API answers where context lies. It is safe for concurrent use.
type API struct {
	workingDir func() string
	config     Config
}

// NewAPI returns an API that resolves relative paths against workingDir, which it
// asks on every call and which may answer "" while the directory is not known.
func NewAPI(workingDir func() string, config Config) *API {
	if config.InstructionsDirs == "" {
		config.InstructionsDirs = DefaultInstructionsDirs
	}
	if config.InstructionsFile == "" {
		config.InstructionsFile = DefaultInstructionsFile
	}
	if config.SkillsDirs == "" {
		config.SkillsDirs = DefaultSkillsDirs
	}
	if config.SkillMetaFile == "" {
		config.SkillMetaFile = DefaultSkillMetaFile
	}
	if config.MCPConfigFiles == "" {
		config.MCPConfigFiles = DefaultMCPConfigFiles
	}
	return &API{workingDir: workingDir, config: config}
}

// MCPConfigFiles returns the absolute paths of the MCP server definitions, whether
// or not the files exist.
func (a *API) MCPConfigFiles() []string {
	return resolve(a.workingDir(), a.config.MCPConfigFiles)
}

// resolve makes the paths of a comma-separated list absolute. A relative path is
// left out while dir is unknown.
func resolve(dir, list string) []string {
	paths := []string{}
	for _, p := range places(dir, list) {
		paths = append(paths, p.path())
	}
	return paths
}

// place is a directory to look in. Nothing outside of root is read, wherever a link
// leads: for a relative path that is the manifest's directory, and for one that the
// agent's operator has spelled out, the directory itself.
type place struct{ root, sub string }

func (p place) path() string { return filepath.Join(p.root, p.sub) }

func places(dir, list string) []place {
	var all []place
	for entry := range strings.SplitSeq(list, ",") {
		entry = strings.TrimSpace(entry)
		path, ok := absolute(dir, entry)
		switch {
		case !ok:
		case path == filepath.Join(dir, entry) && filepath.IsLocal(entry):
			all = append(all, place{dir, filepath.Clean(entry)})
		default:
			all = append(all, place{path, "."})
		}
	}
	return all
}

func absolute(dir, path string) (string, bool) {
	if path == "" {
		return "", false
	}
	if path == "~" || strings.HasPrefix(path, "~/") {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", false
		}
		return filepath.Join(home, strings.TrimPrefix(path, "~")), true
	}
	if filepath.IsAbs(path) {
		return filepath.Clean(path), true
	}
	if !filepath.IsAbs(dir) {
		return "", false
	}
	return filepath.Join(dir, path), true
}
