//! What is deployed names the same versions, files and flags as the code.

use sluice_tests::binary;
use std::process::Command;

fn read(file: &str) -> String {
    std::fs::read_to_string(binary::root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// The rest of the first line that begins so.
fn after<'a>(text: &'a str, begin: &str) -> &'a str {
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix(begin));
    line.unwrap_or_else(|| panic!("no line begins with `{begin}`")).trim()
}

#[test]
fn the_chart_and_the_image_are_of_this_version() {
    let cargo = read("Cargo.toml");
    let version = after(&cargo, "version = ").trim_matches('"');
    let chart = read("deploy/helm/sluice/Chart.yaml");
    assert_eq!((after(&chart, "version: "), after(&chart, "appVersion: ")), (version, version));
    let rust = after(&cargo, "rust-version = ").trim_matches('"');
    let dockerfile = read("deploy/docker/Dockerfile");
    assert!(dockerfile.contains(&format!(" rust:{rust}-bookworm ")), "the image is built by another Rust than {rust}");
    assert!(dockerfile.contains("distroless/cc-debian12:"), "the image's base is another Debian than it is built on");
}

#[test]
fn the_image_starts_the_program_that_its_list_of_files_puts_there() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("program");
    std::fs::write(&program, "a program").unwrap();
    let rootfs = folder.path().join("rootfs");
    let plugins = Command::new(binary::root().join("scripts/install-plugins.sh")).status().unwrap();
    assert!(plugins.success());
    let status = Command::new(binary::root().join("deploy/docker/rootfs"))
        .arg(&rootfs)
        .env("SLUICE_BIN", &program)
        .status()
        .unwrap();
    assert!(status.success());
    let dockerfile = read("deploy/docker/Dockerfile");
    let entrypoint: Vec<String> = serde_json::from_str(after(&dockerfile, "ENTRYPOINT ")).unwrap();
    let [place] = &entrypoint[..] else { panic!("{entrypoint:?}") };
    assert_eq!(std::fs::read_to_string(rootfs.join(place.trim_start_matches('/'))).unwrap(), "a program");
    assert!(rootfs.join("usr/share/sluice/plugins/key-auth.wasm").is_file());
    assert_eq!(after(&dockerfile, "USER "), "65532:65532");
    // The test cluster's image is started by the same path.
    assert!(read("tests/cluster/test").contains(&format!("--entrypoint {place} ")));
}

/// The sources below these folders, by file name without its end.
fn sources(folders: &[&str]) -> Vec<(String, String)> {
    let mut sources = Vec::new();
    for folder in folders {
        for entry in std::fs::read_dir(binary::root().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|end| end == "rs") {
                let name = path.file_stem().unwrap().to_string_lossy().into_owned();
                sources.push((name, std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    sources
}

#[test]
fn each_kind_of_service_names_tests_that_are_there() {
    let document = read("docs/kubernetes.md");
    let (_, section) = document.split_once("## Services of every type\n").expect("the section");
    let (section, _) = section.split_once("\n## ").expect("the next section");
    let sources = sources(&["tests/cluster/suite", "tests/http", "tests/e2e", "gateway/translate/src/tests"]);
    let rows = section.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    let rows: Vec<&str> = rows.filter(|row| !row.starts_with("as ")).collect();
    assert!(rows.len() > 12, "{rows:?}");
    for row in rows {
        let shown = row.rsplit(" | ").next().unwrap();
        let names: Vec<&str> = shown.split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty() || shown == "-", "no test shows: {row}");
        for name in names {
            let is_there = |(file, text): &(String, String)| file == name || text.contains(&format!("fn {name}()"));
            assert!(sources.iter().any(is_there), "there is no test `{name}`: {row}");
        }
    }
}

#[test]
fn every_flag_in_the_plain_manifests_is_one_of_sluice_run() {
    let help = Command::new(binary::sluice()).args(["run", "--help"]).output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let manifests = read("deploy/manifests/sluice.yaml");
    let flags: Vec<&str> =
        manifests.lines().filter_map(|line| line.trim().strip_prefix("- --")?.split('=').next()).collect();
    assert!(flags.len() >= 5, "{flags:?}");
    for flag in flags {
        let known = help.lines().any(|line| line.split_whitespace().next() == Some(&format!("--{flag}")));
        assert!(known, "--{flag} is no flag of `sluice run`");
    }
}
