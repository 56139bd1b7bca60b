package sidecar

import (
	"context"
	"errors"
	"io"
	"runtime"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/ringside-cache/ringside/client"
	ringsidev1 "github.com/ringside-cache/ringside/proto/ringside/v1"
)

const (
	// streamRequests bounds what a Stream has under way.
	streamRequests = 1024
	// streamBatches bounds the batches that they are in: so many nodes may be
	// slow before they hold up the others.
	streamBatches = 16
)

// A requestStream is one call of Stream. A goroutine reads; what it has read
// while a batch was put together goes out as the next one. Batches run side by
// side.
type requestStream struct {
	g      *cacheServer
	stream grpc.BidiStreamingServer[ringsidev1.StreamRequest, ringsidev1.StreamResponse]
	ctx    context.Context
	cancel context.CancelFunc
	// slots has a place for each request that is under way.
	slots chan struct{}

	// mu guards what follows.
	mu      sync.Mutex
	waiting []*ringsidev1.StreamRequest
	running int // goroutines that carry out batches
	work    sync.WaitGroup

	sending sync.Mutex // one Send at a time
}

func (g *cacheServer) Stream(stream grpc.BidiStreamingServer[ringsidev1.StreamRequest, ringsidev1.StreamResponse]) error {
	s := &requestStream{g: g, stream: stream, slots: make(chan struct{}, streamRequests)}
	s.ctx, s.cancel = context.WithCancel(stream.Context())
	defer s.cancel()
	ended := make(chan error, 1)
	go func() { ended <- s.read() }() // ends with the call at the latest
	var err error
	select {
	case err = <-ended:
	case <-g.life.Done():
		// What was on its way is taken, as with the memcached listener.
		timer := time.NewTimer(drainGrace)
		defer timer.Stop()
		select {
		case err = <-ended:
		case <-timer.C:
			s.stop()
			err = status.Error(codes.Unavailable, "the sidecar is draining")
		}
	}
	s.work.Wait()
	return err
}

// read takes requests until the caller closes its side.
func (s *requestStream) read() error {
	for {
		req, err := s.stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			s.cancel() // nobody is there to be answered
			return err
		}
		select {
		case s.slots <- struct{}{}:
		case <-s.ctx.Done():
			return status.FromContextError(s.ctx.Err()).Err()
		}
		if !s.queue(req) {
			return nil // draining: it was not taken
		}
	}
}

// queue adds a request to the next batch, and has somebody carry that out.
func (s *requestStream) queue(req *ringsidev1.StreamRequest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running < 0 {
		return false
	}
	s.waiting = append(s.waiting, req)
	if len(s.waiting) == 1 && s.running < streamBatches {
		s.running++
		s.work.Go(s.carry)
	}
	return true
}

// stop has no further request be taken.
func (s *requestStream) stop() {
	s.mu.Lock()
	s.running = -2 * streamBatches
	s.mu.Unlock()
}

