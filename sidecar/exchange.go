package sidecar

import (
	"context"
	"encoding/base64"
	"errors"
	"strings"
	"time"

	"github.com/ringside-cache/ringside/client"
	"github.com/ringside-cache/ringside/proto/memcached"
)

// An exchange is a run of requests that came together and are carried out
// together. Its memory is used again for the next one.
type exchange struct {
	requests []*memcached.Request
	steps    []step
	batch    client.Batch
	reply    memcached.Reply
	keys     int
	limit    int // of keys, at most most
	most     int
	// spill writes out where it is large, and gives it back for more.
	spill func(out []byte) []byte
	// taken is how many keys of a retrieval, which comes in parts, are in
	// steps or answered; failed is why one of those could not be read.
	taken  int
	failed error
	errors int       // requests that failed
	counts tally     // of what is answered
	began  time.Time // when it was last carried out
	// shared is the result of all of its gets, where they were collapsed.
	shared *getResult
}

// A step is what one request came to.
type step struct {
	req *memcached.Request
	// first is the place of the request's first operation in the batch, -1
	// for a request that is answered without the nodes.
	first int
	// keys are those that this step of a retrieval reads; part says that
	// more of them follow in another step.
	keys [][]byte
	part bool
	// refused is the reply to a request that could not be carried out.
	refused string
	// own is the key of an mg that the sidecar answers itself.
	own []byte
}

// nextRequest gives a request to parse into. It belongs to the exchange once
// it was added.
func (x *exchange) nextRequest() *memcached.Request {
	if len(x.steps) == len(x.requests) {
		x.requests = append(x.requests, new(memcached.Request))
	}
	return x.requests[len(x.steps)]
}

func (x *exchange) empty() bool { return len(x.steps) == 0 }

func (x *exchange) full() bool { return x.keys >= x.limit || len(x.steps) >= maxExchange }

// isAlone tells whether a request has an exchange to itself: one that is about
// all nodes, since the batch goes out before it is answered; and a retrieval
// of more keys than an exchange takes, which goes in parts.
func (x *exchange) isAlone(req *memcached.Request) bool {
	return req.Command == memcached.FlushAll || req.Command == memcached.Stats || len(req.Keys) > x.limit
}

// reject takes a request that could not be parsed.
func (x *exchange) reject(req *memcached.Request, reply string) {
	noReply := req.NoReply
	req.Reset()
	req.NoReply = noReply
	x.steps = append(x.steps, step{req: req, first: -1, refused: reply})
}

// add takes a parsed request and puts its operations into the batch. It gives
// false when the exchange is full before the last key of a retrieval: then it
// is called again after the flush.
func (x *exchange) add(req *memcached.Request) (complete bool) {
	s := step{req: req, first: x.batch.Len()}
	switch c := req.Command; {
	case c.IsRetrieval():
		s.refused = x.addRetrieval(&s)
	case c == memcached.MetaNoop || c >= memcached.FlushAll:
		s.first = -1
	case c.IsMeta():
		s.refused = x.addMeta(&s)
	case isOwnKey(req.Key):
		s.refused = ownRefusal
	case c.HasValue():
		s.refused = x.addStorage(req)
	default:
		s.refused = x.addKeyed(req)
	}
	if s.refused != "" || s.own != nil {
		s.first = -1
	}
	x.keys = x.batch.Len()
	x.steps = append(x.steps, s)
	return !s.part
}

func (x *exchange) addRetrieval(s *step) string {
	req := s.req
	touch := req.Command == memcached.Gat || req.Command == memcached.Gats
	exptime := toExpiration(req.Exptime)
	s.keys = req.Keys[x.taken:]
	if len(s.keys) > x.limit {
		s.keys, s.part = s.keys[:x.limit], true
	}
	if x.taken += len(s.keys); !s.part {
		x.taken = 0
	}
	for _, key := range s.keys {
		if isOwnKey(key) {
			continue
		}
		if touch {
			x.batch.GetAndTouch(string(key), exptime)
		} else {
			x.batch.Get(string(key))
		}
	}
	return ""
}

func (x *exchange) addStorage(req *memcached.Request) string {
	item := &client.Item{
		Key: string(req.Key), Value: req.Value, Flags: req.Flags, Expiration: toExpiration(req.Exptime), CasID: req.CAS,
	}
	switch req.Command {
	case memcached.Set:
		x.batch.Set(item)
	case memcached.Add:
		x.batch.Add(item)
	case memcached.Replace:
		x.batch.Replace(item)
	case memcached.Append:
		x.batch.Append(item)
	case memcached.Prepend:
		x.batch.Prepend(item)
	case memcached.CompareAndSwap:
		x.batch.CompareAndSwap(item)
	}
	return ""
}

