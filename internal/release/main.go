// Command release packs modules into a folder that the go command can take for a module proxy, as proxy.golang.org does once a
// commit has its tag. The arguments are that folder, the version, and the folders of the modules. See .ci/release.
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
	"golang.org/x/mod/zip"
)

func main() {
	if len(os.Args) < 4 {
		fmt.Fprintln(os.Stderr, "usage: release PROXY VERSION MODULE…")
		os.Exit(2)
	}
	for _, folder := range os.Args[3:] {
		if err := pack(os.Args[1], os.Args[2], folder); err != nil {
			fmt.Fprintf(os.Stderr, "release: %s: %v\n", folder, err)
			os.Exit(1)
		}
	}
}

// pack writes the four files of a version that the go command asks a proxy for.
func pack(proxy, version, folder string) error {
	goMod, err := os.ReadFile(filepath.Join(folder, "go.mod"))
	if err != nil {
		return err
	}
	m := module.Version{Path: modfile.ModulePath(goMod), Version: version}
	escaped, err := module.EscapePath(m.Path)
	if err != nil {
		return err
	}
	files := filepath.Join(proxy, filepath.FromSlash(escaped), "@v")
	if err := os.MkdirAll(files, 0o777); err != nil {
		return err
	}
	packed, err := os.Create(filepath.Join(files, version+".zip"))
	if err != nil {
		return err
	}
	if err := errors.Join(zip.CreateFromDir(packed, m, folder), packed.Close()); err != nil {
		return err
	}
	info := fmt.Appendf(nil, `{"Version":%q,"Time":%q}`, version, time.Now().UTC().Format(time.RFC3339))
	return errors.Join(
		os.WriteFile(filepath.Join(files, version+".info"), info, 0o666),
		os.WriteFile(filepath.Join(files, version+".mod"), goMod, 0o666),
		os.WriteFile(filepath.Join(files, "list"), []byte(version+"\n"), 0o666))
}
