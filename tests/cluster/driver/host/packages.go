package host

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
)

// CNIFolder is where Debian puts the CNI plugins.
const CNIFolder = "/usr/lib/cni"

// needs are the programs that come with the distribution, by what shows that they are there.
var needs = []struct{ path, debian string }{
	{"containerd", "containerd"},
	{"ctr", "containerd"},
	{"runc", "runc"},
	{CNIFolder + "/ptp", "containernetworking-plugins"},
	{CNIFolder + "/portmap", "containernetworking-plugins"},
	{"iptables", "iptables"},
	{"nft", "nftables"},
	{"conntrack", "conntrack"},
	{"ip", "iproute2"},
	{"ldd", "libc-bin"},
}

// Fit says what no package can put right. That this is Linux the compiler has seen to.
func Fit() error {
	if os.Geteuid() != 0 {
		return errors.New("the test cluster makes namespaces, mounts and control groups; run it as root, for example with `sudo -E`")
	}
	// What is needed is partly in sbin, which not every root has in its path.
	return os.Setenv("PATH", os.Getenv("PATH")+":/usr/local/sbin:/usr/sbin:/sbin")
}

// Prepare installs the packages that are missing.
func Prepare(progress io.Writer) error {
	missing := missingPackages()
	if len(missing) == 0 {
		return nil
	}
	names := strings.Join(missing, " ")
	if _, err := exec.LookPath("apt-get"); err != nil {
		return fmt.Errorf("missing, in Debian's names: %s; install them with this system's package manager (the CNI plugins in %s)", names, CNIFolder)
	}
	fmt.Fprintln(progress, "installing", names)
	for _, arguments := range [][]string{
		{"update", "-qq"},
		append([]string{"install", "-y", "-qq", "--no-install-recommends"}, missing...),
	} {
		command := exec.Command("apt-get", arguments...)
		command.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if output, err := command.CombinedOutput(); err != nil {
			return fmt.Errorf("apt-get %s: %w: %s", strings.Join(arguments, " "), err, output)
		}
	}
	if still := missingPackages(); len(still) > 0 {
		return fmt.Errorf("apt-get has installed %s, and their programs are still not found", strings.Join(still, " "))
	}
	return nil
}

func missingPackages() []string {
	var missing []string
	seen := map[string]bool{}
	for _, need := range needs {
		if _, err := exec.LookPath(need.path); err != nil && !seen[need.debian] {
			seen[need.debian] = true
			missing = append(missing, need.debian)
		}
	}
	return missing
}
