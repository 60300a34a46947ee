package grants

import (
	"errors"
	"os"
	"syscall"
)

// lockFile opens the file at path so that nobody else can open it until it is closed or the process ends, or returns
// errInUse.
func lockFile(path string) (*os.File, error) {
	const (
		noSharing    = 0
		errorSharing = syscall.Errno(32) // ERROR_SHARING_VIOLATION
	)
	name, err := syscall.UTF16PtrFromString(path)
	if err != nil {
		return nil, err
	}
	handle, err := syscall.CreateFile(name, syscall.GENERIC_READ|syscall.GENERIC_WRITE, noSharing, nil,
		syscall.OPEN_ALWAYS, syscall.FILE_ATTRIBUTE_NORMAL, 0)
	switch {
	case errors.Is(err, errorSharing):
		return nil, errInUse
	case err != nil:
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(handle), path), nil
}
