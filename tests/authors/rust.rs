//! New, build and test in Rust; what goes wrong says so and takes nothing away.

use crate::project::{ALL_PASSED, Project, all, run, text};

#[test]
fn a_new_project_passes_and_says_where_it_does_not_any_more() {
    let project = Project::new("tenant-check", "rust");
    let tested = project.test();
    assert!(tested.status.success() && text(&tested).contains(ALL_PASSED), "{}", all(&tested));
    let said = all(&tested);
    assert_eq!(said.matches("a_request_with_the_header_goes_on ... ok").count(), 2, "cargo test ran twice: {said}");
    assert!(said.contains("the module was called 2 times"), "{said}");

    // A case that the plugin does not meet, with its place.
    project.change("tests/header.yaml", "status: 403\n", "status: 401\n");
    let tested = project.test();
    assert_eq!(tested.status.code(), Some(1));
    let said = text(&tested);
    assert!(said.contains("FAIL  a request without the header is refused  (tests/header.yaml:3)"), "{said}");
    assert!(said.contains("status: expected `401`, got `403`"), "{said}");
    assert!(said.contains("7 cases: 6 passed, 1 failed"), "{said}");

    // Only some of them.
    let path = project.path.to_str().unwrap();
    let tested = run(&["plugin", "test", "several values", "--project", path]);
    assert!(tested.status.success(), "{}", all(&tested));
    assert!(text(&tested).contains("1 case: 1 passed, 0 failed, 6 left out"), "{}", text(&tested));

    // A configuration that changed, and its schema.
    project.change(
        "src/lib.rs",
        "    pub header: String,\n}",
        "    pub header: String,\n    /// Unused.\n    pub more: Option<u8>,\n}",
    );
    let tested = project.test();
    assert_eq!(tested.status.code(), Some(1));
    assert!(all(&tested).contains("is not the schema of the configuration any more"), "{}", all(&tested));
    let tested = run(&["plugin", "test", "--update-schema", "--project", path]);
    assert!(project.read("schema.json").contains("\"more\""), "{}", all(&tested));

    // What does not compile: cargo says why, and the module that was built stays.
    let before = std::fs::read(project.path.join("build/plugin.wasm")).unwrap();
    project.change("src/lib.rs", "Decision::Continue\n", "Decision::Contine\n");
    let built = run(&["plugin", "build", "--project", path]);
    assert_eq!(built.status.code(), Some(1));
    assert!(all(&built).contains("Contine") && all(&built).contains("cargo build failed"), "{}", all(&built));
    assert_eq!(std::fs::read(project.path.join("build/plugin.wasm")).unwrap(), before);
}

#[test]
fn a_case_that_is_wrong_is_named_with_its_line() {
    let project = Project::new("demo", "rust");
    project.change("tests/header.yaml", "  decision: respond\n  status: 403\n", "  decison: respond\n  status: 403\n");
    let module = sluice_tests::guests::shipped("key-auth");
    let arguments =
        ["plugin", "test", "--project", project.path.to_str().unwrap(), "--module", module.to_str().unwrap()];
    let tested = run(&arguments);
    assert_eq!(tested.status.code(), Some(1));
    assert!(all(&tested).contains("tests/header.yaml:7: expect.decison: unknown field"), "{}", all(&tested));
    std::fs::remove_file(project.path.join("tests/header.yaml")).unwrap();
    let tested = run(&arguments);
    assert!(all(&tested).contains("tests holds no cases"), "{}", all(&tested));
}

#[test]
fn a_folder_that_is_no_project_and_a_name_that_is_none_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let built = run(&["plugin", "build", "--project", path]);
    assert_eq!(built.status.code(), Some(1));
    assert!(all(&built).contains("is no plugin's project: it has none of src/lib.rs"), "{}", all(&built));
    let made = run(&["plugin", "new", &format!("{path}/Demo_1")]);
    assert_eq!(made.status.code(), Some(1));
    assert!(all(&made).contains("`Demo_1` is no name for a plugin"), "{}", all(&made));
    std::fs::write(folder.path().join("kept"), "").unwrap();
    let made = run(&["plugin", "new", path]);
    assert_eq!(made.status.code(), Some(1), "{}", all(&made));
}

#[test]
fn the_case_in_the_documents_is_met_by_the_plugin_that_it_is_about() {
    let page = std::fs::read_to_string(sluice_tests::binary::root().join("docs/plugins-languages.md")).unwrap();
    let case = page.split("```yaml case\n").nth(1).and_then(|rest| rest.split("\n```").next()).expect("a case");
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("tests")).unwrap();
    std::fs::write(folder.path().join("tests/case.yaml"), case).unwrap();
    let module = sluice_tests::guests::shipped("key-auth");
    let tested =
        run(&["plugin", "test", "--project", folder.path().to_str().unwrap(), "--module", module.to_str().unwrap()]);
    assert!(tested.status.success() && text(&tested).contains("1 case: 1 passed"), "{}", all(&tested));
}
