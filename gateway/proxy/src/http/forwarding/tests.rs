use super::*;

fn trusting(nets: &[&str]) -> Forwarding {
    Forwarding { trusted_proxies: nets.iter().map(|n| n.parse().unwrap()).collect(), ..Forwarding::default() }
}

fn parts(fields: &[(&str, &str)]) -> request::Parts {
    let mut builder = ::http::Request::builder().uri("/").version(Version::HTTP_11);
    for (name, value) in fields {
        builder = builder.header(*name, *value);
    }
    builder.body(()).unwrap().into_parts().0
}

/// The request as its backend sees it, and the client.
fn forwarded(fields: &[(&str, &str)], peer: &str, forwarding: &Forwarding) -> (HeaderMap, IpAddr) {
    let mut parts = parts(fields);
    let arrival = Arrival { peer: peer.parse().unwrap(), tls: true, authority_port: None };
    let origin = origin(&parts.headers, arrival.peer, forwarding);
    let host = HeaderValue::from_static("shop.example");
    let peer = address_value(arrival.peer.to_canonical());
    write(&mut parts, &host, arrival, &peer, &origin, forwarding).unwrap();
    (parts.headers, origin.client)
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Vec<&'h str> {
    headers.get_all(name).iter().map(|v| v.to_str().unwrap()).collect()
}

const SPOOFED: &[(&str, &str)] = &[
    ("x-forwarded-for", "10.0.0.1"),
    ("x-forwarded-for", "10.0.0.2"),
    ("x-forwarded-proto", "http"),
    ("x-forwarded-host", "evil.example"),
    ("x-forwarded-port", "1"),
    ("x-real-ip", "10.0.0.1"),
    ("forwarded", "for=10.0.0.1"),
];

#[test]
fn what_a_stranger_says_of_its_way_is_replaced() {
    let (headers, client) = forwarded(SPOOFED, "203.0.113.7", &Forwarding::default());
    assert_eq!(client, "203.0.113.7".parse::<IpAddr>().unwrap());
    assert_eq!(text(&headers, "x-forwarded-for"), ["203.0.113.7"]);
    assert_eq!(text(&headers, "x-real-ip"), ["203.0.113.7"]);
    assert_eq!(text(&headers, "x-forwarded-proto"), ["https"]);
    assert_eq!(text(&headers, "x-forwarded-host"), ["shop.example"]);
    assert_eq!(text(&headers, "x-forwarded-port"), ["443"]);
    assert!(text(&headers, "forwarded").is_empty());
}

#[test]
fn a_trusted_proxy_is_appended_to() {
    let fields = &[("x-forwarded-for", "198.51.100.9"), ("x-forwarded-proto", "http"), ("x-forwarded-port", "8080")];
    let (headers, client) = forwarded(fields, "10.0.0.5", &trusting(&["10.0.0.0/8"]));
    assert_eq!(client, "198.51.100.9".parse::<IpAddr>().unwrap());
    assert_eq!(text(&headers, "x-forwarded-for"), ["198.51.100.9, 10.0.0.5"]);
    assert_eq!(text(&headers, "x-real-ip"), ["198.51.100.9"]);
    assert_eq!(text(&headers, "x-forwarded-proto"), ["http"]);
    assert_eq!(text(&headers, "x-forwarded-port"), ["8080"]);
    assert_eq!(text(&headers, "x-forwarded-host"), ["shop.example"]);
}

#[test]
fn the_client_is_the_last_address_that_is_not_a_trusted_proxy() {
    let trust = trusting(&["10.0.0.0/8", "2001:db8::/32"]);
    for (chain, expected) in [
        ("1.1.1.1, 2.2.2.2, 10.1.1.1", "2.2.2.2"),
        ("1.1.1.1, [2001:db8::7]:443, 10.1.1.1:55", "1.1.1.1"),
        ("10.2.2.2, 10.1.1.1", "10.2.2.2"),
        ("1.1.1.1, unknown, 10.1.1.1", "10.1.1.1"),
        ("", "10.0.0.5"),
    ] {
        let headers = parts(&[("x-forwarded-for", chain)]).headers;
        let origin = origin(&headers, "10.0.0.5".parse().unwrap(), &trust);
        assert_eq!(origin.client, expected.parse::<IpAddr>().unwrap(), "{chain}");
    }
    let several = parts(&[("x-forwarded-for", "1.1.1.1"), ("x-forwarded-for", "10.1.1.1")]).headers;
    let origin = origin(&several, "10.0.0.5".parse().unwrap(), &trust);
    assert_eq!(origin.client, "1.1.1.1".parse::<IpAddr>().unwrap(), "the lines are one list");
}

