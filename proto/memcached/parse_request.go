package memcached

import (
	"bytes"
	"fmt"
	"math"
)

// RequestError is a request that a server can not carry out. Reply is what
// memcached says to it, unless Request.NoReply is set: then it says nothing.
type RequestError struct {
	// Reply is the whole reply line without its end.
	Reply string
	// Size is the number of bytes to pass over to the next request; it may
	// be more than are there yet.
	Size int
	// Close says that where the next request starts is not certain: what
	// follows could be a value read as commands. Reply, then close.
	Close bool
}

func (e *RequestError) Error() string { return fmt.Sprintf("bad request: %s", e.Reply) }

const (
	replyError     = "ERROR"
	replyBadFormat = "CLIENT_ERROR bad command line format"
	replyBadChunk  = "CLIENT_ERROR bad data chunk"
	replyTooLarge  = "SERVER_ERROR object too large for cache"
	replyExptime   = "CLIENT_ERROR invalid exptime argument"
)

// ParseRequest reads the request at the front of b into r, whose slices then
// point into b. Values above maxValue bytes are refused. It returns the
// request's size; more than len(b) means that so many bytes are needed at
// least. Errors are *RequestError.
func ParseRequest(b []byte, r *Request, maxValue int) (int, error) {
	r.Reset()
	if len(b) > 0 && b[0] == binaryMagic {
		// Its client waits for a binary reply, and would for ever.
		return 0, &RequestError{Reply: "CLIENT_ERROR the binary protocol is not spoken here", Size: len(b), Close: true}
	}
	end := bytes.IndexByte(b, '\n')
	size := end + 1
	if end < 0 {
		size = len(b) + 1
	}
	if size > MaxLine+1 && (size > MaxRetrieval+1 || !isRetrievalLine(b)) {
		return 0, &RequestError{Reply: "CLIENT_ERROR line too long", Size: min(size, len(b)), Close: true}
	}
	if end < 0 {
		return size, nil
	}
	line := b[:end]
	if end > 0 && line[end-1] == '\r' {
		line = line[:end-1]
	}
	t := tokens{line: line}
	word := t.next()
	r.Command = command(word)
	if r.Command == CommandNone {
		return 0, &RequestError{Reply: replyError, Size: size}
	}
	var length int
	var err error
	switch c := r.Command; {
	case c == MetaNoop, c == Version, c == Quit:
	case c == Stats, c == Verbosity:
		err = r.parseArg(&t)
	case c.IsMeta():
		length, err = r.parseMeta(&t)
	case c.IsRetrieval():
		err = r.parseRetrieval(&t)
	case c.isStorage():
		length, err = r.parseStorage(&t)
	case c == FlushAll:
		err = r.parseFlushAll(&t)
	default:
		err = r.parseKeyed(&t)
	}
	if e, ok := err.(*RequestError); ok && e.Reply != replyError && r.Command.takesNoReply() {
		// Else a client that asked for silence would take the error for the
		// reply to its next request.
		r.NoReply = bytes.HasSuffix(bytes.TrimRight(line, " "), []byte(" noreply"))
	}
	if !r.Command.HasValue() {
		if e, ok := err.(*RequestError); ok {
			e.Size = size
			return 0, e
		}
		return size, nil
	}
	return r.takeValue(b, size, length, maxValue, err)
}

// binaryMagic begins every request of memcached's binary protocol.
const binaryMagic = 0x80

func isRetrievalLine(b []byte) bool {
	for c := Get; c <= Gats; c++ {
		if name := commandNames[c]; len(b) > len(name) && string(b[:len(name)]) == name && b[len(name)] == ' ' {
			return true
		}
	}
	return false
}

// takeValue reads the value behind the line of a storage request, whose line
// may have been wrong. A value of known length is passed over with its line.
func (r *Request) takeValue(b []byte, size, length, maxValue int, lineErr error) (int, error) {
	if e, ok := lineErr.(*RequestError); ok {
		if length < 0 {
			e.Size, e.Close = size, true
			return 0, e
		}
		e.Size = size + length + 2
		return 0, e
	}
	total := size + length + 2
	if length > maxValue {
		return 0, &RequestError{Reply: replyTooLarge, Size: total}
	}
	if total > len(b) {
		return total, nil
	}
	if b[total-2] != '\r' || b[total-1] != '\n' {
		return 0, &RequestError{Reply: replyBadChunk, Size: total, Close: true}
	}
	r.Value = b[size : size+length : size+length]
	return total, nil
}

func command(word []byte) Command {
	for c := MetaGet; int(c) < len(commandNames); c++ {
		if string(word) == commandNames[c] {
			return c
		}
	}
	return CommandNone
}

func badFormat() error { return &RequestError{Reply: replyBadFormat} }

func (r *Request) parseArg(t *tokens) error {
	arg := bytes.TrimSpace(t.rest())
	if r.Command == Stats && string(arg) == "noreply" {
		return &RequestError{Reply: replyError} // there is nothing to do but to reply
	}
	if r.Command == Verbosity {
		if len(arg) == 0 {
			return &RequestError{Reply: replyError}
		}
		arg, r.NoReply = cutNoReply(arg)
		if _, err := parseUint(arg, math.MaxUint32); err != nil {
			return badFormat()
		}
	}
	for _, c := range arg {
		if c < ' ' || c == 0x7f {
			return badFormat()
		}
	}
	if len(arg) > 0 {
		r.Arg = arg
	}
	return nil
}

