//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
)

// inside says that this process has a network namespace of its own.
const inside = "FOYER_CLUSTER_INSIDE"

// runInside runs this program again in a network namespace of its own, in which there is nothing but what it makes.
func runInside() error {
	if os.Geteuid() != 0 {
		return errors.New("network namespaces take root; without it, choose other faults with -faults")
	}
	runtime.LockOSThread() // when the thread ends, so does what it started
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self, os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGTERM}
	return cmd.Run()
}

// wires are network namespaces, one for each NATS server. Two cables lead to each: one from the nodes, which are here, and one
// from a switch, which all servers are on.
type wires struct{ names []string }

// layWires makes wires for some servers.
func layWires(servers int) (w *wires, err error) {
	w = new(wires)
	defer func() {
		if err != nil {
			w.remove()
		}
	}()
	commands := []string{"link set lo up", "link add switch type bridge", "link set switch up"}
	for i := range servers {
		name := fmt.Sprintf("foyer%dn%d", os.Getpid(), i)
		if err := ip("netns add " + name); err != nil {
			return w, err
		}
		w.names = append(w.names, name)
		commands = append(commands,
			fmt.Sprintf("link add client%d type veth peer name clients netns %s", i, name),
			fmt.Sprintf("link add route%d type veth peer name routes netns %s", i, name),
			fmt.Sprintf("addr add 10.98.%d.1/24 dev client%d", i, i),
			fmt.Sprintf("-n %s addr add %s/24 dev clients", name, clientHost(i)),
			fmt.Sprintf("-n %s addr add %s/24 dev routes", name, routeHost(i)),
			fmt.Sprintf("link set client%d up", i),
			fmt.Sprintf("link set route%d up master switch", i),
			"-n "+name+" link set lo up",
			"-n "+name+" link set clients up",
			"-n "+name+" link set routes up",
		)
	}
	for _, command := range commands {
		if err := ip(command); err != nil {
			return w, err
		}
	}
	return w, nil
}

func clientHost(server int) string { return fmt.Sprintf("10.98.%d.2", server) }
func routeHost(server int) string  { return fmt.Sprintf("10.99.0.%d", server+1) }

// within returns how a program is started where a server is.
func (w *wires) within(server int, name string, args []string) (string, []string) {
	return ipProgram(), append([]string{"netns", "exec", w.names[server], name}, args...)
}

// plug connects a server with the others, or unplugs it. What is sent then is lost, and nobody is told.
func (w *wires) plug(server int, on bool) error {
	if on {
		return ip(fmt.Sprintf("link set route%d master switch", server))
	}
	return ip(fmt.Sprintf("link set route%d nomaster", server))
}

// remove removes the namespaces, and the cables with them.
func (w *wires) remove() {
	for i, name := range w.names {
		ip(fmt.Sprintf("link del client%d", i)) // at once: with the namespace they would go a moment later
		ip(fmt.Sprintf("link del route%d", i))
		ip("netns del " + name)
	}
	ip("link del switch")
}

func ipProgram() string {
	for _, name := range []string{"/usr/sbin/ip", "/sbin/ip"} { // which the PATH of a user may not have
		if _, err := os.Stat(name); err == nil {
			return name
		}
	}
	return "ip"
}

func ip(command string) error {
	out, err := exec.Command(ipProgram(), strings.Fields(command)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ip %s: %w: %s", command, err, out)
	}
	return nil
}
