package image

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// addLibraries adds for programs that are linked dynamically what a distroless image has for them: the libraries that
// ldd names, those that glibc opens by name to resolve hosts and users, and the certificates of public authorities.
func (t tree) addLibraries() error {
	dynamic := false
	for _, place := range slices.Sorted(maps.Keys(t)) {
		if !isDynamic(t[place].content) {
			continue
		}
		dynamic = true
		libraries, err := librariesOf(t[place].content)
		if err != nil {
			return fmt.Errorf("shared libraries of %s: %w", place, err)
		}
		for _, library := range libraries {
			if err := t.copy(library, library); err != nil {
				return err
			}
		}
	}
	if !dynamic {
		return nil
	}
	t.add("/etc/nsswitch.conf", entry{mode: 0o644, content: []byte("passwd: files\ngroup: files\nhosts: files dns\n")})
	for _, place := range slices.Sorted(maps.Keys(t)) {
		if filepath.Base(place) != "libc.so.6" {
			continue
		}
		// Part of libc itself since glibc 2.34.
		for _, service := range []string{"libnss_files.so.2", "libnss_dns.so.2", "libresolv.so.2"} {
			library := filepath.Join(filepath.Dir(place), service)
			if err := t.copy(library, library); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
	}
	const authorities = "/etc/ssl/certs/ca-certificates.crt"
	if err := t.copy(authorities, authorities); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func isDynamic(content []byte) bool {
	file, err := elf.NewFile(bytes.NewReader(content))
	if err != nil {
		return false
	}
	for _, program := range file.Progs {
		if program.Type == elf.PT_INTERP {
			return true
		}
	}
	return false
}

// librariesOf asks ldd. Its lines are "libm.so.6 => /lib/…/libm.so.6 (0x…)", "/lib64/ld-linux-x86-64.so.2 (0x…)" and, for what
// the kernel brings, "linux-vdso.so.1 (0x…)".
func librariesOf(content []byte) ([]string, error) {
	// The program may have come from a folder's copy; ldd wants a file.
	file, err := os.CreateTemp("", "sluice-image-*")
	if err != nil {
		return nil, err
	}
	defer os.Remove(file.Name())
	_, err = file.Write(content)
	if err = errors.Join(err, file.Chmod(0o700), file.Close()); err != nil {
		return nil, err
	}
	output, err := exec.Command("ldd", file.Name()).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("ldd: %w: %s", err, output)
	}
	var found []string
	for line := range strings.Lines(string(output)) {
		name, target, arrow := strings.Cut(strings.TrimSpace(line), " => ")
		if strings.Contains(target, "not found") {
			return nil, fmt.Errorf("%s is not on this machine", name)
		}
		if !arrow {
			target = name
		}
		if fields := strings.Fields(target); len(fields) > 0 && filepath.IsAbs(fields[0]) {
			found = append(found, fields[0])
		}
	}
	return found, nil
}
