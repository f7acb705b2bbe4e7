// Package loadbalancer is the cluster's cloud: it gives each Service of type LoadBalancer an address and routes that to
// the nodes, whose kube-proxies do the rest. It is part of the test harness, not of the product.
//
//	Services, EndpointSlices, Nodes -> who may have which address -> routes outside of the nodes, then the Service's status
package loadbalancer

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"maps"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// Balancer holds which routes there are; everything else is read anew at each change.
type Balancer struct {
	Client kubernetes.Interface
	// Ranges are where addresses come from, one of a family.
	Ranges []netip.Prefix
	// Route runs lines of iproute2 in the network outside of the nodes.
	Route  func(lines ...string) error
	routes map[netip.Addr]string
	// missed counts the checks in a row that a node has not answered.
	missed map[netip.Addr]int
}

// world is one consistent look at the cluster.
type world struct {
	services []*corev1.Service
	nodes    []*corev1.Node
	slices   []*discoveryv1.EndpointSlice
	lost     map[netip.Addr]bool
}

// How a cloud's balancer finds out about nodes: it asks their kube-proxies. What the API server says of a node's readiness does
// not count (KEP-3458), since that changes for all nodes when the API server was away.
const (
	healthPort   = 10256
	checkEvery   = time.Second
	checkTimeout = time.Second
	missesToLose = 3
)

// Run serves until the context ends.
func (b *Balancer) Run(ctx context.Context) error {
	factory := informers.NewSharedInformerFactory(b.Client, 0)
	services := factory.Core().V1().Services()
	nodes := factory.Core().V1().Nodes()
	endpoints := factory.Discovery().V1().EndpointSlices()
	changed := make(chan struct{}, 1)
	tell := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	for _, informer := range []cache.SharedIndexInformer{services.Informer(), nodes.Informer(), endpoints.Informer()} {
		_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    func(any) { tell() },
			UpdateFunc: func(_, _ any) { tell() },
			DeleteFunc: func(any) { tell() },
		})
		if err != nil {
			return err
		}
	}
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	checks := time.NewTicker(checkEvery)
	defer checks.Stop()
	b.missed = map[netip.Addr]int{}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-checks.C:
			known, err := nodes.Lister().List(labels.Everything())
			if err != nil {
				return err
			}
			if b.check(known) {
				tell()
			}
			continue
		case <-changed:
		}
		now := world{lost: b.lost()}
		var err error
		if now.services, err = services.Lister().List(labels.Everything()); err != nil {
			return err
		}
		if now.nodes, err = nodes.Lister().List(labels.Everything()); err != nil {
			return err
		}
		if now.slices, err = endpoints.Lister().List(labels.Everything()); err != nil {
			return err
		}
		if err := b.reconcile(ctx, now); err != nil {
			log.Print(err)
			time.AfterFunc(time.Second, tell)
		}
	}
}

// check asks each node once, and says whether another set of them answers than before.
func (b *Balancer) check(nodes []*corev1.Node) bool {
	before := b.lost()
	for _, node := range nodes {
		for _, address := range addressesOf(node) {
			connection, err := net.DialTimeout("tcp", netip.AddrPortFrom(address, healthPort).String(), checkTimeout)
			if err != nil {
				b.missed[address]++
				continue
			}
			connection.Close()
			delete(b.missed, address)
		}
	}
	return !maps.Equal(before, b.lost())
}

func (b *Balancer) lost() map[netip.Addr]bool {
	lost := map[netip.Addr]bool{}
	for address, misses := range b.missed {
		if misses >= missesToLose {
			lost[address] = true
		}
	}
	return lost
}

