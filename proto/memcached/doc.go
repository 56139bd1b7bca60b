// Package memcached speaks memcached's wire protocol, meta and classic text,
// from both sides: a client appends requests and parses replies, a server
// parses requests and appends replies.
//
// All of it is pure functions over byte slices. Nothing reads, nothing
// blocks, and nothing is allocated once a Request or Reply has been used: the
// slices in them point into the parsed bytes and are valid as long as those
// are. Parsing is incremental. A size larger than the given bytes means that
// so many are needed at least, and is not an error:
//
//	var rep memcached.Reply
//	n, err := memcached.ParseReply(buf, &rep)
//	switch {
//	case err != nil:     // the stream is out of step, close it
//	case n > len(buf):   // read on until n bytes are there
//	default:             // rep is complete, drop n bytes
//	}
//
// The functions are safe for concurrent use on different Requests and
// Replies. The protocol is that of memcached's doc/protocol.txt as of 1.6.
package memcached
