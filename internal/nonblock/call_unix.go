//go:build unix && (!linux || race || msan || asan)

package nonblock

func read(fd uintptr, b []byte) (int, error) { return readTold(fd, b) }

func write(fd uintptr, b []byte) (int, error) { return writeTold(fd, b) }
