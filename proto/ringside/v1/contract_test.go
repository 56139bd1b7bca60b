package ringsidev1_test

import (
	"bufio"
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	ringsidev1 "github.com/ringside-cache/ringside/proto/ringside/v1"
)

// buf would do this too. On two cores it takes 170 s of their time to build, with its 90 modules, and these
// tests take milliseconds.

var (
	update   = flag.Bool("update", false, "record what was added to the contract in testdata/contract.txt")
	breaking = flag.Bool("breaking", false, "with -update: record what was removed or changed too")
)

const (
	recorded = "testdata/contract.txt"
	source   = "ringside.proto"
)

// TestContract compares the contract with the recorded one. Callers are built from either, so that an
// element may be added but not removed, renumbered, renamed or given another type. A caller from before
// has to go on working, in its binary form, in JSON and in source code.
func TestContract(t *testing.T) {
	now := elements(ringsidev1.File_ringside_v1_ringside_proto)
	then := readLines(t, recorded)
	removed, added := missingFrom(now, then), missingFrom(then, now)
	if len(removed) > 0 && !(*update && *breaking) {
		t.Fatalf("The contract breaks callers that were built before. Gone or changed:\n  %s\nNew:\n  %s\n"+
			"CONTRIBUTING.md, Change the gRPC contract, says what to do.", strings.Join(removed, "\n  "), strings.Join(added, "\n  "))
	}
	if *update {
		if err := os.WriteFile(recorded, []byte(strings.Join(now, "\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if len(added) > 0 {
		t.Errorf("The contract has grown, and from here on keeps what is new:\n  %s\nRecord it with: make accept-contract", strings.Join(added, "\n  "))
	}
}

// A check that finds nothing would pass too: each kind of break shows in the elements.
func TestContractSeesBreaks(t *testing.T) {
	now := elements(ringsidev1.File_ringside_v1_ringside_proto)
	for _, want := range []string{
		"file syntax proto3, go_package github.com/ringside-cache/ringside/proto/ringside/v1;ringsidev1",
		"rpc ringside.v1.Cache.Get(GetRequest) returns (GetResponse)",
		"rpc ringside.v1.Cache.Stream(stream StreamRequest) returns (stream StreamResponse)",
		"field ringside.v1.GetMultiRequest.keys = 1, repeated bytes",
		"field ringside.v1.LeaseRequest.grace_seconds = 2, optional uint32",
		"field ringside.v1.StreamRequest.get = 2, ringside.v1.GetRequest, in oneof request",
		"field ringside.v1.FillResponse.outcome = 1, ringside.v1.FillResponse.Outcome",
		"value ringside.v1.LeaseResponse.State.STATE_WON = 3",
	} {
		if !slices.Contains(now, want) {
			t.Errorf("%q is not among the %d elements", want, len(now))
		}
	}
	if got := missingFrom([]string{"a", "c"}, []string{"a", "b"}); !slices.Equal(got, []string{"b"}) {
		t.Errorf("missing: %q", got)
	}
}

// elements has a line for each thing that a caller can depend on, sorted.
func elements(f protoreflect.FileDescriptor) []string {
	goPackage := f.Options().(*descriptorpb.FileOptions).GetGoPackage()
	lines := []string{fmt.Sprintf("file syntax %s, go_package %s", f.Syntax(), goPackage)}
	for s := range all(f.Services()) {
		for m := range all(s.Methods()) {
			lines = append(lines, fmt.Sprintf("rpc %s(%s%s) returns (%s%s)", m.FullName(),
				streams(m.IsStreamingClient()), m.Input().Name(), streams(m.IsStreamingServer()), m.Output().Name()))
		}
	}
	for e := range enums(f) {
		for v := range all(e.Values()) {
			lines = append(lines, fmt.Sprintf("value %s.%s = %d", e.FullName(), v.Name(), v.Number()))
		}
	}
	for m := range messages(f) {
		lines = append(lines, fmt.Sprintf("message %s", m.FullName()))
		for field := range all(m.Fields()) {
			lines = append(lines, fmt.Sprintf("field %s = %d, %s", field.FullName(), field.Number(), typeOf(field)))
		}
		for i := range m.ReservedRanges().Len() {
			r := m.ReservedRanges().Get(i)
			lines = append(lines, fmt.Sprintf("reserved %s %d to %d", m.FullName(), r[0], r[1]-1))
		}
		for i := range m.ReservedNames().Len() {
			lines = append(lines, fmt.Sprintf("reserved %s %s", m.FullName(), m.ReservedNames().Get(i)))
		}
	}
	slices.Sort(lines)
	return lines
}

func streams(yes bool) string {
	if yes {
		return "stream "
	}
	return ""
}

func typeOf(f protoreflect.FieldDescriptor) string {
	text := f.Kind().String()
	switch {
	case f.Message() != nil:
		text = string(f.Message().FullName())
	case f.Enum() != nil:
		text = string(f.Enum().FullName())
	}
	switch oneof := f.ContainingOneof(); {
	case f.Cardinality() == protoreflect.Repeated:
		text = "repeated " + text
	case f.HasOptionalKeyword():
		text = "optional " + text
	case oneof != nil:
		text += ", in oneof " + string(oneof.Name())
	}
	return text
}

// A list is what protoreflect has for every kind of thing.
type list[T any] interface {
	Len() int
	Get(int) T
}

func all[T any](l list[T]) func(yield func(T) bool) {
	return func(yield func(T) bool) {
		for i := range l.Len() {
			if !yield(l.Get(i)) {
				return
			}
		}
	}
}

// messages has those inside of messages too.
func messages(parent interface {
	Messages() protoreflect.MessageDescriptors
},
) func(yield func(protoreflect.MessageDescriptor) bool) {
	return func(yield func(protoreflect.MessageDescriptor) bool) {
		for m := range all(parent.Messages()) {
			if !yield(m) {
				return
			}
			for inner := range messages(m) {
				if !yield(inner) {
					return
				}
			}
		}
	}
}

func enums(f protoreflect.FileDescriptor) func(yield func(protoreflect.EnumDescriptor) bool) {
	return func(yield func(protoreflect.EnumDescriptor) bool) {
		for e := range all(f.Enums()) {
			if !yield(e) {
				return
			}
		}
		for m := range messages(f) {
			for e := range all(m.Enums()) {
				if !yield(e) {
					return
				}
			}
		}
	}
}

// missingFrom gives the lines of want that have lacks.
func missingFrom(have, want []string) []string {
	var missing []string
	for _, line := range want {
		if !slices.Contains(have, line) {
			missing = append(missing, line)
		}
	}
	return missing
}

func readLines(t *testing.T, name string) []string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		if *update && os.IsNotExist(err) {
			return nil
		}
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
}

// Replies that methods share, so that a StreamResponse has one field for all that are answered alike.
var sharedReply = map[protoreflect.Name]protoreflect.Name{
	"GetAndTouch": "GetResponse",
	"Add":         "StoreResponse", "Replace": "StoreResponse", "Append": "StoreResponse", "Prepend": "StoreResponse",
	"Increment": "CountResponse", "Decrement": "CountResponse",
}

var (
	camel      = regexp.MustCompile(`^([A-Z][a-z0-9]*)+$`)
	lowerSnake = regexp.MustCompile(`^[a-z][a-z0-9]*(_[a-z0-9]+)*$`)
	upperSnake = regexp.MustCompile(`^[A-Z][A-Z0-9]*(_[A-Z0-9]+)*$`)
	duration   = regexp.MustCompile(`ttl|grace|lease|wait|delay|timeout`)
	unit       = regexp.MustCompile(`_(seconds|millis)$`)
)

// TestContractStyle checks names, as buf's standard rules do.
func TestContractStyle(t *testing.T) {
	f := ringsidev1.File_ringside_v1_ringside_proto
	matches := func(form *regexp.Regexp, d protoreflect.Descriptor) {
		t.Helper()
		if !form.MatchString(string(d.Name())) {
			t.Errorf("%s does not have the form %s", d.FullName(), form)
		}
	}
	if f.Package() != "ringside.v1" || f.Path() != "ringside/v1/ringside.proto" {
		t.Errorf("package %s in %s", f.Package(), f.Path())
	}
	for s := range all(f.Services()) {
		matches(camel, s)
		for m := range all(s.Methods()) {
			matches(camel, m)
			reply := m.Name() + "Response"
			if shared, ok := sharedReply[m.Name()]; ok {
				reply = shared
			}
			if m.Input().Name() != m.Name()+"Request" || m.Output().Name() != reply {
				t.Errorf("%s has %s and %s, want %sRequest and %s", m.FullName(), m.Input().Name(), m.Output().Name(), m.Name(), reply)
			}
		}
	}
	for m := range messages(f) {
		matches(camel, m)
		for field := range all(m.Fields()) {
			matches(lowerSnake, field)
			isNumber := field.Kind() == protoreflect.Uint32Kind || field.Kind() == protoreflect.Uint64Kind
			if isNumber && duration.MatchString(string(field.Name())) && !unit.MatchString(string(field.Name())) {
				t.Errorf("%s does not say its unit", field.FullName())
			}
		}
		for o := range all(m.Oneofs()) {
			if !o.IsSynthetic() {
				matches(lowerSnake, o)
			}
		}
	}
	for e := range enums(f) {
		matches(camel, e)
		prefix := strings.ToUpper(string(e.Name())) + "_"
		for v := range all(e.Values()) {
			matches(upperSnake, v)
			if !strings.HasPrefix(string(v.Name()), prefix) {
				t.Errorf("%s does not begin with %s", v.FullName(), prefix)
			}
		}
		if zero := e.Values().Get(0); zero.Number() != 0 || string(zero.Name()) != prefix+"UNSPECIFIED" {
			t.Errorf("%s begins with %s = %d, want %sUNSPECIFIED = 0", e.FullName(), zero.Name(), zero.Number(), prefix)
		}
	}
}

// declares matches a line that declares something.
var declares = regexp.MustCompile(`^(message|enum|service|oneof|rpc) \w+|^[\w. ]+ = \d+( \[.*\])?;$`)

// TestContractComments checks that there is a comment above everything that the contract declares.
// Descriptors have no comments, so it reads the source, and counts to know that it read all of it.
func TestContractComments(t *testing.T) {
	f := ringsidev1.File_ringside_v1_ringside_proto
	want := f.Services().Len()
	for s := range all(f.Services()) {
		want += s.Methods().Len()
	}
	for m := range messages(f) {
		want += 1 + m.Fields().Len()
		for o := range all(m.Oneofs()) {
			if !o.IsSynthetic() {
				want++
			}
		}
	}
	for e := range enums(f) {
		want += 1 + e.Values().Len()
	}

	src, err := os.Open(source)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	got, before := 0, ""
	lines := bufio.NewScanner(src)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if declares.MatchString(line) {
			got++
			if !strings.HasPrefix(before, "// ") {
				t.Errorf("%s:%d: no comment above %s", source, n, line)
			}
		}
		before = line
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	if got != want {
		t.Errorf("%s declares %d things in a form that is known here, the descriptor has %d", source, got, want)
	}
}
