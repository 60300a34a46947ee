//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd || windows)

package grants

import (
	"errors"
	"fmt"
	"os"
	"runtime"
)

func lockFile(string) (*os.File, error) {
	return nil, fmt.Errorf("it cannot be locked on %s: %w", runtime.GOOS, errors.ErrUnsupported)
}
