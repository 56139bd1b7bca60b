package sidecar

import (
	"context"
	"errors"
	"io"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
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
	// manyWaiting is how many requests are better carried out as several batches.
	manyWaiting = 256
	// togetherBytes is how much of values goes into a message of many replies.
	// The message of a client is 4 MiB at most unless it says otherwise.
	togetherBytes = 64 << 10
)

// A requestStream is one call of Stream. A goroutine reads; what it has read
// while a batch was put together goes out as the next one. Batches run side by
// side.
type requestStream struct {
	g      *cacheServer
	stream grpc.BidiStreamingServer[ringsidev1.StreamRequest, ringsidev1.StreamResponse]
	ctx    context.Context
	cancel context.CancelFunc
	// stuck is closed when a reply could not be sent for too long.
	stuck  chan struct{}
	gaveUp sync.Once
	// slots has a place for each request that is under way.
	slots chan struct{}
	// together is set once the caller has sent many requests in a message, and
	// so knows replies of that kind.
	together atomic.Bool

	// mu guards what follows.
	mu      sync.Mutex
	waiting []*ringsidev1.StreamRequest
	running int           // goroutines that carry out batches
	idle    chan struct{} // of the one that stays when nothing waits, else nil
	stopped bool          // nothing more is taken
	ended   bool          // nobody stays
	work    sync.WaitGroup

	sending sync.Mutex // one Send at a time
}

func (g *cacheServer) Stream(stream grpc.BidiStreamingServer[ringsidev1.StreamRequest, ringsidev1.StreamResponse]) error {
	s := &requestStream{g: g, stream: stream, slots: make(chan struct{}, streamRequests), stuck: make(chan struct{})}
	s.ctx, s.cancel = context.WithCancel(stream.Context())
	defer s.cancel()
	defer s.end()
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
			err = statusOf(errDraining)
		}
	case <-s.stuck:
		// Its memory is what the others need. The work under way ends as the
		// stream does with this.
		return status.Error(codes.ResourceExhausted, "the replies are not read")
	}
	s.end()
	done := make(chan struct{})
	go func() {
		s.work.Wait()
		close(done)
	}()
	select {
	case <-done:
		return err
	case <-s.stuck:
		return status.Error(codes.ResourceExhausted, "the replies are not read")
	}
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
		also := req.GetAlso()
		if len(also) >= streamRequests {
			return status.Errorf(codes.InvalidArgument, "also: more than %d requests", streamRequests-1)
		}
		if len(also) > 0 {
			s.together.Store(true)
			req.Also = nil
		}
		for requests := append([]*ringsidev1.StreamRequest{req}, also...); len(requests) > 0; {
			n, err := s.slotsFor(len(requests))
			if err != nil {
				return err
			}
			if !s.queue(requests[:n]) {
				return nil // draining: they were not taken
			}
			requests = requests[n:]
		}
	}
}

// slotsFor waits for a slot, and takes as many more as are free, so many in all
// at most.
func (s *requestStream) slotsFor(most int) (int, error) {
	select {
	case s.slots <- struct{}{}:
	case <-s.ctx.Done():
		return 0, status.FromContextError(s.ctx.Err()).Err()
	}
	for n := 1; n < most; n++ {
		select {
		case s.slots <- struct{}{}:
		default:
			return n, nil
		}
	}
	return most, nil
}

// queue adds requests to the next batch, and has somebody carry that out.
func (s *requestStream) queue(requests []*ringsidev1.StreamRequest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return false
	}
	s.waiting = append(s.waiting, requests...)
	// Where others wait already somebody was woken for them, and takes these too.
	if len(s.waiting) == len(requests) {
		s.another()
	}
	return true
}

// stop has no further request be taken.
func (s *requestStream) stop() {
	s.mu.Lock()
	s.stopped = true
	s.mu.Unlock()
}

// end lets the goroutines go that have nothing to do.
func (s *requestStream) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	if s.idle != nil {
		close(s.idle)
		s.idle = nil
	}
}

// carry carries out batches. When nothing waits one goroutine stays: a new one
// for each batch would have to grow its stack each time.
func (s *requestStream) carry() {
	var r streamRun
	for s.stays() {
		// Requests that came in one read of the connection are handed out one by
		// one; let the reader go on first.
		runtime.Gosched()
		for s.take(&r) {
			// What does not go together goes one after the other: many large values
			// at a time would take longer than their timeout.
			for rest := r.requests; len(rest) > 0; {
				n := min(len(rest), r.limit.keys())
				s.run(&r, rest[:n])
				rest = rest[n:]
			}
		}
		r.rest()
	}
}

// take makes what waits the next batch. It gives false where nothing does. Of many
// requests it takes half, and has another goroutine take from the rest in the same
// way: then the caller works on replies while the nodes do on requests.
func (s *requestStream) take(r *streamRun) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(r.requests)
	r.requests = r.requests[:0]
	if len(s.waiting) < manyWaiting || !s.another() {
		// The list that was worked off is the next one's memory.
		r.requests, s.waiting = s.waiting, r.requests
		return len(r.requests) > 0
	}
	half := len(s.waiting) / 2
	r.requests = append(r.requests, s.waiting[:half]...)
	s.waiting = slices.Delete(s.waiting, 0, half)
	return true
}

// another has a goroutine that does nothing, or a new one, carry out what waits.
// s.mu is held.
func (s *requestStream) another() bool {
	switch {
	case s.idle != nil:
		close(s.idle)
		s.idle = nil
	case s.running < streamBatches:
		s.running++
		s.work.Go(s.carry)
	default:
		return false
	}
	return true
}

