package cluster

import (
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"sluice.dev/tests/cluster/driver/build"
	"sluice.dev/tests/cluster/driver/image"
)

const (
	pauseImage = "sluice.test/pause:1"
	dnsImage   = "sluice.test/coredns:1"
)

// LoadImage gives every running node an image under these names.
func (c *Cluster) LoadImage(made v1.Image, names ...string) error {
	for node := range c.Options.Nodes {
		if err := c.loadImage(node, made, names...); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cluster) loadImage(node int, made v1.Image, names ...string) error {
	folder, err := os.MkdirTemp(c.state, "image-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	for _, name := range names {
		archive := filepath.Join(folder, "image.tar")
		if err := image.Save(archive, name, made); err != nil {
			return err
		}
		if err := c.importArchive(node, archive); err != nil {
			return fmt.Errorf("image %s: %w", name, err)
		}
	}
	return nil
}

// LoadArchive gives every running node the images of an archive.
func (c *Cluster) LoadArchive(archive string) error {
	for node := range c.Options.Nodes {
		if err := c.importArchive(node, archive); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cluster) importArchive(node int, archive string) error {
	snapshotter, err := snapshotterFor(c.state)
	if err != nil {
		return err
	}
	command := exec.Command("ctr", "--address", c.nodeFile(node, "containerd.sock"), "--namespace", "k8s.io",
		"images", "import", "--snapshotter", snapshotter, archive)
	if output, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("import into %s: %w: %s", nodeName(node), err, output)
	}
	return nil
}

// LoadConformanceImages loads the backends of the Gateway API's conformance suite under the names and tags that its
// manifests give them, all built from the sources that are pinned here.
func (c *Cluster) LoadConformanceImages(out io.Writer) error {
	if err := c.mustBeUp(); err != nil {
		return err
	}
	if err := build.Ensure(c.Build, out, "echo-basic", "coredns"); err != nil {
		return err
	}
	suite, err := build.ModuleFolder(c.Build, "conformance", "sigs.k8s.io/gateway-api/conformance")
	if err != nil {
		return err
	}
	names, err := imagesNamedIn(suite)
	if err != nil {
		return err
	}
	for _, name := range names {
		repository, _, _ := strings.Cut(path.Base(name), ":")
		if _, known := build.Known(repository); !known {
			fmt.Fprintf(out, "left out, nothing here builds it: %s\n", name)
			continue
		}
		made, err := image.Build(image.Spec{Files: []string{c.binary(repository)}})
		if err != nil {
			return err
		}
		if err := c.LoadImage(made, name); err != nil {
			return err
		}
		fmt.Fprintln(out, "loaded", name)
	}
	return nil
}

var imageLine = regexp.MustCompile(`(?m)^\s*(?:- )?image:\s*"?([^\s"]+)`)

// imagesNamedIn finds the images of all manifests below a folder.
func imagesNamedIn(folder string) ([]string, error) {
	found := map[string]bool{}
	err := filepath.WalkDir(folder, func(file string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || filepath.Ext(file) != ".yaml" {
			return err
		}
		content, err := os.ReadFile(file)
		for _, match := range imageLine.FindAllSubmatch(content, -1) {
			found[string(match[1])] = true
		}
		return err
	})
	return slices.Sorted(maps.Keys(found)), err
}

// loadOwn loads what the cluster itself runs.
func (c *Cluster) loadOwn(node int) error {
	pause, err := image.Build(image.Spec{Files: []string{c.binary("pause")}})
	if err != nil {
		return err
	}
	if err := c.loadImage(node, pause, pauseImage); err != nil {
		return err
	}
	dns, err := image.Build(image.Spec{Files: []string{c.binary("coredns")}})
	if err != nil {
		return err
	}
	return c.loadImage(node, dns, dnsImage)
}
