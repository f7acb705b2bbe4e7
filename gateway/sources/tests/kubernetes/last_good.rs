//! What is kept for a process that starts while the API server is away.

use super::{Cluster, PAUSES, route, secret, service};
use sluice_model::{Code, Kind};
use sluice_sources::kubernetes::{LastGoodOptions, Pauses, WatchState};
use sluice_tests::{ApiServer, wait};
use std::collections::BTreeSet;
use std::time::Duration;

/// What a process keeps for the next one in the same folder.
struct Kept {
    folder: tempfile::TempDir,
}

impl Kept {
    fn new() -> Kept {
        Kept { folder: tempfile::tempdir_in("/dev/shm").unwrap() }
    }

    fn options(&self) -> LastGoodOptions {
        let (after, max_age) = (Duration::from_millis(300), Duration::from_secs(3600));
        LastGoodOptions { folder: self.folder.path().to_owned(), after, max_age }
    }

    fn file(&self) -> std::path::PathBuf {
        self.folder.path().join("last-good.json.gz")
    }

    async fn run(&self, server: ApiServer) -> Cluster {
        self.run_with(server, self.options(), PAUSES).await
    }

    async fn run_with(&self, server: ApiServer, options: LastGoodOptions, pauses: Pauses) -> Cluster {
        Cluster::with(server, &[], pauses, Some(options)).await
    }

    /// Has what a cluster holds now written, and ends its process. Its API server is away from then on.
    async fn keep(&self, mut cluster: Cluster) -> ApiServer {
        let _ = std::fs::remove_file(self.file());
        tokio::time::timeout(wait::DEADLINE, cluster.source.last_good_wanted()).await.expect("nothing is to be kept");
        cluster.source.give_last_good(cluster.store.documents().collect());
        wait::until("the file", || async { self.file().exists().then_some(()) }).await;
        cluster.server.stop().await;
        cluster.server
    }
}

impl Cluster {
    async fn uses_last_good(&mut self) {
        self.until("the last good resources", |c| c.codes().contains(&Code::LastGoodInUse)).await;
        assert!(self.complete && self.source.in_last_good());
        assert!(self.source.last_good().unwrap().in_use);
    }

    /// Waits until it is said that nothing of what was kept can be used.
    async fn refuses_last_good(&mut self, why: &str) {
        self.until("the refusal", |c| c.codes().contains(&Code::LastGoodRefused)).await;
        let problem = self.problems.iter().find(|problem| problem.code == Code::LastGoodRefused).unwrap();
        assert!(problem.message.contains(why), "{problem}");
        assert!(!self.complete && self.sets.is_empty() && !self.source.in_last_good());
    }
}

#[tokio::test]
async fn where_the_api_server_is_away_at_the_start_what_was_kept_is_served_until_it_is_back() {
    let server = ApiServer::start().await;
    for name in ["kept", "changed", "deleted"] {
        server.apply(service(name, 80));
    }
    server.apply(secret("web", "kubernetes.io/tls"));
    let kept = Kept::new();
    let mut cluster = kept.run(server).await;
    cluster.synced().await;
    assert!(!cluster.source.in_last_good());
    let server = kept.keep(cluster).await;

    let mut cluster = kept.run(server).await;
    cluster.uses_last_good().await;
    let names = ["Secret shop/web", "Service shop/changed", "Service shop/deleted", "Service shop/kept"];
    assert_eq!(cluster.names(), names.map(str::to_owned).into());
    assert_eq!(cluster.sets.len(), 1, "not all at once");
    assert!(cluster.codes().contains(&Code::WatchFailing));

    cluster.server.delete(Kind::Service, "shop", "deleted");
    cluster.server.apply(service("changed", 81));
    cluster.server.apply(service("new", 80));
    cluster.server.resume().await;
    cluster.until("the API server's own objects", |c| c.has("Service shop/new")).await;
    assert_eq!(cluster.sets.len(), 2, "not all at once: {:?}", cluster.sets);
    assert!(!cluster.has("Service shop/deleted") && cluster.has("Secret shop/web"));
    assert_eq!(cluster.port_of("changed"), Some(81));
    assert!(!cluster.source.in_last_good());
    cluster.until("no problem any more", |c| c.problems.is_empty()).await;
    // What is kept from here on is what there is now.
    let server = kept.keep(cluster).await;
    let mut cluster = kept.run(server).await;
    cluster.uses_last_good().await;
    assert!(cluster.has("Service shop/new") && !cluster.has("Service shop/deleted"));
}

#[tokio::test]
async fn what_was_kept_is_never_ahead_of_a_list() {
    let server = ApiServer::start().await;
    server.apply(service("old", 80));
    let kept = Kept::new();
    let mut cluster = kept.run(server).await;
    cluster.synced().await;
    let mut server = kept.keep(cluster).await;
    server.delete(Kind::Service, "shop", "old");
    server.apply(service("new", 80));
    server.resume().await;
    // Due at once, if it were to fail.
    let options = LastGoodOptions { after: Duration::ZERO, ..kept.options() };
    let mut cluster = kept.run_with(server, options, PAUSES).await;
    cluster.synced().await;
    assert_eq!(cluster.sets.len(), 1);
    assert_eq!(cluster.names(), BTreeSet::from(["Service shop/new".to_owned()]));
    // Nor is it used once there was one.
    cluster.server.stop().await;
    cluster.until("the problem", |c| c.codes().contains(&Code::WatchFailing)).await;
    cluster.source.restart();
    cluster.until_status(Kind::Service, |status| matches!(status.state, WatchState::Failing { .. })).await;
    let update = cluster.source.read(std::time::Instant::now());
    assert!(!update.complete && update.changes.is_empty() && !cluster.source.in_last_good());
}

