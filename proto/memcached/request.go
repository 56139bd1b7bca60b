package memcached

import (
	"errors"
	"fmt"
	"strconv"
)

// Command is what a request asks for.
type Command uint8

// The commands. The meta ones come first.
const (
	CommandNone Command = iota
	MetaGet
	MetaSet
	MetaDelete
	MetaArithmetic
	MetaNoop
	MetaDebug
	Get
	Gets
	Gat
	Gats
	Set
	Add
	Replace
	Append
	Prepend
	CompareAndSwap
	Delete
	Incr
	Decr
	Touch
	FlushAll
	Version
	Verbosity
	Stats
	Quit
)

var commandNames = [...]string{
	MetaGet: "mg", MetaSet: "ms", MetaDelete: "md", MetaArithmetic: "ma", MetaNoop: "mn", MetaDebug: "me",
	Get: "get", Gets: "gets", Gat: "gat", Gats: "gats",
	Set: "set", Add: "add", Replace: "replace", Append: "append", Prepend: "prepend", CompareAndSwap: "cas",
	Delete: "delete", Incr: "incr", Decr: "decr", Touch: "touch", FlushAll: "flush_all",
	Version: "version", Verbosity: "verbosity", Stats: "stats", Quit: "quit",
}

// String gives the command's word on the wire.
func (c Command) String() string {
	if int(c) < len(commandNames) && commandNames[c] != "" {
		return commandNames[c]
	}
	return "Command(" + strconv.Itoa(int(c)) + ")"
}

// IsMeta tells whether the command is one of the meta protocol.
func (c Command) IsMeta() bool { return c >= MetaGet && c <= MetaDebug }

// IsRetrieval tells whether the command is get, gets, gat or gats.
func (c Command) IsRetrieval() bool { return c >= Get && c <= Gats }

// HasValue tells whether a value follows the command's line.
func (c Command) HasValue() bool { return c == MetaSet || (c >= Set && c <= CompareAndSwap) }

// isStorage tells whether the command is set, add, replace, append, prepend
// or cas.
func (c Command) isStorage() bool { return c >= Set && c <= CompareAndSwap }

// takesNoReply tells whether the command's line may end in noreply.
func (c Command) takesNoReply() bool {
	return c.isStorage() || c >= Delete && c <= FlushAll || c == Verbosity
}

// Request is one request. Which fields count depends on the command; the
// others stay zero.
type Request struct {
	Command Command
	// Key is the key of every command but a retrieval with Keys.
	Key []byte
	// Keys are the keys of get, gets, gat and gats, one at least.
	Keys [][]byte
	// Value is what is stored, without the line's end.
	Value []byte
	// Flags are the client flags of a classic storage command.
	Flags uint32
	// Exptime in seconds, of classic storage commands, gat, gats, touch; the
	// delay of flush_all. 0 never expires, negative is expired already,
	// above MaxRelative it is a Unix time.
	Exptime int64
	// CAS is the unique id of a classic cas.
	CAS uint64
	// Delta is the amount of incr and decr.
	Delta uint64
	// NoReply asks a classic server to say nothing.
	NoReply bool
	// Meta are the flags of a meta command, in their order.
	Meta []MetaFlag
	// Arg is what follows stats and verbosity.
	Arg []byte
}

// Flag gives a meta flag.
func (r *Request) Flag(letter byte) (MetaFlag, bool) { return findFlag(r.Meta, letter) }

// Reset clears the request and keeps its slices' memory.
func (r *Request) Reset() { *r = Request{Keys: r.Keys[:0], Meta: r.Meta[:0]} }

var errNoKeys = errors.New("the request has no keys")

// check reports what would put the stream out of step. After such a line
// memcached 1.6.18 reads the value as the next command.
func (r *Request) check() error {
	switch c := r.Command; {
	case c == CommandNone || int(c) >= len(commandNames):
		return fmt.Errorf("%v is not a command", c)
	case c.IsRetrieval():
		if len(r.Keys) == 0 {
			return errNoKeys
		}
		for _, key := range r.Keys {
			if err := CheckKey(key); err != nil {
				return err
			}
		}
	case c < FlushAll && c != MetaNoop:
		if err := CheckKey(r.Key); err != nil {
			return err
		}
	}
	for _, f := range r.Meta {
		if err := checkWord(f.Arg); err != nil || f.Letter <= ' ' || f.Letter >= 0x7f {
			return fmt.Errorf("meta flag %q has a space or control byte", f.Letter)
		}
	}
	for _, c := range r.Arg {
		if c < ' ' || c == 0x7f {
			return fmt.Errorf("the argument has the control byte 0x%02x", c)
		}
	}
	return nil
}

var errWord = errors.New("space or control byte")

func checkWord(b []byte) error {
	for _, c := range b {
		if c <= ' ' || c == 0x7f {
			return errWord
		}
	}
	return nil
}

// AppendRequest appends the request as it goes over the wire. It appends
// nothing and returns an error, a *KeyError among others, when a byte in the
// request would put the stream out of step.
func AppendRequest(b []byte, r *Request) ([]byte, error) {
	if err := r.check(); err != nil {
		return b, err
	}
	c := r.Command
	b = append(b, commandNames[c]...)
	switch {
	case c == MetaNoop || c == Version || c == Quit:
	case c.IsMeta():
		b = append(append(b, ' '), r.Key...)
		if c == MetaSet {
			b = appendUint(b, uint64(len(r.Value)))
		}
		b = appendFlags(b, r.Meta)
	case c.IsRetrieval():
		if c == Gat || c == Gats {
			b = appendInt(b, r.Exptime)
		}
		for _, key := range r.Keys {
			b = append(append(b, ' '), key...)
		}
	case c.isStorage():
		b = append(append(b, ' '), r.Key...)
		b = appendUint(b, uint64(r.Flags))
		b = appendInt(b, r.Exptime)
		b = appendUint(b, uint64(len(r.Value)))
		if c == CompareAndSwap {
			b = appendUint(b, r.CAS)
		}
	case c == Incr || c == Decr:
		b = append(append(b, ' '), r.Key...)
		b = appendUint(b, r.Delta)
	case c == Delete:
		b = append(append(b, ' '), r.Key...)
	case c == Touch:
		b = append(append(b, ' '), r.Key...)
		b = appendInt(b, r.Exptime)
	case c == FlushAll:
		if r.Exptime != 0 {
			b = appendInt(b, r.Exptime)
		}
	case len(r.Arg) > 0: // stats, verbosity
		b = append(append(b, ' '), r.Arg...)
	}
	if r.NoReply && !c.IsMeta() {
		b = append(b, " noreply"...)
	}
	b = append(b, "\r\n"...)
	if c.HasValue() {
		b = append(append(b, r.Value...), "\r\n"...)
	}
	return b, nil
}

func appendUint(b []byte, v uint64) []byte { return strconv.AppendUint(append(b, ' '), v, 10) }

func appendInt(b []byte, v int64) []byte { return strconv.AppendInt(append(b, ' '), v, 10) }
