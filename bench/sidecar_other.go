//go:build !linux

package bench

import (
	"errors"
	"time"
)

// The scenario looks at other processes in /proc and waits with epoll.
var errLinux = errors.New("the sidecar is measured on Linux only")

func (r *wireRun) run() error { return errLinux }

func dialRaw(string, int) (int, error) { return 0, errLinux }

func readRaw(int, []byte) (int, error) { return 0, errLinux }

func writeRaw(int, []byte) error { return errLinux }

func startSidecar(_, _ []string) (*proxy, error) { return nil, errLinux }

func startNutcracker([]string) (*proxy, error) { return nil, errLinux }

func notInstalled(error) bool { return false }

func processCPU(int) (time.Duration, error) { return 0, errLinux }

func processMemory(int) (int64, error) { return 0, errLinux }

func needFiles(int) error { return errLinux }

func openIdle(string, int) ([]int, func(), error) { return nil, nil, errLinux }
