package loadbalancer

import (
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var ranges = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/30"), netip.MustParsePrefix("fd00::/126")}

func TestAnAddressThatIsAskedForOrHeldIsKept(t *testing.T) {
	held := service("held", 2)
	held.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "10.0.0.1"}}
	asked := service("asked", 3)
	asked.Spec.LoadBalancerIP = "10.0.0.2"
	given := assign([]*corev1.Service{asked, held, service("new", 1)}, ranges)
	expect(t, given["test/held"], "10.0.0.1")
	expect(t, given["test/asked"], "10.0.0.2")
	expect(t, given["test/new"], "10.0.0.3")
}

func TestOfTwoThatAskForOneAddressTheOlderGetsIt(t *testing.T) {
	older, younger := service("older", 1), service("younger", 2)
	older.Spec.LoadBalancerIP, younger.Spec.LoadBalancerIP = "10.0.0.2", "10.0.0.2"
	given := assign([]*corev1.Service{younger, older}, ranges)
	expect(t, given["test/older"], "10.0.0.2")
	expect(t, given["test/younger"])
}

func TestAServiceOfTwoFamiliesGetsTwoAddresses(t *testing.T) {
	both := service("both", 1)
	both.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv6Protocol, corev1.IPv4Protocol}
	expect(t, assign([]*corev1.Service{both}, ranges)["test/both"], "10.0.0.1", "fd00::1")
}

func TestOtherServicesGetNone(t *testing.T) {
	internal, foreign := service("internal", 1), service("foreign", 1)
	internal.Spec.Type = corev1.ServiceTypeClusterIP
	class := "example.com/other"
	foreign.Spec.LoadBalancerClass = &class
	if given := assign([]*corev1.Service{internal, foreign}, ranges); len(given) > 0 {
		t.Fatalf("given %v", given)
	}
}

func TestTrafficGoesToNodesThatAnswerAndWithPolicyLocalToThoseWithEndpoints(t *testing.T) {
	front := service("front", 1)
	name, gone := "node1", false
	now := world{
		nodes: []*corev1.Node{node("node0", "172.31.0.10"), node("node1", "172.31.0.11"), node("node2", "172.31.0.12")},
		lost:  map[netip.Addr]bool{netip.MustParseAddr("172.31.0.12"): true},
		slices: []*discoveryv1.EndpointSlice{{
			ObjectMeta: metav1.ObjectMeta{Namespace: "test", Labels: map[string]string{discoveryv1.LabelServiceName: "front"}},
			Endpoints:  []discoveryv1.Endpoint{{NodeName: &name}},
		}},
	}
	expect(t, nodesFor(front, now), "172.31.0.10", "172.31.0.11")
	front.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	expect(t, nodesFor(front, now), "172.31.0.11")
	now.slices[0].Endpoints[0].Conditions.Ready = &gone
	expect(t, nodesFor(front, now))
	if line := route(netip.MustParseAddr("10.0.0.1"), nodesFor(front, now)); line != "unreachable 10.0.0.1/32" {
		t.Fatal(line)
	}
}

func TestEachSlotLeadsToOneNodeAndAllNodesHaveSlots(t *testing.T) {
	nodes := []netip.Addr{netip.MustParseAddr("172.31.0.10"), netip.MustParseAddr("172.31.0.11")}
	lines := SlotRoutes("10.0.0.1/32", nodes)
	if len(lines) != Slots || lines[0] != "route replace 10.0.0.1/32 via 172.31.0.10 table 1000" ||
		lines[1] != "route replace 10.0.0.1/32 via 172.31.0.11 table 1001" {
		t.Fatal(lines)
	}
	// A node that goes takes nothing from the connections of the other.
	for slot, line := range SlotRoutes("10.0.0.1/32", nodes[:1]) {
		if slot%2 == 0 && line != lines[slot] {
			t.Fatal(line)
		}
	}
	if lines := SlotRoutes("10.0.0.1/32", nil); lines[3] != "route replace unreachable 10.0.0.1/32 table 1003" {
		t.Fatal(lines)
	}
}

func TestANodeThatMissesThreeChecksInARowIsLostUntilItAnswersAgain(t *testing.T) {
	// Addresses of no host on the loopback interface, where nothing listens on the port.
	b := Balancer{missed: map[netip.Addr]int{}}
	nodes := []*corev1.Node{node("node0", "127.0.0.97")}
	for range missesToLose - 1 {
		if b.check(nodes) {
			t.Fatal("lost too early")
		}
	}
	if !b.check(nodes) || !b.lost()[netip.MustParseAddr("127.0.0.97")] {
		t.Fatal("not lost")
	}
	listener, err := net.Listen("tcp", "127.0.0.97:10256")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	if !b.check(nodes) || len(b.lost()) != 0 {
		t.Fatal("still lost")
	}
}

func service(name string, age int64) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "test", Name: name, CreationTimestamp: metav1.NewTime(time.Unix(age, 0))},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}},
	}
}

func node(name, address string) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{
		Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: address}},
	}}
}

func expect(t *testing.T, have []netip.Addr, want ...string) {
	t.Helper()
	var text []string
	for _, address := range have {
		text = append(text, address.String())
	}
	if !slices.Equal(text, want) {
		t.Fatalf("%v instead of %v", text, want)
	}
}