// stays waits where nothing is to be done, unless another one does already: then
// it gives false, as at the end of the stream.
func (s *requestStream) stays() bool {
	s.mu.Lock()
	if len(s.waiting) > 0 {
		s.mu.Unlock()
		return true
	}
	if s.idle != nil || s.ended {
		s.running--
		s.mu.Unlock()
		return false
	}
	if cap(s.waiting) > keepRequests {
		s.waiting = nil
	}
	idle := make(chan struct{})
	s.idle = idle
	s.mu.Unlock()
	<-idle
	return true
}

// A streamRun is a batch of a Stream. Its memory is used again for the next.
type streamRun struct {
	requests []*ringsidev1.StreamRequest
	batch    client.Batch
	places   []streamPlace
	limit    chunkLimit
}

// keepRequests is for how many requests an idle Stream keeps memory, some 40 KiB.
// With 16 those of 64 at a time took 3 % longer.
const keepRequests = 64

// rest lets go of what the last batch had, and of the memory of a long one. What
// comes behind a pause may be large, whatever came before it.
func (r *streamRun) rest() {
	r.limit.n = min(r.limit.n, firstChunk)
	if cap(r.places) > keepRequests {
		*r = streamRun{limit: r.limit}
		return
	}
	r.batch.Reset()
	clear(r.places)
	r.places = r.places[:0]
}

// A streamPlace is a request's place in the batch.
type streamPlace struct {
	name string
	op   operation
	i    int
	err  error
	resp *ringsidev1.StreamResponse
}

// run carries out the requests of a batch and answers them.
func (s *requestStream) run(r *streamRun, requests []*ringsidev1.StreamRequest) {
	g := s.g
	start := time.Now()
	admitted := g.admit(int64(len(requests)))
	span := g.s.tracer.call(s.ctx, ringsidev1.Cache_Stream_FullMethodName)
	b := &r.batch
	b.Reset()
	clear(r.places)
	r.places = r.places[:0]
	for i, req := range requests {
		request, name := streamed(req)
		p := streamPlace{name: name}
		if int64(i) >= admitted {
			p.err = g.tooMany()
		} else if len(req.GetAlso()) > 0 {
			p.err = argument("also: requests that came in it have none themselves")
		} else if p.op, p.err = operationOf(request); p.err == nil {
			p.i, p.err = p.op.add(g, b)
		}
		r.places = append(r.places, p)
	}
	g.s.client.Do(s.ctx, b) //nolint:errcheck // each reply has its own
	// Not behind the replies: a caller that reads none would use up what all
	// have together.
	g.underWay.Add(-admitted)
	g.s.metrics.took(protocolGRPC, time.Since(start))
	failed, size := s.replies(r, requests)
	s.send(r)
	r.limit.saw(len(r.places), size)
	if span != nil {
		names := make([]string, len(r.places))
		for i := range r.places {
			names[i] = r.places[i].name
		}
		g.s.tracer.endBatch(span, b, names, failed)
	}
}

// replies makes the replies to the requests of a batch. It gives how many failed,
// and the bytes of the values.
func (s *requestStream) replies(r *streamRun, requests []*ringsidev1.StreamRequest) (failed, size int) {
	counts := tally{m: s.g.s.metrics, protocol: protocolGRPC}
	defer counts.flush()
	for i := range r.places {
		p := &r.places[i]
		var reply any
		err := p.err
		if err == nil {
			reply, err = p.op.reply(s.g, &r.batch, p.i)
		}
		p.resp = streamReply(requests[i].GetId(), reply, err)
		result := streamResult(p.resp)
		counts.add(p.name, result)
		if result == resultError {
			failed++
		}
		size += valueBytes(p.resp)
	}
	return failed, size
}

func valueBytes(resp *ringsidev1.StreamResponse) int { return len(resp.GetGet().GetValue().GetValue()) }

// send sends the replies of a batch.
func (s *requestStream) send(r *streamRun) {
	s.sending.Lock()
	defer s.sending.Unlock()
	// A caller that reads nothing for so long is cut off.
	patience := s.g.s.limits().WriteTimeout
	late := time.AfterFunc(patience, s.giveUp)
	defer late.Stop()
	var message *ringsidev1.StreamResponse
	held, heldBytes := 0, 0 // in message
	send := func() {
		if held == 0 {
			return
		}
		if s.stream.Send(message) != nil {
			s.cancel() // the stream is broken, and Recv says so too
		}
		late.Reset(patience)
		for range held {
			<-s.slots
		}
		held, heldBytes = 0, 0
	}
	together := s.together.Load()
	for i := range r.places {
		resp := r.places[i].resp
		bytes := valueBytes(resp)
		if !together || heldBytes+bytes > togetherBytes {
			send()
		}
		if held == 0 {
			message = resp
		} else {
			message.Also = append(message.Also, resp)
		}
		held, heldBytes = held+1, heldBytes+bytes
	}
	send()
}

// giveUp ends a stream whose replies are not read.
func (s *requestStream) giveUp() {
	noteStuck(s.ctx)
	s.cancel()
	s.gaveUp.Do(func() { close(s.stuck) })
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
	if get, ok := reply.(*ringsidev1.GetResponse); ok && err == nil {
		// The most frequent one, in one piece of memory.
		m := new(struct {
			resp ringsidev1.StreamResponse
			get  ringsidev1.StreamResponse_Get
		})
		m.resp.Id, m.resp.Response, m.get.Get = id, &m.get, get
		return &m.resp
	}
	resp := &ringsidev1.StreamResponse{Id: id}
	if err != nil {
		resp.Response = &ringsidev1.StreamResponse_Error{Error: &ringsidev1.StreamError{
			Code: int32(codeOf(err)), Message: publicError(err), Detail: detailOf(err),
		}}
		return resp
	}
	switch r := reply.(type) {
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
