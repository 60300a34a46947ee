package main

import (
	"archive/zip"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// A module of its own inside of the folder is not packed.
func TestPack(t *testing.T) {
	folder, proxy := t.TempDir(), t.TempDir()
	for name, text := range map[string]string{
		"go.mod": "module example.com/m\n", "m.go": "package m\n", "sub/go.mod": "module example.com/m/sub\n", "sub/sub.go": "package sub\n",
	} {
		path := filepath.Join(folder, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	if err := pack(proxy, "v1.2.3", folder); err != nil {
		t.Fatal(err)
	}
	files := filepath.Join(proxy, "example.com/m/@v")
	packed, err := zip.OpenReader(filepath.Join(files, "v1.2.3.zip"))
	if err != nil {
		t.Fatal(err)
	}
	defer packed.Close()
	var names []string
	for _, file := range packed.File {
		names = append(names, file.Name)
	}
	slices.Sort(names)
	if want := []string{"example.com/m@v1.2.3/go.mod", "example.com/m@v1.2.3/m.go"}; !slices.Equal(names, want) {
		t.Errorf("got %q, want %q", names, want)
	}
	for name, want := range map[string]string{"v1.2.3.mod": "module example.com/m\n", "list": "v1.2.3\n"} {
		if got, err := os.ReadFile(filepath.Join(files, name)); err != nil || string(got) != want {
			t.Errorf("%s: got %q, %v", name, got, err)
		}
	}
	if err := pack(proxy, "1.2", folder); err == nil {
		t.Error("1.2 is no version")
	}
}