func (x *exchange) addKeyed(req *memcached.Request) string {
	key := string(req.Key)
	switch req.Command {
	case memcached.Delete:
		x.batch.Delete(key)
	case memcached.Incr:
		x.batch.Increment(key, req.Delta)
	case memcached.Decr:
		x.batch.Decrement(key, req.Delta)
	case memcached.Touch:
		x.batch.Touch(key, toExpiration(req.Exptime))
	}
	return ""
}

// addMeta routes by the decoded key, as memcached hashes that one.
func (x *exchange) addMeta(s *step) string {
	req := s.req
	key := string(req.Key)
	if _, encoded := req.Flag('b'); encoded && req.Command != memcached.MetaDebug {
		decoded, err := base64.StdEncoding.AppendDecode(nil, req.Key)
		if err != nil || len(decoded) == 0 || len(decoded) > memcached.MaxKey {
			return "CLIENT_ERROR error decoding key"
		}
		key = string(decoded)
	}
	if isOwnKey([]byte(key)) {
		if req.Command != memcached.MetaGet {
			return ownRefusal
		}
		s.own = []byte(key)
		return ""
	}
	x.batch.Meta(key, req)
	return ""
}

// toExpiration keeps the low 32 bits, as memcached does; its meta commands do it
// on the node. To refuse a set would also leave the old value where it stands.
func toExpiration(exptime int64) int32 { return int32(exptime) }

// carryOut runs the operations of the exchange.
func (x *exchange) carryOut(m *memcachedServer) {
	x.began = time.Now()
	if x.batch.Len() == 0 {
		return
	}
	// The client's own timeout bounds it; life ends it when a drain is over.
	// Errors are reported operation by operation.
	if !x.collapse(m) {
		_ = m.s.client.Do(m.life, &x.batch)
	}
	m.s.metrics.took(protocolMemcached, time.Since(x.began))
}

// reset makes the exchange empty, and fits the next one to the size of the
// replies of this one.
func (x *exchange) reset(size int) {
	if size > exchangeBytes {
		x.limit = max(1, min(x.limit, x.keys*exchangeBytes/size))
	} else {
		x.limit = min(2*x.limit, x.most)
	}
	x.batch.Reset()
	x.shared = nil
	for i, req := range x.requests {
		if cap(req.Keys) > maxExchange { // of one very long get
			x.requests[i] = new(memcached.Request)
		}
	}
	for i := range x.steps {
		// What they point to is a buffer that may be dropped, and a value that
		// was answered; a retrieval that comes in parts is not done yet.
		if req := x.steps[i].req; !x.steps[i].part {
			clear(req.Keys)
			clear(req.Meta)
			req.Reset()
		}
	}
	x.reply.Reset()
	clear(x.steps)
	x.steps, x.keys = x.steps[:0], 0
}

// trim lets go of what a long exchange took, before the connection may be idle
// for long: some 170 KiB for 256 requests.
func (x *exchange) trim() {
	const keep = 64
	if x.empty() && x.taken == 0 && max(len(x.requests), cap(x.steps)) > keep {
		x.requests, x.steps, x.batch = nil, nil, client.Batch{}
	}
}

// operations names the requests.
func (x *exchange) operations() []string {
	names := make([]string, len(x.steps))
	for i := range x.steps {
		names[i] = x.steps[i].req.Command.String()
	}
	return names
}

// answer appends the reply to one request.
func (x *exchange) answer(m *memcachedServer, s *step, out []byte) []byte {
	before := len(out)
	req := s.req
	result := resultOK
	switch c := req.Command; {
	case s.refused != "":
		out = appendLine(out, s.refused)
		result = resultRefused
	case s.own != nil:
		out, result = m.answerOwn(s, out)
	case s.first < 0:
		out = m.answerHere(req, out)
	case c.IsRetrieval():
		out, result = x.answerRetrieval(m, s, out)
	case c.IsMeta():
		out, result = x.answerMeta(s, out)
	case c == memcached.Incr || c == memcached.Decr:
		n, err := x.batch.Number(s.first)
		if err == nil {
			x.reply.Reset()
			x.reply.Kind, x.reply.Number = memcached.Number, n
			out = memcached.AppendReply(out, &x.reply)
		} else {
			out, result = appendOutcome(out, req.Command, err)
		}
	default:
		out, result = appendOutcome(out, req.Command, x.batch.Err(s.first))
	}
	if result == resultError {
		x.errors++
	}
	if !s.part {
		x.counts.add(req.Command.String(), result)
	}
	if req.NoReply {
		return out[:before]
	}
	return out
}

