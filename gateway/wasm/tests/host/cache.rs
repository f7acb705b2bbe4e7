//! Compiled functions, kept between configurations and between runs.

use crate::setup::{Host, PROBE, probe, told, use_of};
use sluice_wasm::HostOptions;
use std::path::Path;

fn host(folder: &Path) -> Host {
    Host::with(HostOptions { cache_dir: Some(folder.join("cache")), ..HostOptions::default() })
}

/// Builds one use in a new host; functions found, and functions compiled.
async fn build(folder: &Path) -> (u64, u64) {
    let host = host(folder);
    let version = host.ready(&probe(), PROBE).await;
    version.begin().on_request(&mut told("")).await.unwrap();
    host.host.cache_counts()
}

#[tokio::test]
async fn a_second_run_finds_what_the_first_one_compiled() {
    let folder = tempfile::tempdir().unwrap();
    let (_, compiled) = build(folder.path()).await;
    assert!(compiled > 100, "{compiled}");
    assert!(is_warm(build(folder.path()).await));
}

/// Whether nearly all was found: about one function in twenty the compiler never finds again.
fn is_warm((found, compiled): (u64, u64)) -> bool {
    found > 10 * compiled
}

#[tokio::test]
async fn a_second_configuration_finds_what_the_first_one_compiled() {
    let folder = tempfile::tempdir().unwrap();
    let host = host(folder.path());
    host.ready(&probe(), PROBE).await;
    let before = host.host.cache_counts();
    host.ready(&probe(), r#"{"name":"another"}"#).await;
    let after = host.host.cache_counts();
    assert!(is_warm((after.0 - before.0, after.1 - before.1)), "{before:?} {after:?}");
}

#[tokio::test]
async fn a_damaged_file_is_not_used_and_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    build(folder.path()).await;
    let files: Vec<_> =
        std::fs::read_dir(folder.path().join("cache")).unwrap().map(|file| file.unwrap().path()).collect();
    assert_eq!(files.len(), 1);
    let mut content = std::fs::read(&files[0]).unwrap();
    let middle = content.len() / 2;
    content[middle] ^= 1;
    std::fs::write(&files[0], content).unwrap();
    let (_, compiled) = build(folder.path()).await;
    assert!(compiled > 100, "{compiled}");
    assert!(is_warm(build(folder.path()).await));
}

#[tokio::test]
async fn no_secret_of_a_configuration_reaches_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let host = host(folder.path());
    let secret = "correct-horse-battery-staple";
    let config = format!(r#"{{"name":"{secret}"}}"#);
    host.ensure(&[&probe()], &[&use_of("probe", &config)]).await;
    assert_eq!(host.host.problems(), []);
    for file in std::fs::read_dir(folder.path().join("cache")).unwrap() {
        let content = std::fs::read(file.unwrap().path()).unwrap();
        assert!(!content.windows(secret.len()).any(|window| window == secret.as_bytes()));
    }
}
