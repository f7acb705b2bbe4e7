use super::*;
use serde_json::json;
use sluice_plugin::testing::{Exchange, Services, Tested, configure};
use std::time;

fn plugin(config: serde_json::Value) -> Result<Tested<RateLimit>, String> {
    configure(config)
}

fn limited(limit: serde_json::Value) -> Tested<RateLimit> {
    plugin(json!({ "limits": [limit] })).unwrap()
}

fn of(client: &str) -> Exchange {
    Exchange::get("/").property("client.address", client)
}

fn passes(plugin: &Tested<RateLimit>, mut exchange: Exchange) -> bool {
    exchange.on_request(plugin).is_continue()
}

/// Seconds after which a refused client is told to come again.
fn retry_after(plugin: &Tested<RateLimit>, mut exchange: Exchange) -> u64 {
    let Decision::Respond(reply) = exchange.on_request(plugin) else { panic!("it passed") };
    let after = reply.headers.iter().find(|(name, _)| name == "retry-after").unwrap();
    String::from_utf8(after.1.clone()).unwrap().parse().unwrap()
}

fn seconds(count: u64) -> time::Duration {
    time::Duration::from_secs(count)
}

#[test]
fn in_a_fixed_window_so_many_pass_and_in_the_next_again() {
    let services = Services::new().store(STORE);
    let plugin = limited(json!({ "requests": 3, "per": "10s", "algorithm": "FixedWindow" }));
    services.advance(seconds(4));
    let count = || (0..5).filter(|_| passes(&plugin, of("192.0.2.1"))).count();
    assert_eq!(count(), 3);
    assert_eq!(retry_after(&plugin, of("192.0.2.1")), 6);
    services.advance(seconds(6));
    assert_eq!(count(), 3);
}

#[test]
fn a_sliding_window_lets_no_more_pass_in_any_such_time() {
    let services = Services::new().store(STORE);
    let plugin = limited(json!({ "requests": 10, "per": "10s" }));
    services.advance(seconds(9));
    let count = || (0..20).filter(|_| passes(&plugin, of("192.0.2.1"))).count();
    assert_eq!(count(), 10);
    services.advance(seconds(1));
    assert_eq!(count(), 0, "at the border of two windows nothing is new");
    services.advance(seconds(5));
    assert_eq!(count(), 5, "half of the window before is over");
    services.advance(seconds(20));
    assert_eq!(count(), 10);
}

#[test]
fn who_waits_as_long_as_it_is_told_passes() {
    for (algorithm, before) in [("FixedWindow", 3), ("SlidingWindow", 3), ("SlidingWindow", 12), ("TokenBucket", 3)] {
        let services = Services::new().store(STORE);
        let plugin = limited(json!({ "requests": 5, "per": "10s", "algorithm": algorithm }));
        services.advance(seconds(before));
        while passes(&plugin, of("192.0.2.1")) {}
        services.advance(seconds(3));
        while passes(&plugin, of("192.0.2.1")) {}
        let wait = retry_after(&plugin, of("192.0.2.1"));
        assert!((1..=20).contains(&wait), "{algorithm}: {wait}");
        services.advance(seconds(wait));
        assert!(passes(&plugin, of("192.0.2.1")), "{algorithm}, {before}: after {wait} s");
    }
}

#[test]
fn a_bucket_lets_a_burst_pass_and_then_the_rate() {
    let services = Services::new().store(STORE);
    let plugin = limited(json!({ "requests": 1, "per": "2s", "algorithm": "TokenBucket", "burst": 4 }));
    let count = || (0..9).filter(|_| passes(&plugin, of("192.0.2.1"))).count();
    assert_eq!(count(), 4);
    services.advance(seconds(4));
    assert_eq!(count(), 2);
    assert_eq!(retry_after(&plugin, of("192.0.2.1")), 2);
}

