//go:build unix

package sidecar_test

import (
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/ringside-cache/ringside/sidecar"
)

func TestUnixSockets(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	cfg := sidecar.Config{
		Embedded: 1, Memcached: "unix:" + dir + "/memcached", GRPC: "unix:" + dir + "/grpc", Admin: "unix:" + dir + "/admin",
	}
	names := []string{"memcached", "grpc", "admin"}
	// A socket file that a dead process left behind is in the way of nobody.
	for _, name := range names {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: dir + "/" + name, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		l.SetUnlinkOnClose(false)
		l.Close()
		if _, err := os.Lstat(dir + "/" + name); err != nil {
			t.Fatal(err)
		}
	}
	s := start(t, cfg)
	for _, name := range names {
		info, err := os.Lstat(dir + "/" + name)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := info.Mode(), os.ModeSocket|0o600; got != want {
			t.Errorf("the %s socket has mode %v, want %v", name, got, want)
		}
		if got, want := s.addr(name), "unix:"+dir+"/"+name; got != want {
			t.Errorf("%s listens on %q, want %q", name, got, want)
		}
	}
	dial(t, s.addr("memcached")).want("get a\r\n", "END\r\n")

	// Somebody who listens is left alone.
	if second, err := sidecar.Start(cfg); err == nil || !strings.Contains(err.Error(), dir+"/memcached") || !strings.Contains(err.Error(), "in use") {
		t.Errorf("a second Start = %v, %v, want an error that names the socket", second, err)
	}
	dial(t, s.addr("memcached")).want("get a\r\n", "END\r\n")
	s.stop(t)
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("the sockets %v are left", left)
	}
}

// TestSocketMode: it is that of all sockets, whatever the umask.
func TestSocketMode(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]os.FileMode{"": 0o600, "0660": 0o660, "666": 0o666, "0770": 0o770} {
		dir := shortDir(t)
		s := start(t, sidecar.Config{
			Embedded: 1, Memcached: "unix:" + dir + "/memcached", GRPC: "unix:" + dir + "/grpc", Admin: "unix:" + dir + "/admin", SocketMode: text,
		})
		for _, name := range []string{"memcached", "grpc", "admin"} {
			info, err := os.Lstat(dir + "/" + name)
			if err != nil {
				t.Fatal(err)
			}
			if got := info.Mode(); got != os.ModeSocket|want {
				t.Errorf("with SocketMode %q the %s socket has mode %v, want %v", text, name, got, want)
			}
		}
		dial(t, s.addr("memcached")).want("get a\r\n", "END\r\n")
		s.stop(t)
	}
	for _, text := range []string{"0400", "0066", "1777", "04660", "0680", "660 ", "-600", "0o660", "rw-rw----", "0"} {
		err := sidecar.Config{Embedded: 1, SocketMode: text}.Validate()
		if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("SocketMode is %q", text)) {
			t.Errorf("SocketMode %q: %v, want an error that names it", text, err)
		}
	}
}

// TestBusySocket: a listener that can not take one more connection at the
// moment is not one that is dead.
func TestBusySocket(t *testing.T) {
	t.Parallel()
	path := shortDir(t) + "/busy"
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	if err := syscall.Bind(fd, &syscall.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	for range 10 { // fill the queue: nobody accepts
		nc, err := net.Dial("unix", path)
		if err != nil {
			break
		}
		defer nc.Close()
	}
	_, err = sidecar.Start(sidecar.Config{Embedded: 1, Memcached: "unix:" + path, GRPC: sidecar.Off, Admin: sidecar.Off})
	if err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("Start on a busy socket = %v, want an error that it is in use", err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("the socket of somebody else is gone: %v", err)
	}
}