func cutNoReply(arg []byte) ([]byte, bool) {
	rest, found := bytes.CutSuffix(arg, []byte("noreply"))
	if !found || len(rest) > 0 && rest[len(rest)-1] != ' ' {
		return arg, false
	}
	return bytes.TrimSpace(rest), true
}

// parseMeta gives the value's length for ms, -1 where it can not be known.
func (r *Request) parseMeta(t *tokens) (length int, err error) {
	if r.Key = t.next(); r.Key == nil {
		if r.Command == MetaDebug {
			return -1, badFormat()
		}
		return -1, &RequestError{Reply: replyError}
	}
	if r.Command == MetaSet {
		n, err := parseUint(t.next(), math.MaxInt32-2)
		if err != nil {
			return -1, badFormat()
		}
		length = int(n)
	}
	r.Meta = parseFlags(t, r.Meta)
	for _, f := range r.Meta {
		if checkWord(f.Arg) != nil || f.Letter <= ' ' || f.Letter >= 0x7f {
			return length, badFormat()
		}
	}
	if CheckKey(r.Key) != nil {
		return length, badFormat()
	}
	return length, nil
}

func (r *Request) parseRetrieval(t *tokens) (err error) {
	if r.Command == Gat || r.Command == Gats {
		w := t.next()
		if w == nil {
			return &RequestError{Reply: replyError}
		}
		if r.Exptime, err = parseExptime(w); err != nil {
			return &RequestError{Reply: replyExptime}
		}
	}
	for w := t.next(); w != nil; w = t.next() {
		if CheckKey(w) != nil {
			return badFormat()
		}
		r.Keys = append(r.Keys, w)
	}
	if len(r.Keys) == 0 {
		return &RequestError{Reply: replyError}
	}
	return nil
}

// parseStorage gives the value's length, -1 where it can not be known.
func (r *Request) parseStorage(t *tokens) (length int, err error) {
	r.Key = t.next()
	flags, flagsErr := parseUint(t.next(), math.MaxUint32)
	exptime, exptimeErr := parseExptime(t.next())
	lengthWord := t.next()
	if lengthWord == nil {
		return -1, &RequestError{Reply: replyError}
	}
	n, err := parseUint(lengthWord, math.MaxInt32-2)
	if err != nil {
		return -1, badFormat()
	}
	length = int(n)
	r.Flags, r.Exptime = uint32(flags), exptime
	if r.Command == CompareAndSwap {
		if r.CAS, err = parseUint(t.next(), math.MaxUint64); err != nil {
			return length, badFormat()
		}
	}
	if err := r.parseNoReply(t); err != nil {
		return length, err
	}
	if flagsErr != nil || exptimeErr != nil || CheckKey(r.Key) != nil {
		return length, badFormat()
	}
	return length, nil
}

// parseNoReply reads the last word of a line, if there is one.
func (r *Request) parseNoReply(t *tokens) error {
	switch w := t.next(); {
	case w == nil:
	case t.next() != nil: // more words than the command has
		return &RequestError{Reply: replyError}
	case string(w) == "noreply":
		r.NoReply = true
	default:
		return badFormat()
	}
	return nil
}

func (r *Request) parseFlushAll(t *tokens) (err error) {
	w := t.next()
	if w == nil {
		return nil
	}
	if string(w) == "noreply" {
		r.NoReply = true
		return nil
	}
	if r.Exptime, err = parseExptime(w); err != nil {
		return &RequestError{Reply: replyExptime}
	}
	return r.parseNoReply(t)
}

// parseKeyed reads delete, incr, decr and touch.
func (r *Request) parseKeyed(t *tokens) (err error) {
	r.Key = t.next()
	if r.Key == nil {
		return &RequestError{Reply: replyError}
	}
	if CheckKey(r.Key) != nil {
		return badFormat()
	}
	switch r.Command {
	case Incr, Decr:
		w := t.next()
		if w == nil {
			return &RequestError{Reply: replyError}
		}
		if r.Delta, err = parseUint(w, math.MaxUint64); err != nil {
			return &RequestError{Reply: "CLIENT_ERROR invalid numeric delta argument"}
		}
	case Touch:
		w := t.next()
		if w == nil {
			return &RequestError{Reply: replyError}
		}
		if r.Exptime, err = parseExptime(w); err != nil {
			return &RequestError{Reply: replyExptime}
		}
	case Delete:
		if len(bytes.Fields(t.rest())) > 2 {
			return &RequestError{Reply: replyError}
		}
		// Very old clients send a time of 0, which memcached still takes.
		if rest := bytes.TrimLeft(t.rest(), " "); len(rest) > 0 && rest[0] == '0' && (len(rest) == 1 || rest[1] == ' ') {
			t.next()
		}
		if r.parseNoReply(t) != nil {
			return &RequestError{Reply: replyBadFormat + ".  Usage: delete <key> [noreply]"}
		}
		return nil
	}
	return r.parseNoReply(t)
}