func (b *Balancer) reconcile(ctx context.Context, now world) error {
	given := assign(now.services, b.Ranges)
	wanted := map[netip.Addr]string{}
	var lines []string
	for _, service := range now.services {
		for _, address := range given[key(service)] {
			nodes := nodesFor(service, now)
			wanted[address] = route(address, nodes)
			if b.routes[address] != wanted[address] {
				lines = append(lines, "route replace "+wanted[address])
				lines = append(lines, SlotRoutes(prefix(address), nodesOfFamily(nodes, address))...)
				log.Print(wanted[address])
			}
		}
	}
	for address := range b.routes {
		if _, still := wanted[address]; !still {
			lines = append(lines, "route delete "+prefix(address))
			for slot := range Slots {
				lines = append(lines, fmt.Sprintf("route delete %s table %d", prefix(address), table(slot)))
			}
			log.Print("delete ", address)
		}
	}
	if len(lines) > 0 {
		if err := b.Route(lines...); err != nil {
			return err
		}
	}
	b.routes = wanted
	for _, service := range now.services {
		if err := b.writeStatus(ctx, service, given[key(service)]); err != nil {
			return fmt.Errorf("status of service %s: %w", key(service), err)
		}
	}
	return nil
}

func (b *Balancer) writeStatus(ctx context.Context, service *corev1.Service, addresses []netip.Addr) error {
	// A Service that was of this type and no longer is loses its status by the API server's own doing.
	if !ours(service) {
		return nil
	}
	mode := corev1.LoadBalancerIPModeVIP
	ingress := []corev1.LoadBalancerIngress{}
	for _, address := range addresses {
		ingress = append(ingress, corev1.LoadBalancerIngress{IP: address.String(), IPMode: &mode})
	}
	if reflect.DeepEqual(ingress, service.Status.LoadBalancer.Ingress) || len(ingress)+len(service.Status.LoadBalancer.Ingress) == 0 {
		return nil
	}
	patch, err := json.Marshal(map[string]any{"status": map[string]any{"loadBalancer": map[string]any{"ingress": ingress}}})
	if err != nil {
		return err
	}
	_, err = b.Client.CoreV1().Services(service.Namespace).
		Patch(ctx, service.Name, types.MergePatchType, patch, metav1.PatchOptions{}, "status")
	return err
}

// assign gives each Service an address of each of its families: the one it has, or the one it asks for, or the lowest that is
// free. The older Service comes first.
func assign(all []*corev1.Service, ranges []netip.Prefix) map[string][]netip.Addr {
	services := slices.DeleteFunc(slices.Clone(all), func(service *corev1.Service) bool { return !ours(service) })
	slices.SortFunc(services, func(a, b *corev1.Service) int {
		if order := a.CreationTimestamp.Compare(b.CreationTimestamp.Time); order != 0 {
			return order
		}
		return strings.Compare(key(a), key(b))
	})
	taken := map[netip.Addr]bool{}
	given := map[string][]netip.Addr{}
	waiting := map[string][]netip.Prefix{}
	for _, service := range services {
		for _, from := range ranges {
			if !slices.Contains(service.Spec.IPFamilies, family(from)) {
				continue
			}
			address, found := standing(service, from)
			switch {
			case found && !taken[address]:
				taken[address] = true
				given[key(service)] = append(given[key(service)], address)
			case !found:
				waiting[key(service)] = append(waiting[key(service)], from)
			}
		}
	}
	for _, service := range services {
		for _, from := range waiting[key(service)] {
			// The first address names the range itself.
			for address := from.Addr().Next(); from.Contains(address); address = address.Next() {
				if !taken[address] {
					taken[address] = true
					given[key(service)] = append(given[key(service)], address)
					break
				}
			}
		}
	}
	return given
}

// standing is the address that a Service asks for, or else has.
func standing(service *corev1.Service, from netip.Prefix) (netip.Addr, bool) {
	asked := []string{service.Spec.LoadBalancerIP}
	for _, ingress := range service.Status.LoadBalancer.Ingress {
		asked = append(asked, ingress.IP)
	}
	for _, text := range asked {
		if address, err := netip.ParseAddr(text); err == nil && from.Contains(address) {
			return address, true
		}
	}
	return netip.Addr{}, false
}

// nodesFor are the addresses of the nodes that a Service's traffic goes to: those that answer, and with
// externalTrafficPolicy Local those of them that have an endpoint, as a cloud learns from the health check's port.
func nodesFor(service *corev1.Service, now world) []netip.Addr {
	ready := map[string]bool{}
	leaving := map[string]bool{}
	for _, slice := range now.slices {
		if slice.Namespace != service.Namespace || slice.Labels[discoveryv1.LabelServiceName] != service.Name {
			continue
		}
		for _, endpoint := range slice.Endpoints {
			if endpoint.NodeName == nil {
				continue
			}
			if endpoint.Conditions.Ready == nil || *endpoint.Conditions.Ready {
				ready[*endpoint.NodeName] = true
			} else if endpoint.Conditions.Serving != nil && *endpoint.Conditions.Serving {
				leaving[*endpoint.NodeName] = true
			}
		}
	}
	if len(ready) == 0 { // kube-proxy falls back to these too
		ready = leaving
	}
	local := service.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
	var addresses []netip.Addr
	for _, node := range now.nodes {
		if local && !ready[node.Name] {
			continue
		}
		for _, address := range addressesOf(node) {
			if !now.lost[address] {
				addresses = append(addresses, address)
			}
		}
	}
	slices.SortFunc(addresses, netip.Addr.Compare)
	return addresses
}

// route is what iproute2 replaces for an address in the main table, where connections find the address to come from. Which
// node they go to is their slot's to say.
func route(address netip.Addr, nodes []netip.Addr) string {
	line := prefix(address)
	there := nodesOfFamily(nodes, address)
	for _, node := range there {
		line += " nexthop via " + node.String()
	}
	if len(there) == 0 {
		return "unreachable " + line
	}
	return line
}

func nodesOfFamily(nodes []netip.Addr, address netip.Addr) []netip.Addr {
	return slices.DeleteFunc(slices.Clone(nodes), func(node netip.Addr) bool { return node.Is4() != address.Is4() })
}

// Slots is how many ways there are to a destination. A connection is given one of them for good, with its first packet, as a
// balancer that keeps state does. The kernel's own choice among next hops is made anew whenever any route changes, and need
// not come out the same: that would break connections that have nothing to do with the change.
const Slots = 16

func table(slot int) int { return 1000 + slot }

// SlotRoutes leads each slot's connections to a prefix to one of the nodes.
func SlotRoutes(prefix string, nodes []netip.Addr) []string {
	var lines []string
	for slot := range Slots {
		if len(nodes) == 0 {
			lines = append(lines, fmt.Sprintf("route replace unreachable %s table %d", prefix, table(slot)))
			continue
		}
		lines = append(lines, fmt.Sprintf("route replace %s via %s table %d", prefix, nodes[slot%len(nodes)], table(slot)))
	}
	return lines
}

// SlotRules are the lines of iproute2, of one family, by which a packet's mark leads to its slot's routes.
func SlotRules() []string {
	var lines []string
	for slot := range Slots {
		lines = append(lines, fmt.Sprintf("rule add fwmark %d lookup %d", slot+1, table(slot)))
	}
	return lines
}

// SlotMarks is the nftables ruleset that gives a slot to each connection to these destinations that begins here.
func SlotMarks(destinations ...netip.Prefix) string {
	var rules strings.Builder
	for _, destination := range destinations {
		family := "ip6"
		if destination.Addr().Is4() {
			family = "ip"
		}
		fmt.Fprintf(&rules, "ct mark 0 %s daddr %s ct mark set numgen inc mod %d offset 1\n", family, destination, Slots)
	}
	return "table inet balancer {\nchain output {\ntype route hook output priority mangle;\n" + rules.String() + "meta mark set ct mark\n}\n}\n"
}

func prefix(address netip.Addr) string {
	return netip.PrefixFrom(address, address.BitLen()).String()
}

// ours is whether nobody else is to serve a Service.
func ours(service *corev1.Service) bool {
	return service.Spec.Type == corev1.ServiceTypeLoadBalancer && service.Spec.LoadBalancerClass == nil && service.DeletionTimestamp == nil
}

func family(from netip.Prefix) corev1.IPFamily {
	if from.Addr().Is4() {
		return corev1.IPv4Protocol
	}
	return corev1.IPv6Protocol
}

func key(service *corev1.Service) string { return service.Namespace + "/" + service.Name }

func addressesOf(node *corev1.Node) []netip.Addr {
	var addresses []netip.Addr
	for _, address := range node.Status.Addresses {
		if parsed, err := netip.ParseAddr(address.Address); err == nil && address.Type == corev1.NodeInternalIP {
			addresses = append(addresses, parsed)
		}
	}
	return addresses
}