// answerRetrieval appends the values found. Where a key could not be read, an
// error stands in the place of END: a failure is not a miss.
func (x *exchange) answerRetrieval(m *memcachedServer, s *step, out []byte) ([]byte, string) {
	withCAS := s.req.Command == memcached.Gets || s.req.Command == memcached.Gats
	result := resultMiss
	next := s.first
	for _, key := range s.keys {
		var value []byte
		var flags uint32
		var casID uint64
		var ok bool
		if isOwnKey(key) {
			if value, ok = m.ownValue(key); !ok {
				continue
			}
		} else {
			r := x.read(next)
			next++
			if !r.found {
				if r.failed() {
					x.failed = r.err
				}
				continue
			}
			value, flags, casID = r.value, r.flags, r.casID
		}
		result = resultHit
		x.reply.Reset()
		x.reply.Kind, x.reply.Key, x.reply.Value, x.reply.Flags = memcached.Value, key, value, flags
		x.reply.CAS, x.reply.HasCAS = casID, withCAS
		out = x.spill(memcached.AppendReply(out, &x.reply))
	}
	switch failed := x.failed; {
	case s.part:
		return out, result
	case failed != nil:
		x.failed = nil
		return appendOutcome(out, s.req.Command, failed)
	}
	return append(out, "END\r\n"...), result
}

// answerMeta appends the node's own reply, unless q asked for silence.
func (x *exchange) answerMeta(s *step, out []byte) ([]byte, string) {
	rep, err := x.batch.Reply(s.first)
	if err != nil {
		return appendOutcome(out, s.req.Command, err)
	}
	result := resultOK
	switch rep.Kind {
	case memcached.MetaValue:
		result = resultHit
	case memcached.MetaMiss, memcached.MetaNotFound:
		result = resultMiss
	}
	if _, quiet := s.req.Flag('q'); quiet && isQuiet(s.req.Command, rep.Kind) {
		return out, result
	}
	return memcached.AppendReply(out, rep), result
}

// isQuiet tells which replies q leaves out: the ordinary one, as memcached
// 1.6.18 does it.
func isQuiet(c memcached.Command, kind memcached.ReplyKind) bool {
	if c == memcached.MetaGet {
		return kind == memcached.MetaMiss
	}
	return kind == memcached.MetaOK || c == memcached.MetaArithmetic && kind == memcached.MetaValue
}

// answerHere answers what needs no single node.
func (m *memcachedServer) answerHere(req *memcached.Request, out []byte) []byte {
	switch req.Command {
	case memcached.MetaNoop:
		return appendLine(out, "MN")
	case memcached.Version:
		return appendLine(out, "VERSION "+protocolVersion)
	case memcached.Verbosity:
		return appendLine(out, "OK")
	case memcached.FlushAll:
		ctx, cancel := context.WithTimeout(m.life, 5*time.Second)
		defer cancel()
		if err := m.s.client.FlushAllAfter(ctx, req.Exptime); err != nil {
			out, _ = appendOutcome(out, req.Command, err)
			return out
		}
		return appendLine(out, "OK")
	case memcached.Stats:
		return m.appendStats(out, string(req.Arg))
	}
	return out // quit
}

// protocolVersion is what version answers. The first part is the memcached
// whose protocol is spoken, which clients look at.
const protocolVersion = "1.6.18-ringside-" + Version

func appendLine(out []byte, line string) []byte { return append(append(out, line...), "\r\n"...) }

// appendOutcome appends what memcached says for a result without a value, and
// gives the result's name for the metrics.
func appendOutcome(out []byte, c memcached.Command, err error) ([]byte, string) {
	switch {
	case err == nil:
		switch c {
		case memcached.Delete:
			return appendLine(out, "DELETED"), resultOK
		case memcached.Touch:
			return appendLine(out, "TOUCHED"), resultOK
		}
		return appendLine(out, "STORED"), resultOK
	case errors.Is(err, client.ErrCacheMiss):
		return appendLine(out, "NOT_FOUND"), resultMiss
	case errors.Is(err, client.ErrNotStored):
		return appendLine(out, "NOT_STORED"), resultNotStored
	case errors.Is(err, client.ErrCASConflict):
		return appendLine(out, "EXISTS"), resultConflict
	case errors.Is(err, client.ErrTooLarge):
		return appendLine(out, "SERVER_ERROR object too large for cache"), resultRefused
	case errors.Is(err, client.ErrMalformedKey):
		return appendLine(out, "CLIENT_ERROR bad command line format"), resultRefused
	case errors.Is(err, client.ErrClientError):
		if c == memcached.Incr || c == memcached.Decr {
			return appendLine(out, "CLIENT_ERROR cannot increment or decrement non-numeric value"), resultRefused
		}
		return appendLine(out, "CLIENT_ERROR bad command line format"), resultRefused
	}
	return appendLine(out, "SERVER_ERROR "+publicError(err)), resultError
}

// publicError is an error's text without line ends, which would put the
// stream out of step, and in UTF-8, as gRPC refuses to send anything else.
func publicError(err error) string {
	text := []byte(strings.ToValidUTF8(err.Error(), "?"))
	for i, c := range text {
		if c < ' ' || c == 0x7f {
			text[i] = ' '
		}
	}
	const most = 400
	return strings.ToValidUTF8(string(text[:min(len(text), most)]), "")
}
