package image

import (
	"archive/tar"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
)

func TestTheFirstFileIsTheEntrypointOfAnUnprivilegedUser(t *testing.T) {
	folder := t.TempDir()
	program := write(t, filepath.Join(folder, "program"), 0o700)
	write(t, filepath.Join(folder, "etc/sub/setting"), 0o600)
	image := build(t, Spec{Files: []string{program, filepath.Join(folder, "etc") + ":/etc/program"}, Arguments: []string{"run"}})
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(config.Config.Entrypoint, []string{"/program"}) || !slices.Equal(config.Config.Cmd, []string{"run"}) || config.Config.User != nonroot {
		t.Fatalf("%+v", config.Config)
	}
	modes := contents(t, image)
	for path, mode := range map[string]int64{"program": 0o755, "etc/program/sub/setting": 0o644, "tmp/": 0o1777} {
		if modes[path] != mode {
			t.Errorf("%s has mode %o instead of %o", path, modes[path], mode)
		}
	}
}

func TestTheSameFilesMakeTheSameImage(t *testing.T) {
	program := write(t, filepath.Join(t.TempDir(), "program"), 0o700)
	first, second := build(t, Spec{Files: []string{program}}), build(t, Spec{Files: []string{program}})
	one, err := first.Digest()
	two, err2 := second.Digest()
	if err != nil || err2 != nil || one != two {
		t.Fatalf("%v and %v, %v %v", one, two, err, err2)
	}
}

func TestAProgramOnTheCLibraryBringsItAlong(t *testing.T) {
	getent, err := exec.LookPath("getent")
	if err != nil {
		t.Fatal(err)
	}
	modes := contents(t, build(t, Spec{Files: []string{getent}}))
	var found []string
	for path := range modes {
		if strings.Contains(path, "ld-linux") || filepath.Base(path) == "libc.so.6" || path == "etc/nsswitch.conf" {
			found = append(found, path)
		}
	}
	if len(found) != 3 {
		t.Fatalf("of loader, libc and nsswitch.conf it has %v", found)
	}
}

func TestAMissingFileIsNamed(t *testing.T) {
	if _, err := Build(Spec{Files: []string{"/nowhere/program"}}); err == nil || !strings.Contains(err.Error(), "/nowhere/program") {
		t.Fatal(err)
	}
}

func build(t *testing.T, spec Spec) v1.Image {
	t.Helper()
	image, err := Build(spec)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// contents are the modes of all that is in the image.
func contents(t *testing.T, image v1.Image) map[string]int64 {
	t.Helper()
	archive := mutate.Extract(image)
	defer archive.Close()
	modes := map[string]int64{}
	for reader := tar.NewReader(archive); ; {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return modes
		}
		if err != nil {
			t.Fatal(err)
		}
		name := header.Name
		if header.Typeflag == tar.TypeDir {
			name = strings.TrimSuffix(name, "/") + "/"
		}
		modes[name] = header.Mode
	}
}

func write(t *testing.T, path string, mode os.FileMode) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("content"), mode); err != nil {
		t.Fatal(err)
	}
	return path
}
