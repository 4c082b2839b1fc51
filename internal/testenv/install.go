package testenv

import (
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
)

//go:embed install.sh
var installScript string

var installing sync.Mutex

// program finds a server's binary, and installs the Debian package that holds it
// when it is nowhere.
func program(name, pkg string) (string, error) {
	installing.Lock()
	defer installing.Unlock()
	if path := look(name); path != "" {
		return path, nil
	}
	cmd := exec.Command("sh", "-s", "--", pkg)
	cmd.Stdin = strings.NewReader(installScript)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%s is missing and %s cannot be installed: %w\n%s", name, pkg, err, out)
	}
	if path := look(name); path != "" {
		return path, nil
	}
	return "", fmt.Errorf("package %s is installed, but there is no %s", pkg, name)
}

// look also searches the administrators' directories, where Debian keeps servers.
func look(name string) string {
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	for _, dir := range []string{"/usr/sbin", "/usr/local/sbin", "/sbin"} {
		path := filepath.Join(dir, name)
		if st, err := os.Stat(path); err == nil && st.Mode()&0o111 != 0 {
			return path
		}
	}
	return ""
}
