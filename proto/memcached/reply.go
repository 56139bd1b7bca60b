package memcached

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"strconv"
)

// ReplyKind is the form of a reply.
type ReplyKind uint8

// The kinds of replies. The meta ones come first.
const (
	ReplyNone     ReplyKind = iota
	MetaValue               // VA: a value with flags
	MetaOK                  // HD
	MetaMiss                // EN
	MetaNotStored           // NS
	MetaExists              // EX
	MetaNotFound            // NF
	MetaNoopEnd             // MN
	MetaInfo                // ME: what me says of an item
	Value                   // VALUE: one value of a classic retrieval
	End                     // END
	Stored
	NotStored
	Exists
	NotFound
	Deleted
	Touched
	OK
	Number      // the result of incr and decr
	VersionIs   // VERSION
	Stat        // STAT: one line of stats
	Reset       // RESET: the answer to stats reset
	Error       // ERROR
	ClientError // CLIENT_ERROR
	ServerError // SERVER_ERROR
)

var replyWords = [...]string{
	MetaValue: "VA", MetaOK: "HD", MetaMiss: "EN", MetaNotStored: "NS", MetaExists: "EX", MetaNotFound: "NF",
	MetaNoopEnd: "MN", MetaInfo: "ME",
	Value: "VALUE", End: "END", Stored: "STORED", NotStored: "NOT_STORED", Exists: "EXISTS", NotFound: "NOT_FOUND",
	Deleted: "DELETED", Touched: "TOUCHED", OK: "OK", Number: "number", VersionIs: "VERSION", Stat: "STAT", Reset: "RESET",
	Error: "ERROR", ClientError: "CLIENT_ERROR", ServerError: "SERVER_ERROR",
}

// String gives the reply's word on the wire; Number has none.
func (k ReplyKind) String() string {
	if int(k) < len(replyWords) && replyWords[k] != "" {
		return replyWords[k]
	}
	return "ReplyKind(" + strconv.Itoa(int(k)) + ")"
}

// IsError tells whether the reply is ERROR, CLIENT_ERROR or SERVER_ERROR.
func (k ReplyKind) IsError() bool { return k >= Error }

// Reply is one reply, or one VALUE or STAT of a classic reply in many parts.
type Reply struct {
	Kind ReplyKind
	// Key is the key of Value and MetaInfo, the name of Stat.
	Key []byte
	// Value is the value of MetaValue and Value, the text of Stat.
	Value []byte
	// Flags are the client flags of Value.
	Flags uint32
	// CAS is the unique id of Value where HasCAS.
	CAS    uint64
	HasCAS bool
	// Number is the result of incr and decr.
	Number uint64
	// Meta are the flags of a meta reply, in their order.
	Meta []MetaFlag
	// Message is the text of an error, of VERSION and of ME.
	Message []byte
}

// Flag gives a meta flag.
func (r *Reply) Flag(letter byte) (MetaFlag, bool) { return findFlag(r.Meta, letter) }

// Reset clears the reply and keeps its slices' memory.
func (r *Reply) Reset() { *r = Reply{Meta: r.Meta[:0]} }

// AppendReply appends the reply as it goes over the wire.
func AppendReply(b []byte, r *Reply) []byte {
	if r.Kind == Number {
		return append(strconv.AppendUint(b, r.Number, 10), "\r\n"...)
	}
	b = append(b, replyWords[r.Kind]...)
	switch r.Kind {
	case MetaValue:
		b = appendUint(b, uint64(len(r.Value)))
		b = appendFlags(b, r.Meta)
		b = append(append(b, "\r\n"...), r.Value...)
	case MetaOK, MetaMiss, MetaNotStored, MetaExists, MetaNotFound:
		b = appendFlags(b, r.Meta)
	case MetaInfo:
		b = append(append(b, ' '), r.Key...)
		b = appendText(b, r.Message)
	case Value:
		b = append(append(b, ' '), r.Key...)
		b = appendUint(b, uint64(r.Flags))
		b = appendUint(b, uint64(len(r.Value)))
		if r.HasCAS {
			b = appendUint(b, r.CAS)
		}
		b = append(append(b, "\r\n"...), r.Value...)
	case Stat:
		b = append(append(b, ' '), r.Key...)
		b = append(append(b, ' '), r.Value...)
	case VersionIs, ClientError, ServerError, Error:
		b = appendText(b, r.Message)
	}
	return append(b, "\r\n"...)
}

func appendText(b, text []byte) []byte {
	if len(text) == 0 {
		return b
	}
	return append(append(b, ' '), text...)
}

// ErrDesynchronised is the cause of every error of ParseReply: what came is
// not a reply. The stream must be closed, as nobody can know where the next
// reply starts.
var ErrDesynchronised = errors.New("reply stream out of step")

