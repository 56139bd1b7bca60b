package client

import (
	"syscall"
	"testing"
)

// TestLaneSendBuffer: the socket of a lane does not take a large value whole, and
// grow for it; the others are as the kernel makes them.
func TestLaneSendBuffer(t *testing.T) {
	c := onNode(t)
	n := c.fleet.Load().nodes[0]
	sendBuffer := func(slot int) int {
		nc := n.slots[slot].conn.Load()
		if nc == nil {
			t.Fatalf("slot %d has no connection", slot)
		}
		size := 0
		raw, err := nc.nc.(syscall.Conn).SyscallConn()
		if err == nil {
			err = raw.Control(func(fd uintptr) { size, _ = syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_SNDBUF) })
		}
		if err != nil {
			t.Fatal(err)
		}
		return size
	}
	if err := c.Set(t.Context(), &Item{Key: "small", Value: make([]byte, 10)}); err != nil {
		t.Fatal(err)
	}
	before := sendBuffer(0)
	for range 20 {
		if err := c.Set(t.Context(), &Item{Key: "large", Value: make([]byte, 1<<20-100)}); err != nil {
			t.Fatal(err)
		}
	}
	if got := sendBuffer(n.laneSlot()); got == 0 || got > 2*laneSendBuffer { // Linux doubles it, for its own part
		t.Errorf("the lane's socket takes %d bytes, want %d at most", got, 2*laneSendBuffer)
	}
	if got := sendBuffer(0); got != before {
		t.Errorf("the other connection's socket takes %d bytes, want %d as before", got, before)
	}
}
