//go:build !unix

package nonblock

import (
	"errors"
	"net"
)

// A Socket on a system without Unix' calls is never a plain one.
type Socket struct{}

func (s *Socket) Init(net.Conn) {}

func (s *Socket) Plain() bool { return false }

func (s *Socket) Write([]byte) (int, error) { return 0, errors.ErrUnsupported }

func (s *Socket) Read([]byte) (int, error) { return 0, errors.ErrUnsupported }

func (s *Socket) Await([]byte) (int, error) { return 0, errors.ErrUnsupported }

func (s *Socket) Each(func() []byte, func(int) bool) error { return errors.ErrUnsupported }
