//! Each feature of the Gateway API that is claimed has a test that is there.

use sluice_controller::SUPPORTED_FEATURES;
use sluice_tests::binary;
use std::collections::BTreeMap;

/// `| feature | `file` | `test` |` of each row: of the features, and of what has no feature's name.
fn rows() -> [Vec<[String; 3]>; 2] {
    let text = std::fs::read_to_string(binary::root().join("docs/gateway-api.md")).unwrap();
    let cells = |line: &str| -> Option<[String; 3]> {
        let cells: Vec<_> =
            line.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`').to_owned()).collect();
        cells.try_into().ok()
    };
    let (features, others) = text.split_once("## Without a feature's name").unwrap();
    [features, others].map(|text| {
        let rows = text.lines().filter(|line| line.starts_with("| ")).filter_map(cells);
        rows.filter(|[what, ..]| what != "feature" && what != "what").collect()
    })
}

#[test]
fn each_claimed_feature_stands_once_in_the_table_in_order() {
    let [features, others] = rows();
    let features: Vec<_> = features.into_iter().map(|[feature, ..]| feature).collect();
    assert_eq!(features, SUPPORTED_FEATURES);
    assert!(!others.is_empty());
}

#[test]
fn each_feature_names_a_test_that_is_there() {
    let mut files: BTreeMap<String, String> = BTreeMap::new();
    for [feature, file, test] in rows().into_iter().flatten() {
        let path = binary::root().join("tests").join(&file);
        let source = files.entry(file.clone()).or_insert_with(|| std::fs::read_to_string(&path).unwrap_or_default());
        let is_test = |attribute: &str| source.contains(&format!("{attribute}\nasync fn {test}()"));
        let found = is_test("#[tokio::test]") || is_test("#[tokio::test(flavor = \"multi_thread\")]");
        assert!(found, "{feature}: there is no test `{test}` in tests/{file}");
    }
}
