//! A change to the files is served, said once in the log, and nothing that is broken takes away what served.

use crate::shop::{HOST, Shop, backend_of};
use sluice_tests::objects::{backend_policy, class, gateway, http_route, join, route_to, service};
use sluice_tests::{Backend, Folder, Gateway, ports, raw, wait};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Longer than a reload takes, so that a wrong one would have happened: the watcher polls every 2 s.
const SETTLE: Duration = Duration::from_secs(3);

#[tokio::test]
async fn an_edit_is_served_and_the_log_says_in_one_line_what_changed() {
    let shop = Shop::start(&["one", "two"], &route_to("shop", &[HOST], "one")).await;
    assert_eq!(backend_of(&shop.get("/").await), "one");
    let lines = shop.gateway.log().len();
    let edited = Instant::now();
    shop.folder.write("more.yaml", route_to("shop", &[HOST], "two"));
    shop.until("the edit", "/", |a| a.text().contains("\"two\"")).await;
    println!("an edit was served after {:?}", edited.elapsed());
    let said: Vec<_> = wait::until("the log", || async {
        let new: Vec<_> = shop.gateway.log().into_iter().skip(lines).collect();
        new.iter().any(|l| l.contains("shop")).then_some(new)
    })
    .await;
    assert_eq!(said.iter().filter(|l| l.contains("shop")).count(), 1, "{said:#?}");
}

/// Each of the two routes says which version it is of, and both are changed by one file.
#[tokio::test(flavor = "multi_thread")]
async fn objects_that_change_together_are_served_together() {
    const VERSIONS: usize = 30;
    let versioned = |version: usize| {
        let of = |name: &str, path: &str| {
            let set = format!("{{set: [{{name: x-version, value: \"{version}\"}}]}}");
            let filter = format!("{{type: ResponseHeaderModifier, responseHeaderModifier: {set}}}");
            let matches = format!("[{{path: {{value: {path}}}}}]");
            http_route(
                name,
                &[HOST],
                &format!(
                    "  - matches: {matches}\n    filters: [{filter}]\n    backendRefs: [{{name: one, port: 80}}]\n"
                ),
            )
        };
        join([of("first", "/first"), of("second", "/second")])
    };
    let shop = Shop::start(&["one"], &versioned(0)).await;
    let (port, stop) = (shop.http, Arc::new(AtomicBool::new(false)));
    let stopped = stop.clone();
    // The first route is asked before the second one: what is seen of that is never older than what was seen of it.
    let asking = tokio::spawn(async move {
        let mut seen = BTreeSet::new();
        while !stopped.load(Ordering::Relaxed) {
            let mut versions = Vec::new();
            for path in ["/first", "/second", "/first"] {
                let answer = raw::get(port, HOST, path).await.unwrap();
                versions.push(answer.header("x-version").unwrap().parse::<usize>().unwrap());
            }
            assert!(versions.is_sorted(), "one change was served in two steps: {versions:?}");
            seen.extend(versions);
        }
        seen
    });
    for version in 1..=VERSIONS {
        shop.folder.write("more.yaml", versioned(version));
        let wanted = version.to_string();
        shop.until("the version", "/second", |a| a.header("x-version").as_deref() == Some(&wanted)).await;
    }
    stop.store(true, Ordering::Relaxed);
    let seen = asking.await.unwrap();
    assert!(seen.len() > VERSIONS / 2, "{seen:?}");
}

