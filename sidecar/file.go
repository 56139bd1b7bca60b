package sidecar

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// A FileError is what is wrong with a config file: each problem with its line.
type FileError struct {
	Problems []FileProblem
}

// A FileProblem is one of them.
type FileProblem struct {
	File string
	Line int    // 0 where the file does not mention what is wrong
	Text string // with the setting's name
}

func (e *FileError) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = fmt.Sprintf("%s:%d: %s", p.File, p.Line, p.Text)
		if p.Line == 0 {
			lines[i] = fmt.Sprintf("%s: %s", p.File, p.Text)
		}
	}
	return strings.Join(lines, "\n")
}

// ParseSettings reads a config file in YAML. What it does not know is an error.
// override, if not nil, is called with what was read, before it is checked:
// flags come before the file. The error is a *FileError that lists every
// problem.
func ParseSettings(name string, text []byte, override func(*Settings) error) (*Settings, error) {
	f := &fileReader{name: name, lines: make(map[string]int), unread: make(map[string]bool), servers: make(map[string]int)}
	f.all = f.settings.All()
	f.read(text)
	if len(f.problems) > 0 {
		if override == nil {
			f.invalid(f.settings.Validate(), f.independent)
		}
		return nil, f.err()
	}
	if override != nil {
		if err := override(&f.settings); err != nil {
			return nil, err
		}
	}
	if err := f.settings.Validate(); err != nil {
		f.invalid(err, nil)
		return nil, f.err()
	}
	return &f.settings, nil
}

type fileReader struct {
	name     string
	settings Settings
	all      []Setting
	lines    map[string]int  // of the settings that the file has
	unread   map[string]bool // those of them whose values can not be read
	servers  map[string]int  // the lines of the servers, by their text
	problems []FileProblem
}

func (f *fileReader) bad(line int, format string, args ...any) {
	f.problems = append(f.problems, FileProblem{f.name, line, fmt.Sprintf(format, args...)})
}

func (f *fileReader) err() error {
	slices.SortStableFunc(f.problems, func(a, b FileProblem) int { return cmp.Compare(a.Line, b.Line) })
	return &FileError{f.problems}
}

func (f *fileReader) read(text []byte) {
	file, err := parser.ParseBytes(text, 0)
	if err != nil {
		f.syntax(err)
		return
	}
	for i, doc := range file.Docs {
		switch body := doc.Body.(type) {
		case nil:
		case *ast.CommentGroupNode:
		default:
			if i > 0 {
				f.bad(line(body), "a second document; all settings belong into one")
				return
			}
			f.section("", body)
		}
	}
}

// syntax reports text that is no YAML.
func (f *fileReader) syntax(err error) {
	at := 0
	text := err.Error()
	var y yaml.Error
	if errors.As(err, &y) {
		text = y.GetMessage()
		if t := y.GetToken(); t != nil && t.Position != nil {
			at = t.Position.Line
		}
	}
	f.bad(at, "%s", text)
}

func line(n ast.Node) int {
	if t := n.GetToken(); t != nil && t.Position != nil {
		return t.Position.Line
	}
	return 0
}

// section reads the settings below a path.
func (f *fileReader) section(path string, n ast.Node) {
	var values []*ast.MappingValueNode
	switch m := n.(type) {
	case *ast.MappingNode:
		values = m.Values
	case *ast.MappingValueNode:
		values = []*ast.MappingValueNode{m}
	case *ast.NullNode:
		return
	default:
		f.bad(line(n), "%s has settings below it and no value", cmp.Or(path, "the file"))
		return
	}
	for _, kv := range values {
		key := kv.Key.GetToken().Value
		f.entry(strings.TrimPrefix(path+"."+key, "."), kv)
	}
}

func (f *fileReader) entry(path string, kv *ast.MappingValueNode) {
	at := line(kv.Key)
	var below []string
	for i := range f.all {
		if f.all[i].Path == path {
			f.value(&f.all[i], at, kv.Value)
			return
		}
		if strings.HasPrefix(f.all[i].Path, path+".") {
			below = append(below, path)
		}
	}
	if below != nil {
		f.section(path, kv.Value)
		return
	}
	f.bad(at, "%s is no setting; there are %s", path, strings.Join(f.beside(path), ", "))
}

// beside lists what may stand where an unknown path does.
func (f *fileReader) beside(path string) []string {
	parent := path[:strings.LastIndexByte(path, '.')+1]
	var names []string
	for i := range f.all {
		if rest, ok := strings.CutPrefix(f.all[i].Path, parent); ok {
			name, _, _ := strings.Cut(rest, ".")
			names = append(names, parent+name)
		}
	}
	return slices.Compact(names)
}

