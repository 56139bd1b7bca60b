//go:build unix

package sidecar

import (
	"errors"
	"syscall"
)

func isTooManyFiles(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}

func isRefused(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }
