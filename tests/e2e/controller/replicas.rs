//! What several replicas do once: Events, and the Lease.

use super::{Cluster, gateway, parents, route, status_writes};
use rustix::process::Signal;
use serde_json::json;
use sluice_tests::{ApiServer, Gateway, wait};
use std::time::{Duration, Instant};

#[tokio::test]
async fn what_stays_wrong_with_an_ingress_is_told_by_one_event_whoever_leads() {
    let cluster = Cluster::new().await;
    cluster.server.apply(json!({"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass",
        "metadata": {"name": "sluice"}, "spec": {"controller": "sluice.dev/ingress-controller"}}));
    let ingress = |name: &str, service: &str| {
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": name, "namespace": "shop"},
            "spec": {"ingressClassName": "sluice",
                     "defaultBackend": {"service": {"name": service, "port": {"number": 80}}}}})
    };
    cluster.server.apply(ingress("broken", "nobody"));
    let first = cluster.options("controller").label("first").start().await;
    cluster.until("an Event", |server| !server.all("events").is_empty()).await;
    let event = cluster.server.all("events").remove(0);
    let object = cluster.server.get("ingresses", "shop", "broken").unwrap();
    assert_eq!(event["involvedObject"]["uid"], object["metadata"]["uid"]);
    assert_eq!(
        (&event["type"], &event["reason"], &event["count"]),
        (&json!("Warning"), &json!("ServiceNotFound"), &json!(1))
    );
    let message = event["message"].as_str().unwrap();
    assert!(message.contains("spec.defaultBackend") && message.contains("nobody"), "{message}");
    assert!(first.stop().await.success());

    // The next leader finds that it was told, and tells of what has come since.
    cluster.server.apply(ingress("later", "nobody"));
    let second = cluster.options("controller").label("second").start().await;
    cluster.until("another Event", |server| server.all("events").len() == 2).await;
    let same =
        cluster.server.all("events").into_iter().find(|other| other["metadata"]["name"] == event["metadata"]["name"]);
    assert_eq!(same.unwrap()["count"], 1);
    // It is counted when the server has said that it has it.
    wait::until("the Event to be counted", || async {
        (second.metric("sluice_events_total", &[]).await >= 1.0).then_some(())
    })
    .await;
    assert_eq!(second.metric("sluice_events_total", &[]).await, 1.0);
    assert!(second.stop().await.success());
}

async fn leader(replicas: &[(&'static str, &Gateway)]) -> &'static str {
    wait::until("a leader", || async {
        for (name, replica) in replicas {
            if replica.metric("sluice_controller_leader", &[]).await == 1.0 {
                return Some(*name);
            }
        }
        None
    })
    .await
}

#[tokio::test]
async fn of_two_replicas_one_writes_and_the_other_goes_on_when_it_is_gone() {
    let cluster = Cluster::new().await;
    cluster.server.apply(gateway("edge", &[("http", 80)]));
    let start = |label| cluster.options("controller").label(label).start();
    let first = start("first").await;
    assert_eq!(leader(&[("first", &first)]).await, "first");
    let second = start("second").await;
    let written = |server: &ApiServer, route: &str| !parents(server, route).is_empty();
    cluster.until("a status", |server| written(server, "all")).await;
    assert_eq!(second.metric("sluice_controller_leader", &[]).await, 0.0);

    // Killed: the Lease runs out.
    let killed = Instant::now();
    first.signal(Signal::KILL);
    cluster.server.apply(route("after-kill", "one"));
    cluster.until("the successor's status", |server| written(server, "after-kill")).await;
    assert!(killed.elapsed() < Duration::from_secs(20), "{:?}", killed.elapsed());
    assert_eq!(leader(&[("second", &second)]).await, "second");

    // Stopped: it gives the Lease up.
    let third = start("third").await;
    let stopped = Instant::now();
    assert!(second.stop().await.success());
    cluster.server.apply(route("after-stop", "one"));
    cluster.until("the next one's status", |server| written(server, "after-stop")).await;
    assert!(stopped.elapsed() < Duration::from_secs(10), "{:?}", stopped.elapsed());
    assert!(third.stop().await.success());
    // Who takes over finds what was written, and leaves it.
    assert_eq!(status_writes(&cluster.server, "httproutes/all"), 1);
}
