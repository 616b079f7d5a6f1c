//go:build linux

package e2e

import (
	"os/exec"
	"path/filepath"
	"testing"
)

// TestCluster kills a node, and the only NATS server, while clients listen and others publish. The other faults of ./cluster take
// longer.
func TestCluster(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "cluster")
	if out, err := exec.Command("go", "build", "-o", binary, "./cluster").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	out, err := exec.Command(binary, "-faults", "node killed,NATS killed,leader killed").CombinedOutput()
	t.Logf("\n%s", out)
	if err != nil {
		t.Fatal(err)
	}
}
