//! The Gateway API's own conformance suite, and what GatewayClass `sluice` says of itself held against it.

use crate::cluster::{Sluice, get, run};
use serde_json::Value;
use sluice_sources::yaml;
use sluice_tests::binary;
use std::collections::{BTreeMap, BTreeSet};

/// Where the report of the last release's CRDs lies; `UPDATE=1` writes it.
const REPORT: &str = "tests/cluster/reports/experimental-v0.1.0-default-report.yaml";

/// The suite's profiles, each with how many tests its core has.
const PROFILES: [(&str, u64); 5] =
    [("GATEWAY-HTTP", 36), ("GATEWAY-GRPC", 14), ("GATEWAY-TLS", 19), ("GATEWAY-TCP", 18), ("GATEWAY-UDP", 19)];

/// For a Gateway that asks for addresses: one that the cluster's load balancer has, far behind those that it gives
/// unasked, and one that it has not (RFC 5737).
const USABLE_ADDRESS: &str = "172.31.200.250";
const UNUSABLE_ADDRESS: &str = "192.0.2.1";

/// Features that are a profile's own.
const CORE: [&str; 7] = ["GRPCRoute", "Gateway", "HTTPRoute", "ReferenceGrant", "TCPRoute", "TLSRoute", "UDPRoute"];

fn names(value: &Value) -> BTreeSet<&str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

fn read(text: &str) -> Value {
    yaml::load(text).unwrap_or_else(|error| panic!("{error:?}"))[0].to_json()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster with the experimental channel and the suite's images: make test-cluster"]
async fn conformance() {
    Sluice::installed().await;
    let file = tempfile::NamedTempFile::new().unwrap();
    let report = format!("-report-output={}", file.path().display());
    let version = format!("-version=v{}", env!("CARGO_PKG_VERSION"));
    let profiles = format!("-conformance-profiles={}", PROFILES.map(|(name, _)| name).join(","));
    let usable = format!("-usable-address={USABLE_ADDRESS}");
    let unusable = format!("-unusable-address={UNUSABLE_ADDRESS}");
    // Which features it tests is what the GatewayClass claims.
    let suite = [
        "-test.run=^TestConformance$",
        "-test.timeout=20m",
        "-gateway-class=sluice",
        &profiles,
        "-organization=sluice",
        "-project=sluice",
        "-url=https://sluice.dev",
        "-contact=SECURITY.md",
        &usable,
        &unusable,
        &version,
        &report,
    ];
    let said = run("conformance.test", &suite).await;
    if let Err(error) = &said {
        // What failed stands between much else.
        let lines = error.lines().filter(|line| line.contains("FAIL") || line.contains("Error"));
        panic!("the suite failed:\n{}", lines.collect::<Vec<_>>().join("\n"));
    }
    let text = std::fs::read_to_string(file.path()).unwrap();
    let committed = binary::root().join(REPORT);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::create_dir_all(committed.parent().expect("a folder")).unwrap();
        std::fs::write(&committed, &text).unwrap();
    }
    let report = read(&text);
    assert_eq!(report["gatewayAPIVersion"], "v1.6.3", "{text}");
    let mut tested = BTreeSet::new();
    for (name, core) in PROFILES {
        let profiles = report["profiles"].as_array().expect("the report has profiles");
        let profile = profiles.iter().find(|profile| profile["name"] == name);
        let profile = profile.unwrap_or_else(|| panic!("{name} is not in the report:\n{text}"));
        for part in ["core", "extended"] {
            let result = &profile[part];
            assert_eq!(result["result"], "success", "{name}: {text}");
            assert_eq!(
                (&result["statistics"]["Failed"], &result["statistics"]["Skipped"]),
                (&0.into(), &0.into()),
                "{name}: {text}"
            );
        }
        assert_eq!(profile["core"]["statistics"]["Passed"], core, "{name}: all tests of the core are run");
        tested.extend(names(&profile["extended"]["supportedFeatures"]));
    }

    // The class claims what was tested beside the core, and nothing else; of one feature there is a test, and no profile
    // lists it.
    let class = get("gatewayclass sluice").await;
    let claimed = class["status"]["supportedFeatures"].as_array().expect("the class has features").iter();
    let claimed: BTreeSet<&str> = claimed.filter_map(|feature| feature["name"].as_str()).collect();
    let unlisted = BTreeSet::from(["GRPCRouteNamedRouteRule"]);
    assert_eq!(&(&claimed - &BTreeSet::from(CORE)) - &unlisted, &tested - &BTreeSet::from(CORE));

    // The suite writes its profiles in any order.
    let before = read(&std::fs::read_to_string(&committed).unwrap_or_default());
    let by_name = |report: &Value| -> BTreeMap<String, Value> {
        let profiles = report["profiles"].as_array().into_iter().flatten();
        profiles.map(|profile| (profile["name"].to_string(), profile.clone())).collect()
    };
    assert_eq!(by_name(&before), by_name(&report), "{REPORT} says otherwise; UPDATE=1 writes it again");
}