/// Pools, health and counters are an object's, whatever else changes around it.
#[tokio::test]
async fn connections_and_ejections_and_counters_outlive_a_reload() {
    let dead = SocketAddr::from(([127, 0, 0, 1], ports::free()));
    let one = Backend::echo("one").await;
    let objects = |path: &str| {
        let rules = format!("  - matches: [{{path: {{value: {path}}}}}]\n    backendRefs: [{{name: web, port: 80}}]\n");
        let outlier = "outlierDetection: {consecutiveFailures: 1, baseEjection: 1h, maxEjection: 1h}";
        join([
            http_route("shop", &[HOST], &rules),
            service("web", &[one.address, dead]),
            backend_policy("web", outlier),
        ])
    };
    let shop = Shop::start(&[], &objects("/before")).await;
    // One after the other on one connection, so that it is one worker that answers, with one connection to the endpoint.
    let mut client = raw::Client::connect(shop.http).await.unwrap();
    let mut get = async |path: &str| {
        client.send(format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n")).await.unwrap();
        client.response().await.unwrap().status
    };
    for _ in 0..6 {
        assert_eq!(get("/before").await, 200);
    }
    let ejected = async || {
        let (_, page) = shop.gateway.admin_get("/").await.unwrap();
        page.contains("ejected")
    };
    assert!(ejected().await);
    let (connections, requests) = (one.connections(), one.count());
    let counted = shop.gateway.metric("sluice_requests_total", &["2xx"]).await;

    shop.folder.write("more.yaml", objects("/after"));
    wait::until("the change", || async {
        let (_, config) = shop.gateway.admin_get("/config").await.ok()?;
        config.contains("/after").then_some(())
    })
    .await;
    for _ in 0..6 {
        assert_eq!(get("/after").await, 200);
    }
    assert_eq!(one.count(), requests + 6);
    assert_eq!(one.connections(), connections, "the endpoint was connected to anew");
    assert!(ejected().await, "the ejection was forgotten");
    assert!(shop.gateway.metric("sluice_requests_total", &["2xx"]).await >= counted + 6.0);
}

#[tokio::test]
async fn a_file_written_in_place_is_noticed_too() {
    let shop = Shop::start(&["one", "two"], &route_to("shop", &[HOST], "one")).await;
    shop.folder.write_in_place("more.yaml", route_to("shop", &[HOST], "two"));
    shop.until("the edit", "/", |a| a.text().contains("\"two\"")).await;
}

#[tokio::test]
async fn half_a_file_or_text_that_is_no_yaml_takes_nothing_away() {
    let good = route_to("shop", &[HOST], "one");
    let shop = Shop::start(&["one"], &good).await;
    for broken in [&good[..good.len() / 2], "a: [b\n", "\u{0}\u{1}", "- just\n- a list\n"] {
        shop.folder.write_in_place("more.yaml", broken);
        wait::until("the problem", || async {
            let (_, problems) = shop.gateway.admin_get("/problems").await.ok()?;
            problems.contains("more.yaml").then_some(())
        })
        .await;
        assert_eq!(backend_of(&shop.get("/").await), "one", "after {broken:?}");
        shop.folder.write("more.yaml", &good);
        wait::until("the problem to go", || async {
            let (_, problems) = shop.gateway.admin_get("/problems").await.ok()?;
            (!problems.contains("more.yaml")).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_folder_that_vanishes_takes_nothing_away() {
    let shop = Shop::start(&["one"], &route_to("shop", &[HOST], "one")).await;
    let folder = shop.folder.path();
    let aside = folder.with_file_name("aside");
    std::fs::rename(&folder, &aside).unwrap();
    wait::until("the problem", || async {
        let (_, problems) = shop.gateway.admin_get("/problems").await.ok()?;
        problems.contains("SLUICE-P007").then_some(())
    })
    .await;
    assert_eq!(backend_of(&shop.get("/").await), "one");
    // It comes back with a change, and is watched again.
    std::fs::rename(&aside, &folder).unwrap();
    shop.folder.write(
        "more.yaml",
        http_route(
            "shop",
            &[HOST],
            "  - matches: [{path: {value: /only}}]\n    backendRefs: [{name: one, port: 80}]\n",
        ),
    );
    shop.until("the change", "/", |a| a.status == 404).await;
}

#[tokio::test]
async fn a_file_that_is_removed_takes_its_objects_with_it() {
    let shop = Shop::start(&["one"], &route_to("shop", &[HOST], "one")).await;
    shop.folder.remove("more.yaml");
    shop.until("the route to go", "/", |a| a.status == 404).await;
}

/// How kubelet mounts a ConfigMap: `file -> ..data/file`, `..data -> ..2026_…`, replaced by a rename of `..data`.
#[tokio::test]
async fn a_config_map_mount_is_followed() {
    let folder = Folder::new();
    let (one, two) = (Backend::echo("one").await, Backend::echo("two").await);
    let port = ports::free();
    let content = |backend: &Backend| {
        join([class(), gateway(port, None), route_to("all", &[], "web"), service("web", &[backend.address])])
    };
    let generation = |number: u32, content: &str| {
        let directory = folder.path().join(format!("..{number}"));
        std::fs::create_dir(&directory).unwrap();
        std::fs::write(directory.join("all.yaml"), content).unwrap();
        let link = folder.path().join("..data_tmp");
        std::os::unix::fs::symlink(format!("..{number}"), &link).unwrap();
        std::fs::rename(link, folder.path().join("..data")).unwrap();
    };
    generation(1, &content(&one));
    std::os::unix::fs::symlink("..data/all.yaml", folder.path().join("all.yaml")).unwrap();
    let _gateway = Gateway::start(&folder).await;
    assert_eq!(backend_of(&raw::get(port, HOST, "/").await.unwrap()), "one");
    generation(2, &content(&two));
    std::fs::remove_dir_all(folder.path().join("..1")).unwrap();
    wait::until("the new mount", || async {
        let answer = raw::get(port, HOST, "/").await.ok()?;
        (answer.status == 200 && backend_of(&answer) == "two").then_some(())
    })
    .await;
}

#[tokio::test]
async fn listeners_come_and_go_while_others_serve() {
    let shop = Shop::start(&["one"], &route_to("shop", &[HOST], "one")).await;
    let extra = ports::free();
    let second = |port: u16| {
        gateway(port, None).replace("name: edge", "name: second").replace("spec:", "spec:\n  # another Gateway")
            + "---\n"
            + &route_to("second", &[], "one").replace("{name: edge}", "{name: second}")
    };
    shop.folder.write("second.yaml", second(extra));
    wait::until("the new port", || async { raw::get(extra, HOST, "/").await.ok().filter(|a| a.status == 200) }).await;
    shop.folder.remove("second.yaml");
    wait::until("the port to close", || async { raw::Client::connect(extra).await.is_err().then_some(()) }).await;
    assert_eq!(backend_of(&shop.get("/").await), "one");
    // And the same port comes back.
    shop.folder.write("second.yaml", second(extra));
    wait::until("the port again", || async { raw::get(extra, HOST, "/").await.ok().filter(|a| a.status == 200) }).await;
}

#[tokio::test]
async fn a_problem_is_logged_once_and_not_with_each_reload() {
    let bad = http_route("bad", &["a..b"], "  - backendRefs: [{name: one, port: 80}]\n");
    let shop = Shop::start(&["one", "two"], &join([route_to("shop", &[HOST], "one"), bad.clone()])).await;
    for name in ["two", "one", "two"] {
        shop.folder.write("more.yaml", join([route_to("shop", &[HOST], name), bad.clone()]));
        shop.until("the reload", "/", |a| a.status == 200 && a.text().contains(&format!("\"{name}\""))).await;
    }
    tokio::time::sleep(SETTLE).await;
    let said = shop.gateway.log().into_iter().filter(|l| l.contains("SLUICE-P101")).count();
    assert_eq!(said, 1, "{:#?}", shop.gateway.log());
    assert_eq!(shop.gateway.metric("sluice_config_problems", &["SLUICE-P101"]).await, 1.0);
}
