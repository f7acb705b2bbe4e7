// Package build makes the programs of the test cluster from Go modules, once for each state of their sources. No
// container registry and no release page is asked.
package build

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Where the sources are and the binaries go.
type Where struct {
	// Source is tests/cluster of the repository.
	Source string
	// Binaries is a folder in the user's cache, shared by all clusters and checkouts.
	Binaries string
}

// target is one program: the module whose go.mod says its version, and its package.
type target struct {
	module, path string
	test         bool
	// version is the module whose version the program says is its own, as Kubernetes' build scripts see to.
	version string
	// links are further names that the program is called by.
	links []string
}

var targets = map[string]target{
	"components": {module: "components", path: ".", version: "k8s.io/kubernetes", links: []string{
		"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet", "kubectl",
	}},
	"pause":            {module: "driver", path: "./pause"},
	"backend":          {module: "driver", path: "./smoke/backend"},
	"coredns":          {module: "tools", path: "github.com/coredns/coredns"},
	"helm":             {module: "tools", path: "helm.sh/helm/v4/cmd/helm"},
	"echo-basic":       {module: "conformance", path: "sigs.k8s.io/gateway-api/conformance/echo-basic"},
	"conformance.test": {module: "conformance", path: "sigs.k8s.io/gateway-api/conformance", test: true},
}

// Names are all programs that can be built.
func Names() []string { return slices.Sorted(maps.Keys(targets)) }

// Known is whether a program, or a link to one, is built here; it answers the program.
func Known(name string) (string, bool) {
	for program, target := range targets {
		if program == name || slices.Contains(target.links, name) {
			return program, true
		}
	}
	return "", false
}

// Ensure builds those of the named programs that are missing or whose sources have changed.
func Ensure(where Where, progress io.Writer, names ...string) error {
	if err := os.MkdirAll(where.Binaries, 0o755); err != nil {
		return err
	}
	// Two clusters that start together build once.
	lock, err := os.OpenFile(filepath.Join(where.Binaries, ".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return err
	}
	for _, name := range names {
		target, known := targets[name]
		if !known {
			return fmt.Errorf("there is no program %q to build; choose from %s", name, strings.Join(Names(), ", "))
		}
		if err := ensure(where, progress, name, target); err != nil {
			return fmt.Errorf("build %s: %w", name, err)
		}
	}
	return nil
}

func ensure(where Where, progress io.Writer, name string, target target) error {
	binary := filepath.Join(where.Binaries, name)
	mark := filepath.Join(where.Binaries, "."+name+".sources")
	module := filepath.Join(where.Source, target.module)
	want, err := fingerprint(module, target)
	if err != nil {
		return err
	}
	_, missing := os.Stat(binary)
	if have, err := os.ReadFile(mark); err == nil && string(have) == want && missing == nil {
		return nil
	}
	flags, err := linkFlags(module, target)
	if err != nil {
		return err
	}
	begin := time.Now()
	fmt.Fprintf(progress, "building %s (the first time takes minutes)\n", name)
	arguments := []string{"build"}
	if target.test {
		arguments = []string{"test", "-c"}
	}
	// Written beside and renamed: a running cluster keeps the binary it was started from.
	arguments = append(arguments, "-trimpath", "-ldflags", flags, "-o", binary+".new", target.path)
	command := goCommand(module, arguments...)
	command.Stdout, command.Stderr = progress, progress
	if err := command.Run(); err != nil {
		return fmt.Errorf("go %s in %s: %w", strings.Join(arguments, " "), module, err)
	}
	if err := os.Rename(binary+".new", binary); err != nil {
		return err
	}
	for _, link := range target.links {
		path := filepath.Join(where.Binaries, link)
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if err := os.Symlink(name, path); err != nil {
			return err
		}
	}
	fmt.Fprintf(progress, "built %s in %.1f s\n", name, time.Since(begin).Seconds())
	return os.WriteFile(mark, []byte(want), 0o644)
}

// linkFlags leave out what only debuggers read, and tell Kubernetes its version: helm and kubectl ask for it.
func linkFlags(module string, target target) (string, error) {
	flags := "-s -w"
	if target.version == "" {
		return flags, nil
	}
	output, err := goCommand(module, "list", "-m", "-f", "{{.Version}}", target.version).Output()
	if err != nil {
		return "", fmt.Errorf("version of %s: %w", target.version, explain(err))
	}
	version := strings.TrimSpace(string(output))
	major, rest, _ := strings.Cut(strings.TrimPrefix(version, "v"), ".")
	minor, _, _ := strings.Cut(rest, ".")
	for _, setting := range []string{"gitVersion=" + version, "gitMajor=" + major, "gitMinor=" + minor, "gitTreeState=clean"} {
		flags += " -X k8s.io/component-base/version." + setting
	}
	return flags, nil
}

// fingerprint covers what decides the binary: the module's own files, which pin all others by their sums, and the toolchain.
func fingerprint(module string, target target) (string, error) {
	version, err := goCommand(module, "env", "GOVERSION", "GOARCH").Output()
	if err != nil {
		return "", fmt.Errorf("ask go for its version (install Go, as new as go.mod in %s says): %w", module, explain(err))
	}
	hash := sha256.New()
	fmt.Fprintf(hash, "%s%s %v %s\n", version, target.path, target.test, target.version)
	files := []string{"go.mod", "go.sum"}
	sources, err := filepath.Glob(filepath.Join(module, target.path, "*.go"))
	if err != nil {
		return "", err
	}
	for _, source := range sources {
		relative, err := filepath.Rel(module, source)
		if err != nil {
			return "", err
		}
		files = append(files, relative)
	}
	for _, file := range files {
		content, err := os.ReadFile(filepath.Join(module, file))
		if err != nil {
			return "", err
		}
		fmt.Fprintf(hash, "%s %d\n", file, len(content))
		hash.Write(content)
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}

// ModuleFolder is where a dependency of one of the modules lies unpacked; it is fetched when it does not yet.
func ModuleFolder(where Where, module, dependency string) (string, error) {
	output, err := goCommand(filepath.Join(where.Source, module), "list", "-m", "-json", dependency).Output()
	if err != nil {
		return "", fmt.Errorf("find module %s: %w", dependency, explain(err))
	}
	var found struct {
		Path, Version, Dir string
		Replace            *struct{ Path, Version, Dir string }
	}
	if err := json.Unmarshal(output, &found); err != nil {
		return "", err
	}
	if found.Dir != "" {
		return found.Dir, nil
	}
	output, err = goCommand(filepath.Join(where.Source, module), "mod", "download", "-json", dependency).Output()
	if err != nil {
		return "", fmt.Errorf("fetch module %s: %w", dependency, explain(err))
	}
	if err := json.Unmarshal(output, &found); err != nil {
		return "", err
	}
	return found.Dir, nil
}

func goCommand(folder string, arguments ...string) *exec.Cmd {
	command := exec.Command("go", arguments...)
	command.Dir = folder
	// Static, so that a binary is the whole of an image's layer.
	command.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	return command
}

// explain adds what the command said to an error that only has its exit code.
func explain(err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) && len(exit.Stderr) > 0 {
		return fmt.Errorf("%w: %s", err, bytes.TrimSpace(exit.Stderr))
	}
	return err
}
