package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"
)

// option is one row of a command's option table: the flag --name, the key "name" of
// the YAML file and the variable FAIRLEAD_NAME. The row is all there is to write; the
// help, --print-config and docs/options.md come from it.
type option struct {
	name  string
	value any // pointer to where it goes; what stands there is the default
	usage string
	// shown is the default for the documentation, where the real one depends on the machine.
	shown string
	// secret values never leave the process, and have no flag: others can read those.
	secret bool
	// argument says that the command's argument is the flag.
	argument bool
}

// noteSource is the annotation of a flag that says where its value came from; without
// it, that is the command line, or the default.
const noteSource = "source"

// optionTable is the options of one command.
type optionTable struct {
	cmd    *cobra.Command
	extra  *pflag.FlagSet // the rows without a flag
	rows   map[string]option
	config string
	print  string
}

// addOptions gives cmd the flags of rows, --config and --print-config. What is added
// to its flags otherwise (logging) belongs to the table as well.
func addOptions(cmd *cobra.Command, rows ...option) *optionTable {
	o := &optionTable{cmd: cmd, extra: pflag.NewFlagSet(cmd.Name(), pflag.ContinueOnError), rows: map[string]option{}}
	for _, row := range rows {
		o.rows[row.name] = row
		flags := cmd.Flags()
		if row.secret || row.argument {
			flags = o.extra
		}
		switch v := row.value.(type) {
		case *string:
			flags.StringVar(v, row.name, *v, row.usage)
		case *bool:
			flags.BoolVar(v, row.name, *v, row.usage)
		case *int:
			flags.IntVar(v, row.name, *v, row.usage)
		case *time.Duration:
			flags.DurationVar(v, row.name, *v, row.usage)
		case *[]string:
			flags.StringSliceVar(v, row.name, *v, row.usage)
		default:
			panic(fmt.Sprintf("option %s: a %T cannot be one", row.name, row.value))
		}
	}
	cmd.Flags().StringVar(&o.config, "config", "", "YAML file with options; flags and variables go before it")
	cmd.Flags().StringVar(&o.print, "print-config", "", "print each option's value and source and exit: yaml, json, or markdown for what there is")
	cmd.Flags().Lookup("print-config").NoOptDefVal = "yaml"
	return o
}

// run is the command's RunE: it gives the options their values, then calls f, unless
// only the values were asked for.
func (o *optionTable) run(f func(cmd *cobra.Command, args []string) error) func(*cobra.Command, []string) error {
	return run(func(cmd *cobra.Command, args []string) error {
		if err := o.load(args); err != nil {
			return withCode(exitUsage, err)
		}
		if o.print != "" {
			return o.printConfig(cmd.OutOrStdout())
		}
		return f(cmd, args)
	})
}

// load takes what the command line and the environment left alone from the file; for
// flags, [bindEnv] has seen to the environment before.
func (o *optionTable) load(args []string) error {
	for _, f := range o.all() {
		row := o.rows[f.Name]
		if row.argument && len(args) > 0 {
			f.Changed = f.Value.Set(args[0]) == nil
			continue
		}
		if value, ok := os.LookupEnv(envName(f.Name)); ok && o.extra.Lookup(f.Name) == f {
			if err := setFrom(f, value, "env "+envName(f.Name)); err != nil {
				return fmt.Errorf("%s is not valid: %w", envName(f.Name), err)
			}
		}
	}
	if o.config == "" {
		return nil
	}
	data, err := os.ReadFile(o.config)
	if err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	return o.loadYAML(data)
}

// setFrom gives f a value and says where it came from.
func setFrom(f *pflag.Flag, value, source string) error {
	if err := f.Value.Set(value); err != nil {
		return err
	}
	f.Changed = true
	note(f, source)
	return nil
}

func note(f *pflag.Flag, source string) {
	if f.Annotations == nil {
		f.Annotations = map[string][]string{}
	}
	f.Annotations[noteSource] = []string{source}
}

// loadYAML reads the file's one mapping from option to value.
func (o *optionTable) loadYAML(data []byte) error {
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		return fmt.Errorf("%s is not YAML: %w", o.config, err)
	}
	if doc.Kind == 0 { // nothing but comments
		return nil
	}
	root := doc.Content[0]
	if root.Kind != yaml.MappingNode {
		return fmt.Errorf("%s:%d: want lines of `option: value`", o.config, root.Line)
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(root.Content); i += 2 {
		key, value := root.Content[i], root.Content[i+1]
		if seen[key.Value] {
			return fmt.Errorf("%s:%d: %s stands here twice", o.config, key.Line, key.Value)
		}
		seen[key.Value] = true
		if err := o.setYAML(key.Value, value); err != nil {
			return fmt.Errorf("%s:%d: %w", o.config, key.Line, err)
		}
	}
	return nil
}

