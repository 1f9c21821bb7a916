package agentcontextconfig

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"

	"fairlead.dev/fairlead/agent/proto"
	"fairlead.dev/fairlead/disconnect"
)

const (
	// maxFrontMatter is where a skill's front matter has to end, in bytes.
	maxFrontMatter = 8 << 10
	// maxDescription bounds a skill's description, in bytes.
	maxDescription = 1 << 10
	maxSkillName   = 64
)

var skillName = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)

// skillMeta is what a skill's meta file says of it.
type skillMeta struct{ name, description string }

// parseSkill reads the front matter at the beginning of a skill's meta file: YAML
// between two lines of three dashes.
func parseSkill(data []byte) (skillMeta, error) {
	block, err := frontMatter(data)
	if err != nil {
		return skillMeta{}, err
	}
	// A node, not a value: aliases are not expanded, so that a few lines cannot grow
	// without bound.
	var doc yaml.Node
	if err := yaml.Unmarshal(block, &doc); err != nil || doc.Kind != yaml.DocumentNode || doc.Content[0].Kind != yaml.MappingNode {
		return skillMeta{}, errors.New("its front matter is not YAML of the form `name: value`")
	}
	var m skillMeta
	fields := doc.Content[0].Content
	for i := 0; i+1 < len(fields); i += 2 {
		into := map[string]*string{"name": &m.name, "description": &m.description}[fields[i].Value]
		switch {
		case into == nil:
		case fields[i+1].Kind != yaml.ScalarNode:
			return skillMeta{}, fmt.Errorf("the %s in its front matter is not plain text", fields[i].Value)
		case *into == "":
			*into = fields[i+1].Value
		}
	}
	if len(m.name) > maxSkillName || !skillName.MatchString(m.name) {
		return skillMeta{}, fmt.Errorf("the name in its front matter is not one of 1 to %d small letters, digits and single dashes", maxSkillName)
	}
	text, _ := proto.CleanText(m.description)
	m.description = disconnect.ScrubTo(strings.Join(strings.Fields(text), " "), maxDescription)
	if m.description == "" {
		return skillMeta{}, errors.New("its front matter has no description")
	}
	return m, nil
}

// frontMatter returns what stands between the first two lines of three dashes.
func frontMatter(data []byte) ([]byte, error) {
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	begin, end := -1, 0
	for line := range bytes.Lines(data) {
		dashes := bytes.Equal(bytes.TrimRight(line, " \t\r\n"), []byte("---"))
		switch {
		case begin < 0 && !dashes:
			return nil, errors.New("it does not begin with front matter")
		case begin < 0:
			begin = len(line)
		case dashes:
			return data[begin:end], nil
		}
		end += len(line)
	}
	return nil, fmt.Errorf("its front matter does not end within %d bytes", maxFrontMatter)
}
