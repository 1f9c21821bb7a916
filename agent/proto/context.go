package proto

import (
	"strings"
	"unicode"

	"fairlead.dev/fairlead/disconnect"
)

// ContextConfigPath is what to GET on [APIPort] for a [ContextConfig] in JSON.
const ContextConfigPath = "/api/v0/context-config"

// MaxContextConfig bounds the JSON of a [ContextConfig], in bytes.
const MaxContextConfig = 16 << 20

// maxContextText bounds paths, names and descriptions, in bytes.
const maxContextText = 4 << 10

// ContextConfig is what a workspace has to tell coding agents. What it holds was
// written by whoever wrote the files of the workspace.
type ContextConfig struct {
	// Parts are context files and skills, in the order of the configuration.
	Parts []ContextPart `json:"parts"`
	// MCPConfigFiles are absolute paths of MCP server definitions, which may not exist.
	MCPConfigFiles []string `json:"mcp_config_files"`
	// Skipped says what was found but not taken.
	Skipped []ContextSkipped `json:"skipped"`
}

// ContextPartType says what a [ContextPart] is.
type ContextPartType string

// Types of parts.
const (
	ContextFile  ContextPartType = "context-file"
	ContextSkill ContextPartType = "skill"
)

// ContextPart is one instruction file, or one skill. A flag that is absent is false.
type ContextPart struct {
	Type ContextPartType `json:"type"`

	// Of context files: the absolute path, and the beginning of the content.
	Path      string `json:"context_file_path,omitempty"`
	Content   string `json:"context_file_content,omitempty"`
	Truncated bool   `json:"context_file_truncated,omitempty"` // the file goes on
	Cleaned   bool   `json:"context_file_cleaned,omitempty"`   // invisible characters were taken out

	// Of skills; the directory is an absolute path.
	SkillName        string `json:"skill_name,omitempty"`
	SkillDescription string `json:"skill_description,omitempty"`
	SkillDirectory   string `json:"skill_directory,omitempty"`
}

// ContextSkipped is a file or directory that was found but not taken, and why.
type ContextSkipped struct {
	Path   string `json:"path"`
	Reason string `json:"reason"`
}

// Clean makes c safe to show and to hand on: no list is nil, and no text holds what a
// person does not see or a terminal obeys. The agent does it, and so does the client,
// because an agent may be anybody's.
func (c *ContextConfig) Clean() {
	line := func(s *string) { *s = disconnect.ScrubTo(*s, maxContextText) }
	if c.Parts == nil {
		c.Parts = []ContextPart{}
	}
	if c.MCPConfigFiles == nil {
		c.MCPConfigFiles = []string{}
	}
	if c.Skipped == nil {
		c.Skipped = []ContextSkipped{}
	}
	for i := range c.Parts {
		p := &c.Parts[i]
		content, cleaned := CleanText(p.Content)
		p.Content, p.Cleaned = content, p.Cleaned || cleaned
		kind := string(p.Type)
		line(&kind)
		p.Type = ContextPartType(kind)
		line(&p.Path)
		line(&p.SkillName)
		line(&p.SkillDescription)
		line(&p.SkillDirectory)
	}
	for i := range c.MCPConfigFiles {
		line(&c.MCPConfigFiles[i])
	}
	for i := range c.Skipped {
		line(&c.Skipped[i].Path)
		line(&c.Skipped[i].Reason)
	}
}

const (
	zeroWidthJoiner = 0x200d
	emojiStyle      = 0xfe0f // a variation selector
)

// CleanText takes out of a text of several lines what a person does not see: control
// and format characters, marks that turn the direction of writing, characters without
// a shape. It reports whether there were any, line ends of other systems aside. Emoji
// stay whole.
func CleanText(s string) (text string, cleaned bool) {
	s = strings.ReplaceAll(strings.TrimPrefix(s, "\ufeff"), "\r\n", "\n")
	var last rune // that was kept
	text = strings.Map(func(r rune) rune {
		switch {
		case r == emojiStyle && unicode.IsSymbol(last):
		case r == zeroWidthJoiner && (unicode.IsSymbol(last) || last == emojiStyle):
		case !visible(r):
			cleaned = true
			return -1
		}
		last = r
		return r
	}, s)
	return text, cleaned
}

// visible is true of tab, line feed, spaces of any width and whatever has a shape.
func visible(r rune) bool {
	switch {
	case r == '\n', r == '\t', unicode.Is(unicode.Zs, r):
		return true
	case unicode.In(r, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector):
		return false
	}
	return unicode.IsPrint(r)
}
