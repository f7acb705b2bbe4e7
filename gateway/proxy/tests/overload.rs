//! What the gateway does as its memory runs out. Alone in its process, whose memory the test fills.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

mod common;

use common::*;

const MIB: usize = 1 << 20;

/// Pages that are really there. So large a piece has a mapping of its own: it is given back as soon as it is dropped.
fn filled(mib: usize) -> Vec<u8> {
    vec![1; mib * MIB]
}

/// The value of a gauge.
fn gauge(gateway: &Gateway, name: &str) -> usize {
    let metrics = gateway.metrics();
    metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok()).unwrap()
}

/// Waits until the gateway has looked at its memory again, now that something has changed by at least half a MiB.
async fn seen_anew(gateway: &Gateway, before: usize) {
    let resident = || gauge(gateway, "sluice_memory_resident_bytes");
    eventually(|| (resident().abs_diff(before) >= MIB / 2).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn as_memory_runs_out_connections_are_not_kept_and_then_requests_are_refused() {
    const LIMIT: usize = 384;
    let web = Server::named("web").await;
    let config = Setup::new().backend("web", &[web.address]).rule("/", to("web")).build();
    let gateway = Gateway::start_with(config, |options| options.memory_limit = Some((LIMIT * MIB) as u64)).await;
    let state = || gauge(&gateway, "sluice_overload_state");
    let kept = gateway.get("/").await;
    assert_eq!((kept.status, kept.header("connection")), (200, Some("keep-alive")));
    eventually(|| (gauge(&gateway, "sluice_memory_resident_bytes") > 0).then_some(())).await;

    // Up to a little below 95 %, and then in steps that do not miss the three hundredths in which connections are closed.
    let resident = gauge(&gateway, "sluice_memory_resident_bytes");
    let ballast = filled((LIMIT * 9 / 10).saturating_sub(resident / MIB));
    seen_anew(&gateway, resident).await;
    let mut more = Vec::new();
    for wanted in [1, 2] {
        while state() < wanted {
            let before = gauge(&gateway, "sluice_memory_resident_bytes");
            more.push(filled(1));
            seen_anew(&gateway, before).await;
        }
        assert_eq!(state(), wanted);
        let answer = gateway.get("/").await;
        let status = if wanted == 1 { 200 } else { 503 };
        assert_eq!((answer.status, answer.header("connection")), (status, Some("close")), "in state {wanted}");
    }
    assert_eq!(web.seen().len(), 2, "what was refused has reached nobody");
    assert!(gateway.metrics().contains("sluice_overload_shed_total 1"));

    drop((ballast, more));
    eventually(|| (state() == 0).then_some(())).await;
    let kept = gateway.get("/").await;
    assert_eq!((kept.status, kept.header("connection")), (200, Some("keep-alive")), "memory is enough again");
}
