//go:build linux

package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"sigs.k8s.io/yaml"

	"github.com/foyerws/foyer"
	"github.com/foyerws/foyer/rooms"
)

// TestCluster kills a node, and the only NATS server, while clients listen and others publish. The other faults of ./cluster take
// longer.
func TestCluster(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
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

// TestManifests reads the manifests of docs/cluster.md as Kubernetes would: each field must exist.
func TestManifests(t *testing.T) {
	text, err := os.ReadFile("../docs/cluster.md")
	if err != nil {
		t.Fatal(err)
	}
	_, manifests, _ := strings.Cut(string(text), "```yaml\n")
	manifests, _, _ = strings.Cut(manifests, "```")
	var deployment appsv1.Deployment
	var service corev1.Service
	for _, manifest := range strings.Split(manifests, "---\n") {
		var kind struct{ Kind string }
		if err := yaml.Unmarshal([]byte(manifest), &kind); err != nil {
			t.Fatal(err)
		}
		object, ok := map[string]any{"Deployment": &deployment, "Service": &service, "PodDisruptionBudget": new(policyv1.PodDisruptionBudget)}[kind.Kind]
		if !ok {
			t.Fatal(kind.Kind)
		}
		if err := yaml.UnmarshalStrict([]byte(manifest), object); err != nil {
			t.Error(err)
		}
	}
	pod := deployment.Spec.Template
	if !maps.Equal(pod.Labels, service.Spec.Selector) || !maps.Equal(pod.Labels, deployment.Spec.Selector.MatchLabels) {
		t.Error("the labels differ")
	}
	c := pod.Spec.Containers[0]
	if name := c.Ports[0].Name; service.Spec.Ports[0].TargetPort.StrVal != name || c.ReadinessProbe.HTTPGet.Port.StrVal != name || c.ReadinessProbe.HTTPGet.Path != "/ready" {
		t.Error("the ports differ")
	}
}

// TestClusterBehindHAProxy has two nodes of the chat behind HAProxy, which sends each client to any of them.
func TestClusterBehindHAProxy(t *testing.T) {
	haproxy := sbin(t, "haproxy")
	chat := startExample(t, "chat", "-addr", "127.0.0.1:0", "-nodes", "2")
	var nodes []string
	for range 2 {
		_, addr, _ := strings.Cut(chat.wait(t, "listening on "), "http://")
		nodes = append(nodes, addr)
	}
	port := freePort(t)
	config := documented(t, "haproxy", 0, "bind :443", "bind 127.0.0.1:"+port, "/etc/ssl/both.pem", bothIn(t), "127.0.0.1:8080", nodes[0], "127.0.0.1:8081", nodes[1])
	run(t, port, config, func(file string) *exec.Cmd { return exec.Command(haproxy, "-db", "-f", file) })
	const clients = 6
	var all []*foyer.Socket
	for i := range clients {
		s, _, err := foyer.Dial(t.Context(), fmt.Sprintf("wss://127.0.0.1:%s/rooms/lobby/socket?name=user%d", port, i), &foyer.DialOptions{TLSConfig: insecure})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Abort()
		all = append(all, s)
	}
	for addr, want := range map[string]int{nodes[0]: clients, nodes[1]: clients} {
		var present []rooms.Presence
		for end := time.Now().Add(10 * time.Second); len(present) != want; time.Sleep(20 * time.Millisecond) {
			resp, err := http.Get("http://" + addr + "/rooms/lobby/members")
			if err != nil || time.Now().After(end) {
				t.Fatal(present, err)
			}
			json.NewDecoder(resp.Body).Decode(&present)
			resp.Body.Close()
		}
	}
	for i, s := range all {
		if err := s.SendText(t.Context(), fmt.Sprintf(`{"text":"from %d"}`, i)); err != nil {
			t.Fatal(err)
		}
	}
	var order []string
	for i, s := range all {
		var heard []string
		for len(heard) < clients {
			var e struct{ Type, Position string }
			if err := foyer.ReadJSON(t.Context(), s, &e); err != nil {
				t.Fatal(err)
			}
			if e.Type == "message" {
				heard = append(heard, e.Position)
			}
		}
		if i == 0 {
			order = heard
		} else if !slices.Equal(heard, order) {
			t.Errorf("%q, and another client has %q", heard, order)
		}
	}
}
