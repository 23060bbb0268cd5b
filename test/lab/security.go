//go:build linux

package lab

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// runtimeDefault is what container runtimes leave to a container that drops nothing (containerd, oci/spec_opts).
var runtimeDefault = map[corev1.Capability]int{
	"CHOWN": unix.CAP_CHOWN, "DAC_OVERRIDE": unix.CAP_DAC_OVERRIDE, "FOWNER": unix.CAP_FOWNER, "FSETID": unix.CAP_FSETID, "KILL": unix.CAP_KILL,
	"SETGID": unix.CAP_SETGID, "SETUID": unix.CAP_SETUID, "SETPCAP": unix.CAP_SETPCAP, "NET_BIND_SERVICE": unix.CAP_NET_BIND_SERVICE,
	"NET_RAW": unix.CAP_NET_RAW, "SYS_CHROOT": unix.CAP_SYS_CHROOT, "MKNOD": unix.CAP_MKNOD, "AUDIT_WRITE": unix.CAP_AUDIT_WRITE, "SETFCAP": unix.CAP_SETFCAP,
}

// capabilities are what the container keeps: the runtime's default, less what is dropped, with what is added.
func capabilities(s *corev1.SecurityContext) ([]int, error) {
	known := map[corev1.Capability]int{"NET_ADMIN": unix.CAP_NET_ADMIN}
	kept := map[corev1.Capability]int{}
	for name, number := range runtimeDefault {
		known[name], kept[name] = number, number
	}
	if s != nil && s.Capabilities != nil {
		for _, name := range s.Capabilities.Drop {
			if name == "ALL" {
				clear(kept)
			}
			delete(kept, name)
		}
		for _, name := range s.Capabilities.Add {
			number, ok := known[name]
			if !ok {
				return nil, fmt.Errorf("the lab does not know the capability %q", name)
			}
			kept[name] = number
		}
	}
	var numbers []int
	for _, number := range kept {
		numbers = append(numbers, number)
	}
	slices.Sort(numbers)
	return numbers, nil
}

// environment is the container's, with the field references that the kubelet resolves.
func (p *Pod) environment(c corev1.Container) ([]string, error) {
	env := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOSTNAME=" + p.Name}
	for _, e := range c.Env {
		value := e.Value
		if from := e.ValueFrom; from != nil {
			var err error
			switch {
			case from.FieldRef != nil:
				value, err = p.field(from.FieldRef.FieldPath)
			case from.ResourceFieldRef != nil:
				value, err = resourceField(c, from.ResourceFieldRef)
			default:
				err = fmt.Errorf("the lab knows only field references")
			}
			if err != nil {
				return nil, fmt.Errorf("env %s: %w", e.Name, err)
			}
		}
		env = append(env, e.Name+"="+expand(value, env))
	}
	return env, nil
}

// reference is how a value or an argument names a variable.
var reference = regexp.MustCompile(`\$\(([A-Za-z_][A-Za-z0-9_]*)\)`)

// expand puts the values of variables in place of references to them, as the kubelet does; one to none stays as it is.
func expand(text string, env []string) string {
	return reference.ReplaceAllStringFunc(text, func(named string) string {
		for i := len(env) - 1; i >= 0; i-- {
			if value, ok := strings.CutPrefix(env[i], named[2:len(named)-1]+"="); ok {
				return value
			}
		}
		return named
	})
}

// field is a downward API field of the pod.
func (p *Pod) field(path string) (string, error) {
	switch path {
	case "metadata.name":
		return p.Name, nil
	case "metadata.namespace":
		return p.Namespace, nil
	case "status.podIP":
		return p.IP4.String(), nil
	case "status.podIPs":
		return p.IP4.String() + "," + p.IP6.String(), nil
	}
	if key, ok := strings.CutPrefix(path, "metadata.annotations['"); ok {
		return p.annotations[strings.TrimSuffix(key, "']")], nil
	}
	return "", fmt.Errorf("the lab does not know the field %q", path)
}

// resourceField is a limit or request of the container, in the unit of the divisor, rounded up as the kubelet does.
func resourceField(c corev1.Container, ref *corev1.ResourceFieldSelector) (string, error) {
	list, name, _ := strings.Cut(ref.Resource, ".")
	quantity, ok := map[string]corev1.ResourceList{"limits": c.Resources.Limits, "requests": c.Resources.Requests}[list][corev1.ResourceName(name)]
	if !ok {
		return "", fmt.Errorf("container %s sets no %s", c.Name, ref.Resource)
	}
	divisor := int64(1)
	if !ref.Divisor.IsZero() {
		divisor = ref.Divisor.Value()
	}
	return strconv.FormatInt((quantity.Value()+divisor-1)/divisor, 10), nil
}