#[test]
fn a_mapped_address_is_the_address_that_it_maps() {
    let (headers, client) = forwarded(&[], "::ffff:192.0.2.1", &Forwarding::default());
    assert_eq!(client, "192.0.2.1".parse::<IpAddr>().unwrap());
    assert_eq!(text(&headers, "x-forwarded-for"), ["192.0.2.1"]);
}

#[test]
fn forwarded_is_written_where_it_is_asked_for_rfc7239() {
    let forwarding = Forwarding { forwarded: true, ..trusting(&["10.0.0.0/8"]) };
    let (headers, _) = forwarded(&[("forwarded", "for=1.1.1.1")], "203.0.113.7", &forwarding);
    assert_eq!(text(&headers, "forwarded"), ["for=203.0.113.7;host=\"shop.example\";proto=https"]);
    let (headers, _) = forwarded(&[("forwarded", "for=1.1.1.1")], "10.0.0.5", &forwarding);
    assert_eq!(text(&headers, "forwarded"), ["for=1.1.1.1, for=10.0.0.5;host=\"shop.example\";proto=https"]);
    let (headers, _) = forwarded(&[], "2001:db8::1", &forwarding);
    assert_eq!(text(&headers, "forwarded"), ["for=\"[2001:db8::1]\";host=\"shop.example\";proto=https"]);
}

#[test]
fn via_is_appended_and_a_loop_is_refused_rfc9110_7_6_3() {
    let (headers, _) = forwarded(&[("via", "1.0 fred")], "203.0.113.7", &Forwarding::default());
    assert_eq!(text(&headers, "via"), ["1.0 fred, 1.1 sluice"]);
    for (via, expected) in [
        ("1.1 sluice", true),
        ("1.0 fred, 2.0 sluice (a comment)", true),
        ("1.1 sluice.example", false),
        ("1.1 x (sluice)", false),
    ] {
        assert_eq!(looped(&parts(&[("via", via)]).headers), expected, "{via}");
    }
}

#[test]
fn a_request_id_is_kept_from_trusted_peers_and_made_for_others() {
    let make = Forwarding::default();
    let given = || parts(&[("x-request-id", "abc-123")]).headers;
    let mut headers = given();
    request_id(&mut headers, true, &make);
    assert_eq!(text(&headers, "x-request-id"), ["abc-123"]);
    let mut headers = given();
    request_id(&mut headers, false, &make);
    let made = text(&headers, "x-request-id")[0];
    assert_eq!(uuid::Uuid::parse_str(made).unwrap().get_version_num(), 4);
    let mut headers = parts(&[("x-request-id", "with space")]).headers;
    request_id(&mut headers, true, &make);
    assert_ne!(text(&headers, "x-request-id"), ["with space"]);
    let mut headers = given();
    request_id(&mut headers, false, &Forwarding { request_id: false, ..make });
    assert!(headers.is_empty());
}

#[test]
fn each_request_has_an_id_of_its_own_however_many_are_held() {
    let of_request = |_| {
        let mut headers = HeaderMap::new();
        request_id(&mut headers, false, &Forwarding::default());
        headers.remove(names::X_REQUEST_ID).unwrap()
    };
    let held: Vec<HeaderValue> = (0..3 * BLOCK / 36).map(of_request).collect();
    let texts: std::collections::BTreeSet<_> = held.iter().map(|id| id.to_str().unwrap().to_owned()).collect();
    assert_eq!(texts.len(), held.len());
    assert!(texts.iter().all(|id| uuid::Uuid::parse_str(id).is_ok()));
}
