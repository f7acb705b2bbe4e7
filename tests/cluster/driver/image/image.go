// Package image makes a container image of one layer from a list of files, with no container engine.
package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// Spec is what an image holds and how it is run.
type Spec struct {
	// Files are "SOURCE[:PLACE]": a file, or a folder with all below it. Without a place it goes to the image's root under
	// its own name.
	Files []string
	// Entrypoint is by default the first of the files.
	Entrypoint []string
	Arguments  []string
	Env        []string
	// User is by default 65532, whom distroless images call nonroot.
	User string
}

const nonroot = "65532"

// Build makes the image. Programs that are linked dynamically bring their shared libraries along, and with those what
// the C library looks up at run time.
func Build(spec Spec) (v1.Image, error) {
	if len(spec.Files) == 0 {
		return nil, fmt.Errorf("an image needs at least one file")
	}
	contents := tree{}
	contents.add("/tmp", entry{mode: 0o1777, folder: true})
	contents.add("/etc/passwd", entry{mode: 0o644, content: []byte("root:x:0:0:root:/root:/sbin/nologin\n" +
		"nonroot:x:" + nonroot + ":" + nonroot + ":nonroot:/:/sbin/nologin\n")})
	contents.add("/etc/group", entry{mode: 0o644, content: []byte("root:x:0:\nnonroot:x:" + nonroot + ":\n")})
	first := ""
	for _, file := range spec.Files {
		source, place, named := strings.Cut(file, ":")
		if !named {
			place = "/" + filepath.Base(source)
		}
		if first == "" {
			first = path.Join("/", place)
		}
		if err := contents.copy(source, path.Join("/", place)); err != nil {
			return nil, err
		}
	}
	if err := contents.addLibraries(); err != nil {
		return nil, err
	}
	archive, err := contents.archive()
	if err != nil {
		return nil, err
	}
	opener := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(archive)), nil }
	// It is imported on the machine it is made on: packing it would only take time.
	layer, err := tarball.LayerFromOpener(opener, tarball.WithCompressionLevel(gzip.NoCompression))
	if err != nil {
		return nil, err
	}
	image, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return nil, err
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", runtime.GOARCH
	config.Config = v1.Config{Entrypoint: spec.Entrypoint, Cmd: spec.Arguments, Env: spec.Env, User: spec.User, WorkingDir: "/"}
	if len(spec.Entrypoint) == 0 {
		config.Config.Entrypoint = []string{first}
	}
	if spec.User == "" {
		config.Config.User = nonroot
	}
	return mutate.ConfigFile(image, config)
}

// Save writes an archive that `ctr images import`, `docker load` and `podman load` take.
func Save(file, reference string, image v1.Image) error {
	tag, err := name.NewTag(reference)
	if err != nil {
		return fmt.Errorf("image name %q: %w", reference, err)
	}
	return tarball.WriteToFile(file, tag, image)
}

type entry struct {
	mode    fs.FileMode
	folder  bool
	content []byte
}

// tree is what goes into the layer, by absolute path.
type tree map[string]entry

func (t tree) add(place string, e entry) {
	for parent := path.Dir(place); parent != "/"; parent = path.Dir(parent) {
		if _, there := t[parent]; !there {
			t[parent] = entry{mode: 0o755, folder: true}
		}
	}
	t[place] = e
}

// copy follows links, so that the image needs nothing that lies outside the list.
func (t tree) copy(source, place string) error {
	info, err := os.Stat(source)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		content, err := os.ReadFile(source)
		if err != nil {
			return err
		}
		mode := fs.FileMode(0o644)
		if info.Mode()&0o111 != 0 {
			mode = 0o755
		}
		t.add(place, entry{mode: mode, content: content})
		return nil
	}
	children, err := os.ReadDir(source)
	if err != nil {
		return err
	}
	if place != "/" {
		t.add(place, entry{mode: 0o755, folder: true})
	}
	for _, child := range children {
		if err := t.copy(filepath.Join(source, child.Name()), path.Join(place, child.Name())); err != nil {
			return err
		}
	}
	return nil
}

// archive is the same bytes for the same files: no times, no owners, in order of the paths.
func (t tree) archive() ([]byte, error) {
	var buffer bytes.Buffer
	writer := tar.NewWriter(&buffer)
	for _, place := range slices.Sorted(maps.Keys(t)) {
		e := t[place]
		header := &tar.Header{Name: strings.TrimPrefix(place, "/"), Mode: int64(e.mode), Typeflag: tar.TypeReg, Size: int64(len(e.content))}
		if e.folder {
			header.Typeflag, header.Name = tar.TypeDir, header.Name+"/"
		}
		if err := writer.WriteHeader(header); err != nil {
			return nil, err
		}
		if _, err := writer.Write(e.content); err != nil {
			return nil, err
		}
	}
	if err := writer.Close(); err != nil {
		return nil, err
	}
	return buffer.Bytes(), nil
}