#[tokio::test]
async fn as_long_as_one_kind_fails_all_of_what_was_kept_is_served_and_then_nothing_of_it() {
    let server = ApiServer::start().await;
    server.apply(service("old", 80));
    server.apply(route("all"));
    let kept = Kept::new();
    let mut cluster = kept.run(server).await;
    cluster.synced().await;
    let mut server = kept.keep(cluster).await;
    server.delete(Kind::Service, "shop", "old");
    server.apply(service("new", 80));
    server.fail(Kind::HTTPRoute);
    server.resume().await;
    let mut cluster = kept.run(server).await;
    cluster.uses_last_good().await;
    cluster.until_status(Kind::Service, |status| status.state == WatchState::Synced).await;
    assert!(cluster.has("Service shop/old") && !cluster.has("Service shop/new"));
    cluster.server.allow(Kind::HTTPRoute);
    cluster.until("the API server's own objects", |c| c.has("Service shop/new")).await;
    assert!(!cluster.has("Service shop/old") && cluster.has("HTTPRoute shop/all"));
    assert_eq!(cluster.sets.len(), 2, "{:?}", cluster.sets);
}

#[tokio::test]
async fn a_server_that_has_just_started_and_refuses_a_kind_is_not_believed_at_once() {
    let server = ApiServer::start().await;
    server.apply(service("web", 80));
    server.apply(route("all"));
    let kept = Kept::new();
    let mut cluster = kept.run(server).await;
    cluster.synced().await;
    let server = kept.keep(cluster).await;
    let grace = Duration::from_secs(2);
    let mut cluster = kept.run_with(server, kept.options(), Pauses { grace, ..PAUSES }).await;
    cluster.uses_last_good().await;
    // Its CRDs and its rights are not there yet; Gateways it never had any of.
    cluster.server.serve_versions(Kind::HTTPRoute, &[]);
    cluster.server.forbid(Kind::Service);
    cluster.server.forbid(Kind::Gateway);
    cluster.server.resume().await;
    cluster.until_status(Kind::HTTPRoute, |status| status.state == WatchState::NotInstalled).await;
    cluster.until_status(Kind::Service, |status| status.state.name() == "forbidden").await;
    cluster.take().await;
    assert!(cluster.source.in_last_good() && cluster.has("HTTPRoute shop/all") && cluster.has("Service shop/web"));
    cluster.server.allow(Kind::Service);
    cluster.until("the end of grace", |c| !c.has("HTTPRoute shop/all")).await;
    assert!(cluster.has("Service shop/web") && !cluster.source.in_last_good());
}

#[tokio::test]
async fn what_was_kept_is_refused_where_it_is_damaged_too_old_or_of_another_cluster() {
    let server = ApiServer::start().await;
    server.apply(service("web", 80));
    let kept = Kept::new();
    let mut cluster = kept.run(server).await;
    cluster.synced().await;
    let server = kept.keep(cluster).await;
    let good = std::fs::read(kept.file()).unwrap();

    std::fs::write(kept.file(), &good[..good.len() - 9]).unwrap();
    let mut cluster = kept.run(server).await;
    cluster.refuses_last_good("damaged").await;
    let Cluster { server, .. } = cluster;

    std::fs::write(kept.file(), &good).unwrap();
    let day = Duration::from_secs(86_400);
    std::fs::File::open(kept.file()).unwrap().set_modified(std::time::SystemTime::now() - day).unwrap();
    let mut cluster = kept.run(server).await;
    cluster.refuses_last_good("3600 s are allowed").await;
    let Cluster { server, .. } = cluster;

    std::fs::write(kept.file(), &good).unwrap();
    let mut cluster = Cluster::with(server, &["shop"], PAUSES, Some(kept.options())).await;
    cluster.refuses_last_good("of another cluster").await;
    drop(cluster);

    let mut other = ApiServer::start().await;
    other.stop().await;
    let mut cluster = kept.run(other).await;
    cluster.refuses_last_good("of another cluster").await;
    // Nothing of that stands in the way of what the API server says.
    cluster.server.apply(service("other", 80));
    cluster.server.resume().await;
    cluster.until("its objects", |c| c.has("Service shop/other") && c.problems.is_empty()).await;
    assert!(!cluster.has("Service shop/web"));
}

#[tokio::test]
async fn where_nothing_can_be_kept_that_is_said_until_it_can() {
    let kept = Kept::new();
    let server = ApiServer::start().await;
    server.apply(service("web", 80));
    let mut cluster = kept.run(server).await;
    cluster.synced().await;
    // A folder cannot be replaced by a file.
    std::fs::create_dir(kept.file()).unwrap();
    tokio::time::timeout(wait::DEADLINE, cluster.source.last_good_wanted()).await.unwrap();
    cluster.source.give_last_good(cluster.store.documents().collect());
    cluster.until("the problem", |c| c.codes() == [Code::LastGoodNotKept]).await;
    assert!(!kept.folder.path().join("last-good.new").exists());
}