func (f *fileReader) value(s *Setting, at int, n ast.Node) {
	var texts []string
	switch v := n.(type) {
	case *ast.SequenceNode:
		for _, item := range v.Values {
			text, ok := scalar(item)
			if !ok {
				f.bad(line(item), "%s: an entry of the list is no plain value", s.Path)
				f.lines[s.Path], f.unread[s.Path] = at, true
				return
			}
			if s.Path == "servers" {
				f.servers[text] = line(item)
			}
			texts = append(texts, text)
		}
	default:
		text, ok := scalar(n)
		if !ok {
			f.bad(at, "%s has no plain value", s.Path)
			f.lines[s.Path], f.unread[s.Path] = at, true
			return
		}
		texts = []string{text}
	}
	f.lines[s.Path] = at
	if err := s.parse(texts, false); err != nil {
		f.bad(at, "%s %v", s.Path, err)
		f.unread[s.Path] = true
	}
}

// scalar is the text of a plain value.
func scalar(n ast.Node) (string, bool) {
	switch v := n.(type) {
	case *ast.StringNode:
		return v.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		return n.GetToken().Value, true
	}
	return "", false
}

// independent tells whether a problem is one of the file and does not come from
// a setting that can not be read, which is at its default meanwhile.
func (f *fileReader) independent(p Problem) bool {
	if p.Setting == nil || f.lines[p.Setting.Path] == 0 || f.unread[p.Setting.Path] {
		return false
	}
	for i := range f.all {
		// A password that is read from a file is a Password in Validate's words.
		if f.unread[f.all[i].Path] && strings.Contains(p.Text, strings.TrimSuffix(f.all[i].field, "File")) {
			return false
		}
	}
	return true
}

// invalid reports what Validate says, with the names and lines of the file; the
// problems that only says, if it is not nil.
func (f *fileReader) invalid(err error, only func(Problem) bool) {
	if err == nil {
		return
	}
	for _, p := range f.settings.Problems(err) {
		switch {
		case only != nil && !only(p):
		case p.Setting == nil:
			f.bad(0, "%s", p.Text)
		default:
			at := f.lines[p.Setting.Path]
			for text, line := range f.servers {
				if strings.HasPrefix(p.Text, fmt.Sprintf(": server %q", text)) {
					at = line
				}
			}
			f.bad(at, "%s%s", p.Setting.Path, p.Text)
		}
	}
}

// A Problem is something that Validate has found.
type Problem struct {
	// Setting is what it is about, nil where that is not one.
	Setting *Setting
	// Text follows the setting's name, as in " is 5, it must be above 10".
	Text string
}

// Problems tells which settings an error of Validate is about, so that it can
// be said by the name that a user knows them by.
func (s *Settings) Problems(err error) []Problem {
	all := s.All()
	var list []Problem
	for text := range strings.SplitSeq(err.Error(), "\n") {
		for _, prefix := range []string{"config: ", "field Health: ", "Stampede: ", "field "} {
			text = strings.TrimPrefix(text, prefix)
		}
		p := Problem{Text: text}
		for i := range all {
			rest, ok := strings.CutPrefix(text, all[i].field)
			switch {
			case ok && (rest == "" || !isLetter(rest[0])):
				p = Problem{&all[i], rest}
			case all[i].field == "Dialect" && (strings.HasPrefix(text, "unknown dialect ") || strings.HasPrefix(text, "dialect ")):
				p = Problem{&all[i], ": " + text}
			default:
				continue
			}
			break
		}
		list = append(list, p)
	}
	return list
}

func isLetter(b byte) bool { return b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' }

// YAML gives the settings as a config file that ParseSettings reads.
func (s *Settings) YAML() []byte {
	var b bytes.Buffer
	var open []string // the sections that the last line stands in
	for _, one := range s.All() {
		parts := strings.Split(one.Path, ".")
		sections, name := parts[:len(parts)-1], parts[len(parts)-1]
		for i, section := range sections {
			if i >= len(open) || open[i] != section {
				fmt.Fprintf(&b, "%s%s:\n", strings.Repeat("  ", i), section)
				open = append(open[:i:i], section)
			}
		}
		open = open[:len(sections)]
		indent := strings.Repeat("  ", len(sections))
		texts := one.texts()
		if _, isList := one.value.(*[]string); isList {
			fmt.Fprintf(&b, "%s%s:", indent, name)
			if len(texts) == 0 {
				b.WriteString(" []")
			}
			b.WriteByte('\n')
			for _, text := range texts {
				fmt.Fprintf(&b, "%s  - %s\n", indent, quoted(text))
			}
			continue
		}
		fmt.Fprintf(&b, "%s%s: %s\n", indent, name, quoted(texts[0]))
	}
	return b.Bytes()
}

// quoted writes a value so that it is read as the same text.
func quoted(text string) string {
	b, err := yaml.Marshal(text)
	if err != nil {
		return fmt.Sprintf("%q", text)
	}
	q := strings.TrimSuffix(string(b), "\n")
	if len(q) > 1 && q[0] == '"' && isPlainNumber(text) {
		return text // a number stays one for who reads it
	}
	return q
}

func isPlainNumber(text string) bool {
	return text == "true" || text == "false" || strings.Trim(text, "0123456789.-") == "" && text != "" && text != "-"
}