func desynchronised(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrDesynchronised, fmt.Sprintf(format, args...))
}

// ParseReply reads the reply at the front of b into r, whose slices then
// point into b. It returns the reply's size; more than len(b) means that so
// many bytes are needed at least. Errors wrap ErrDesynchronised.
func ParseReply(b []byte, r *Reply) (int, error) {
	head, body, err := ParseReplyHead(b, r)
	if err != nil || head > len(b) || body < 0 {
		return head, err
	}
	total := head + body + 2
	if total > len(b) {
		return total, nil
	}
	if err := CheckValueEnd(b[total-2:]); err != nil {
		return 0, err
	}
	r.Value = b[head : head+body : head+body]
	return total, nil
}

// CheckValueEnd tells whether a value is followed by the end of its line.
func CheckValueEnd(b []byte) error {
	if len(b) < 2 || b[0] != '\r' || b[1] != '\n' {
		return desynchronised("a value of the announced length does not end its line")
	}
	return nil
}

// ParseReplyHead reads a reply's line alone. head is the size of the line,
// more than len(b) where it is not complete; body is the number of bytes of
// the value that follows, and 2 more for its line's end, or -1 where no value
// follows. With it a caller reads a large value straight to where it belongs.
func ParseReplyHead(b []byte, r *Reply) (head, body int, err error) {
	r.Reset()
	end := bytes.IndexByte(b, '\n')
	if end < 0 {
		if len(b) > MaxLine {
			return 0, 0, desynchronised("a line of more than %d bytes", MaxLine)
		}
		return len(b) + 1, -1, nil
	}
	if end == 0 || b[end-1] != '\r' {
		return 0, 0, desynchronised("a line that ends without CR")
	}
	head, body = end+1, -1
	t := tokens{line: b[:end-1]}
	word := t.next()
	r.Kind = replyKind(word)
	switch r.Kind {
	case ReplyNone:
		return 0, 0, desynchronised("a line of %d bytes that is no reply", end-1)
	case Number:
		if r.Number, err = parseUint(word, math.MaxUint64); err != nil || len(bytes.TrimRight(t.rest(), " ")) > 0 {
			return 0, 0, desynchronised("a number that is none")
		}
	case MetaValue:
		n, err := parseUint(t.next(), math.MaxInt32)
		if err != nil {
			return 0, 0, desynchronised("VA without a size")
		}
		body = int(n)
		r.Meta = parseFlags(&t, r.Meta)
	case MetaOK, MetaMiss, MetaNotStored, MetaExists, MetaNotFound:
		r.Meta = parseFlags(&t, r.Meta)
	case Value:
		if body, err = r.parseValueLine(&t); err != nil {
			return 0, 0, err
		}
	case MetaInfo:
		if r.Key = t.next(); r.Key == nil {
			return 0, 0, desynchronised("ME without a key")
		}
		r.Message = text(&t)
	case Stat:
		if r.Key = t.next(); r.Key == nil {
			return 0, 0, desynchronised("STAT without a name")
		}
		r.Value = text(&t)
	case VersionIs, Error, ClientError, ServerError:
		r.Message = text(&t)
	default: // a bare word
		if len(t.rest()) > 0 {
			return 0, 0, desynchronised("%v with something behind it", r.Kind)
		}
	}
	return head, body, nil
}

func (r *Reply) parseValueLine(t *tokens) (body int, err error) {
	r.Key = t.next()
	flags, err1 := parseUint(t.next(), math.MaxUint32)
	n, err2 := parseUint(t.next(), math.MaxInt32)
	if err := errors.Join(err1, err2); err != nil {
		return 0, desynchronised("VALUE without flags and size")
	}
	r.Flags = uint32(flags)
	if w := t.next(); w != nil {
		if r.CAS, err = parseUint(w, math.MaxUint64); err != nil {
			return 0, desynchronised("VALUE with a CAS id that is no number")
		}
		r.HasCAS = true
	}
	return int(n), nil
}

// text gives the rest of a line without the space before it.
func text(t *tokens) []byte {
	rest := t.rest()
	if len(rest) <= 1 {
		return nil
	}
	return rest[1:]
}

// replyKind tests the words of a busy stream first.
func replyKind(word []byte) ReplyKind {
	if len(word) == 2 {
		for k := MetaValue; k <= MetaInfo; k++ {
			if string(word) == replyWords[k] {
				return k
			}
		}
	}
	if len(word) > 0 && word[0] >= '0' && word[0] <= '9' {
		return Number
	}
	for k := Value; int(k) < len(replyWords); k++ {
		if k != Number && string(word) == replyWords[k] {
			return k
		}
	}
	return ReplyNone
}