// carry carries out batches until nothing waits.
func (s *requestStream) carry() {
	// Requests that came in one read of the connection are handed out one by
	// one; let the reader go on first.
	runtime.Gosched()
	var r streamRun
	for {
		s.mu.Lock()
		// The list that was worked off is the next one's memory.
		clear(r.requests)
		r.requests, s.waiting = s.waiting, r.requests[:0]
		if len(r.requests) == 0 {
			s.running--
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
		s.run(&r)
	}
}

// A streamRun is a batch of a Stream. Its memory is used again for the next.
type streamRun struct {
	requests []*ringsidev1.StreamRequest
	batch    client.Batch
	places   []streamPlace
}

// A streamPlace is a request's place in the batch.
type streamPlace struct {
	name string
	op   operation
	i    int
	err  error
}

// run carries out one batch and answers it.
func (s *requestStream) run(r *streamRun) {
	g := s.g
	start := time.Now()
	n := int64(len(r.requests))
	admitted := g.admit(n)
	if admitted {
		defer g.underWay.Add(-n)
	}
	span := g.s.tracer.call(s.ctx, ringsidev1.Cache_Stream_FullMethodName)
	b := &r.batch
	b.Reset()
	clear(r.places)
	r.places = r.places[:0]
	for _, req := range r.requests {
		request, name := streamed(req)
		p := streamPlace{name: name}
		if !admitted {
			p.err = status.Errorf(codes.ResourceExhausted, "%d requests are under way", g.s.limits().MaxRequests)
		} else if p.op, p.err = g.operation(request); p.err == nil {
			p.i = p.op.add(b)
		}
		r.places = append(r.places, p)
	}
	g.s.client.Do(s.ctx, b) //nolint:errcheck // each reply has its own
	g.s.metrics.took(protocolGRPC, time.Since(start))
	s.sending.Lock()
	defer s.sending.Unlock()
	failed := 0
	for i := range r.places {
		p := &r.places[i]
		var reply any
		err := p.err
		if err == nil {
			reply, err = p.op.reply(b, p.i)
		}
		resp := streamReply(r.requests[i].GetId(), reply, err)
		result := streamResult(resp)
		g.s.metrics.request(protocolGRPC, p.name, result)
		if result == resultError {
			failed++
		}
		if s.stream.Send(resp) != nil {
			s.cancel() // the stream is broken, and Recv says so too
		}
		<-s.slots
	}
	if span != nil {
		names := make([]string, len(r.places))
		for i := range r.places {
			names[i] = r.places[i].name
		}
		g.s.tracer.endBatch(span, b, names, failed)
	}
}

// streamed is the request in a message and its method's name; nil where there
// is none.
func streamed(req *ringsidev1.StreamRequest) (request any, name string) {
	switch r := req.GetRequest().(type) {
	case *ringsidev1.StreamRequest_Get:
		return r.Get, "Get"
	case *ringsidev1.StreamRequest_GetAndTouch:
		return r.GetAndTouch, "GetAndTouch"
	case *ringsidev1.StreamRequest_Set:
		return r.Set, "Set"
	case *ringsidev1.StreamRequest_Add:
		return r.Add, "Add"
	case *ringsidev1.StreamRequest_Replace:
		return r.Replace, "Replace"
	case *ringsidev1.StreamRequest_Append:
		return r.Append, "Append"
	case *ringsidev1.StreamRequest_Prepend:
		return r.Prepend, "Prepend"
	case *ringsidev1.StreamRequest_CompareAndSwap:
		return r.CompareAndSwap, "CompareAndSwap"
	case *ringsidev1.StreamRequest_Delete:
		return r.Delete, "Delete"
	case *ringsidev1.StreamRequest_Touch:
		return r.Touch, "Touch"
	case *ringsidev1.StreamRequest_Increment:
		return r.Increment, "Increment"
	case *ringsidev1.StreamRequest_Decrement:
		return r.Decrement, "Decrement"
	}
	return nil, "Unknown"
}

// streamReply is the message for a reply or an error.
func streamReply(id uint64, reply any, err error) *ringsidev1.StreamResponse {
	resp := &ringsidev1.StreamResponse{Id: id}
	if err != nil {
		code, message := codeOf(err), err.Error()
		if st, ok := status.FromError(err); ok {
			code, message = st.Code(), st.Message()
		}
		resp.Response = &ringsidev1.StreamResponse_Error{Error: &ringsidev1.StreamError{
			Code: int32(code), Message: message, Detail: detailOf(err),
		}}
		return resp
	}
	switch r := reply.(type) {
	case *ringsidev1.GetResponse:
		resp.Response = &ringsidev1.StreamResponse_Get{Get: r}
	case *ringsidev1.SetResponse:
		resp.Response = &ringsidev1.StreamResponse_Set{Set: r}
	case *ringsidev1.StoreResponse:
		resp.Response = &ringsidev1.StreamResponse_Store{Store: r}
	case *ringsidev1.CompareAndSwapResponse:
		resp.Response = &ringsidev1.StreamResponse_CompareAndSwap{CompareAndSwap: r}
	case *ringsidev1.DeleteResponse:
		resp.Response = &ringsidev1.StreamResponse_Delete{Delete: r}
	case *ringsidev1.TouchResponse:
		resp.Response = &ringsidev1.StreamResponse_Touch{Touch: r}
	case *ringsidev1.CountResponse:
		resp.Response = &ringsidev1.StreamResponse_Count{Count: r}
	}
	return resp
}

func streamResult(resp *ringsidev1.StreamResponse) string {
	if e := resp.GetError(); e != nil {
		return resultOf(nil, status.Error(codes.Code(e.GetCode()), ""))
	}
	if get := resp.GetGet(); get != nil {
		return resultOf(get, nil)
	}
	return resultOK
}
