package memnode

import (
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
)

// BenchmarkItemMemory prints what an item costs the heap beyond its size by
// memcached's account: itemOverhead.
func BenchmarkItemMemory(b *testing.B) {
	const items = 200_000
	for _, size := range []int{10, 100, 1000} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			for b.Loop() {
				before := heap()
				s, err := newStore(Config{MaxBytes: 1 << 30, MaxItemSize: 1 << 20}.withDefaults())
				if err != nil {
					b.Fatal(err)
				}
				var account int
				value := make([]byte, size)
				for i := range items {
					w := write{key: fmt.Appendf(nil, "user:%08d", i), value: value}
					account += itemSize(len(w.key), size, 0)
					sl := s.lock(w.key)
					sl.apply(&w)
					sl.unlock()
				}
				b.ReportMetric(float64(int(heap()-before)-account)/items, "overhead-B/item")
				runtime.KeepAlive(s)
			}
		})
	}
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// BenchmarkRequests is what a request costs without a socket.
func BenchmarkRequests(b *testing.B) {
	n := startNode(b, Config{})
	for _, request := range []string{
		"mg key v t f c k O1\r\n", "mg key v N30 R30 c t\r\n", "get key\r\n", "mg missing\r\n",
		"ms key 100 T100\r\n" + strings.Repeat("v", 100) + "\r\n", "ma n\r\n", "md missing q\r\n",
	} {
		b.Run(strings.Fields(request)[0]+"_"+strings.Fields(request)[1], func(b *testing.B) {
			c := newConn(n.life, nil)
			do := func(text []byte) {
				c.in, c.start, c.end, c.out = text, 0, len(text), c.out[:0]
				for c.next() {
				}
			}
			do([]byte("set key 5 1000 100\r\n" + strings.Repeat("v", 100) + "\r\nset n 0 0 9\r\n1        \r\n"))
			text := []byte(request)
			b.ReportAllocs()
			for b.Loop() {
				do(text)
			}
		})
	}
}

// BenchmarkRoundTrip asks over loopback, in batches.
func BenchmarkRoundTrip(b *testing.B) {
	for _, batch := range []int{1, 20} {
		b.Run(fmt.Sprint(batch), func(b *testing.B) {
			n := startNode(b, Config{})
			b.RunParallel(func(pb *testing.PB) {
				nc, err := net.Dial("tcp", n.Addr())
				if err != nil {
					b.Error(err)
					return
				}
				defer nc.Close()
				say(b, nc, "set key 0 0 100\r\n"+strings.Repeat("v", 100)+"\r\n")
				wantRead(b, nc, "STORED\r\n")
				request := strings.Repeat("mg key v O1\r\n", batch)
				reply := make([]byte, batch*len("VA 100 O1\r\n\r\n")+batch*100)
				for i := 0; pb.Next(); i++ {
					if i%batch > 0 {
						continue
					}
					say(b, nc, request)
					if _, err := io.ReadFull(nc, reply); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}