#[test]
fn requests_are_counted_together_by_what_they_have_in_common() {
    let _services = Services::new().store(STORE);
    let by_client = limited(json!({ "name": "client", "requests": 1, "per": "1m" }));
    assert!(passes(&by_client, of("192.0.2.1")) && passes(&by_client, of("192.0.2.2")));
    assert!(!passes(&by_client, of("::ffff:192.0.2.1")));
    assert!(passes(&by_client, of("2001:db8::1")) && !passes(&by_client, of("2001:db8::ffff")), "one network");
    assert!(passes(&by_client, of("2001:db8:0:1::1")));
    let by = json!({ "client": false, "headers": ["x-tenant"], "attributes": ["jwt.sub"] });
    let by_claim = limited(json!({ "name": "claim", "requests": 1, "per": "1m", "by": by }));
    let request = |tenant: &str, subject: &str| {
        of("192.0.2.1").header("x-tenant", tenant).attribute("jwt.sub", subject.to_owned())
    };
    for (tenant, subject, pass) in
        [("a", "ann", true), ("a", "bob", true), ("b", "ann", true), ("a", "ann", false), ("aa", "nn", true)]
    {
        assert_eq!(passes(&by_claim, request(tenant, subject)), pass, "{tenant} {subject}");
    }
    assert!(passes(&by_claim, of("192.0.2.1")) && !passes(&by_claim, of("192.0.2.9")), "those that lack both");
    let by_number = json!({ "client": false, "attributes": ["plan"] });
    let by_number = limited(json!({ "name": "number", "requests": 1, "per": "1m", "by": by_number }));
    assert!(passes(&by_number, of("a").attribute("plan", 1i64)) && passes(&by_number, of("a").attribute("plan", 2i64)));
    let all = limited(json!({ "name": "all", "requests": 1, "per": "1m", "by": { "client": false } }));
    assert!(passes(&all, of("192.0.2.1")) && !passes(&all, of("192.0.2.2")));
}

#[test]
fn clients_are_told_what_is_left() {
    let services = Services::new().store(STORE);
    let plugin = plugin(json!({ "limits": [
        { "name": "burst", "requests": 2, "per": "1s", "algorithm": "FixedWindow" },
        { "name": "hour", "requests": 100, "per": "1h", "algorithm": "FixedWindow" },
    ] }))
    .unwrap();
    let told = |plugin: &Tested<RateLimit>| {
        let mut exchange = of("192.0.2.1");
        let decision = exchange.on_request(plugin);
        assert!(exchange.on_response(plugin).is_continue());
        let [policy, left] = ["ratelimit-policy", "ratelimit"].map(|name| exchange.response().header_str(name));
        (decision.is_continue(), policy.unwrap_or_default(), left.unwrap_or_default())
    };
    let policy = "\"burst\";q=2;w=1, \"hour\";q=100;w=3600".to_owned();
    assert_eq!(told(&plugin), (true, policy.clone(), "\"burst\";r=1;t=1, \"hour\";r=99;t=3600".to_owned()));
    services.advance(time::Duration::from_millis(500));
    assert_eq!(told(&plugin), (true, policy.clone(), "\"burst\";r=0;t=1, \"hour\";r=98;t=3600".to_owned()));
    assert_eq!(told(&plugin), (false, policy, "\"burst\";r=0;t=1".to_owned()));
    assert_eq!(attributes::get::<String>(REFUSED).as_deref(), Some("burst"));
    let silent = self::plugin(json!({ "limits": [{ "requests": 1, "per": "1s" }], "headers": false })).unwrap();
    assert_eq!(told(&silent), (true, String::new(), String::new()));
}

#[test]
fn without_the_store_requests_pass_or_not_as_it_is_configured() {
    let config = |on: &str| json!({ "limits": [{ "requests": 1, "per": "1s" }], "onStoreFailure": on });
    assert!(passes(&plugin(config("Allow")).unwrap(), of("192.0.2.1")));
    let Decision::Respond(reply) = of("192.0.2.1").on_request(&plugin(config("Deny")).unwrap()) else { panic!() };
    assert_eq!(reply.status, 503);
}

#[test]
fn a_limit_that_makes_no_sense_is_refused_with_its_place() {
    let refused = |config| plugin(config).err().expect("it was accepted");
    let good = json!({ "requests": 1, "per": "1s" });
    assert!(refused(json!({ "limits": [good, good] })).starts_with("limits[1].name: there are two limits `default`"));
    for per in ["0s", "500ms", "1s500ms", "25h"] {
        assert!(refused(json!({ "limits": [{ "requests": 1, "per": per }] })).starts_with("limits[0].per: "), "{per}");
    }
    let burst = json!({ "limits": [{ "requests": 1, "per": "1s", "burst": 5 }] });
    assert!(refused(burst).starts_with("limits[0].burst: "));
}