func (o *optionTable) setYAML(name string, value *yaml.Node) error {
	i := slices.IndexFunc(o.all(), func(f *pflag.Flag) bool { return f.Name == name })
	if i < 0 {
		return fmt.Errorf("%q is not an option of %s", name, o.cmd.CommandPath())
	}
	f := o.all()[i]
	if o.rows[name].secret {
		if err := o.private(name); err != nil {
			return err
		}
	}
	if f.Changed { // the command line and the environment go before the file
		return nil
	}
	source := "file " + o.config
	if value.Kind == yaml.SequenceNode {
		return setList(f, value, source)
	}
	if value.Kind != yaml.ScalarNode || value.Tag == "!!null" {
		return fmt.Errorf("%s wants a value", name)
	}
	if err := setFrom(f, value.Value, source); err != nil {
		return fmt.Errorf("%s: %q is not valid: %w", name, value.Value, err)
	}
	return nil
}

func setList(f *pflag.Flag, list *yaml.Node, source string) error {
	slice, ok := f.Value.(pflag.SliceValue)
	if !ok {
		return fmt.Errorf("%s takes one value, not a list", f.Name)
	}
	var values []string
	if err := list.Decode(&values); err != nil {
		return fmt.Errorf("%s wants a list of plain values", f.Name)
	}
	if err := slice.Replace(values); err != nil {
		return fmt.Errorf("%s: %w", f.Name, err)
	}
	f.Changed = true
	note(f, source)
	return nil
}

// private refuses a secret in a file that others can read.
func (o *optionTable) private(name string) error {
	info, err := os.Stat(o.config)
	if err != nil {
		return err
	}
	if runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("%s is a secret, and others may read this file: chmod 600 it", name)
	}
	return nil
}

// onlyFlags say what one run is to do; a file that holds them makes no sense.
var onlyFlags = []string{"help", "config", "print-config", "output"}

// all returns the options, sorted by name: the rows, and the flags that stand beside
// the table.
func (o *optionTable) all() []*pflag.Flag {
	var all []*pflag.Flag
	collect := func(f *pflag.Flag) {
		if !slices.Contains(onlyFlags, f.Name) && !f.Hidden {
			all = append(all, f)
		}
	}
	o.cmd.LocalNonPersistentFlags().VisitAll(collect)
	o.extra.VisitAll(collect)
	slices.SortFunc(all, func(a, b *pflag.Flag) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// setting is one option's value as --print-config tells it.
type setting struct {
	Name   string `json:"name"`
	Value  string `json:"value"`
	Source string `json:"source"` // default, flag, argument, "env NAME" or "file PATH"
}

func (o *optionTable) settings() []setting {
	var all []setting
	for _, f := range o.all() {
		s := setting{Name: f.Name, Value: f.Value.String(), Source: "default"}
		row := o.rows[f.Name]
		switch {
		case f.Annotations[noteSource] != nil:
			s.Source = f.Annotations[noteSource][0]
		case f.Changed && row.argument:
			s.Source = "argument"
		case f.Changed:
			s.Source = "flag"
		}
		if row.secret && s.Value != "" {
			s.Value = "(hidden)"
		}
		all = append(all, s)
	}
	return all
}

// printConfig writes the options as a file that --config takes, except for secrets,
// each with its source; or as JSON.
func (o *optionTable) printConfig(w io.Writer) error {
	all := o.settings()
	switch o.print {
	case "json":
		return printJSON(w, all)
	case "markdown":
		return o.printTable(w)
	case "yaml":
	default:
		return withCode(exitUsage, fmt.Errorf("--print-config=%s is not known; use yaml, json or markdown", o.print))
	}
	lines, width := make([]string, len(all)), 0
	for i, s := range all {
		value, err := json.Marshal(s.Value) // which YAML is a superset of
		if err != nil {
			return err
		}
		text := s.Value
		if f := o.cmd.Flags().Lookup(s.Name); f == nil || f.Value.Type() == "string" {
			text = string(value)
		}
		lines[i] = s.Name + ": " + text
		if o.rows[s.Name].secret {
			lines[i] = "# " + lines[i]
		}
		width = max(width, len(lines[i]))
	}
	var err error
	for i, s := range all {
		_, e := fmt.Fprintf(w, "%-*s  # %s\n", width, lines[i], s.Source)
		err = errors.Join(err, e)
	}
	return err
}

// printTable writes what options there are, as docs/options.md has it.
func (o *optionTable) printTable(w io.Writer) error {
	_, err := fmt.Fprint(w, "| option | variable | default | meaning |\n|---|---|---|---|\n")
	for _, f := range o.all() {
		name, row := "`--"+f.Name+"`", o.rows[f.Name]
		switch {
		case row.argument:
			name = "`" + f.Name + "` (the argument)"
		case row.secret:
			name = "`" + f.Name + "` (no flag)"
		}
		byDefault := "`" + f.DefValue + "`"
		switch {
		case row.shown != "":
			byDefault = row.shown
		case f.DefValue == "" || f.DefValue == "[]":
			byDefault = ""
		}
		_, e := fmt.Fprintf(w, "| %s | `%s` | %s | %s |\n", name, envName(f.Name), byDefault, f.Usage)
		err = errors.Join(err, e)
	}
	return err
}
