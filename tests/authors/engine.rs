//! Tests of plugins in Rust, the same natively and against the module in the gateway's engine; and what they say where they
//! can't run there.

use crate::project::{Project, all, cache, run, sluice};
use sluice_tests::{binary, guests};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// `oidc` looks into its own type; each of the hundreds of configurations of `request-validation` takes a debug build of the
/// engine a second.
const LEFT_OUT: [&str; 2] = ["oidc", "request-validation"];

/// `cargo test` in a folder, natively.
fn cargo_test(folder: &Path) -> Command {
    let mut command = Command::new("cargo");
    command.arg("test").current_dir(folder).env("CARGO_TARGET_DIR", cache().join("target"));
    for variable in ["CARGO", "RUSTC", "RUSTFLAGS", "SLUICE_PLUGIN_WASM", "SLUICE"] {
        command.env_remove(variable);
    }
    command
}

/// The same against a module, or a folder of them.
fn in_engine(command: &mut Command, module: &Path) -> Output {
    command
        .env("SLUICE_PLUGIN_WASM", module)
        .env("SLUICE", binary::sluice())
        .env("XDG_STATE_HOME", cache().join("state"))
        .output()
        .expect("cargo starts")
}

/// The tests that passed.
fn passed(output: &Output) -> Vec<String> {
    let text = all(output);
    let names = text.lines().filter_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... ok"));
    let mut names: Vec<String> = names.map(str::to_owned).collect();
    names.sort();
    names
}

#[test]
fn the_tests_of_the_policies_that_ship_hold_in_the_engine_as_well() {
    let mut command = cargo_test(&binary::root().join("plugins"));
    command.args(["--locked", "--lib"]);
    for policy in guests::policies().iter().filter(|policy| !LEFT_OUT.contains(&policy.as_str())) {
        command.args(["-p", policy]);
    }
    let natively = command.output().unwrap();
    assert!(natively.status.success(), "{}", all(&natively));
    let tally = tempfile::NamedTempFile::new().unwrap();
    let modules = guests::shipped("key-auth");
    let engine = in_engine(command.env("SLUICE_PLUGIN_HOST_TALLY", tally.path()), modules.parent().unwrap());
    assert!(engine.status.success(), "{}", all(&engine));
    assert_eq!(passed(&natively), passed(&engine));
    let calls = std::fs::metadata(tally.path()).unwrap().len();
    assert!(calls > 300, "they ran in the engine: {calls} calls");
}

#[test]
fn a_module_that_does_other_than_its_source_fails() {
    let project = Project::new("both-ways", "rust");
    let built = run(&["plugin", "build", "--project", project.path.to_str().unwrap()]);
    assert!(built.status.success(), "{}", all(&built));
    let module = project.path.join("build/plugin.wasm");
    let engine = in_engine(&mut cargo_test(&project.path), &module);
    assert!(engine.status.success(), "{}", all(&engine));

    // Another answer, that the module which was built before does not give.
    project.change("src/lib.rs", "Reply::new(403)", "Reply::new(401)");
    let natively = cargo_test(&project.path).output().unwrap();
    assert!(natively.status.success(), "{}", all(&natively));
    let engine = in_engine(&mut cargo_test(&project.path), &module);
    let said = all(&engine);
    assert_eq!(engine.status.code(), Some(101), "{said}");
    assert!(said.contains("a_request_without_the_header_is_refused ... FAILED"), "{said}");
    assert!(said.contains("status: 403") && said.contains("status: 401"), "{said}");
    assert!(said.contains("a_request_with_the_header_goes_on ... ok"), "{said}");

    // A phase that the module does not have.
    project.change("src/lib.rs", "RequireHeader: request, response", "RequireHeader: response");
    let built = run(&["plugin", "build", "--project", project.path.to_str().unwrap()]);
    assert!(built.status.success(), "{}", all(&built));
    let said = all(&in_engine(&mut cargo_test(&project.path), &module));
    assert!(said.contains("the module has no phase `request`: its `export!` does not name it"), "{said}");
    project.change("src/lib.rs", "RequireHeader: response", "RequireHeader: request, response");

    // What only the module does.
    let panics = "if cfg!(target_arch = \"wasm32\") { panic!(\"not with {value}\") }\n";
    let attribute = "        // For the access log,";
    project.change("src/lib.rs", attribute, &format!("{panics}{attribute}"));
    let panics = "if cfg!(target_arch = \"wasm32\") && config.header.is_empty() { panic!(\"no name\") }\n";
    let refused = "        if config.header.is_empty() {";
    project.change("src/lib.rs", refused, &format!("{panics}{refused}"));
    project.change("tests/header.yaml", "status: 403\n", "status: 401\n");
    let tested = project.test();
    let said = all(&tested);
    assert_eq!(tested.status.code(), Some(1), "{said}");
    assert!(said.contains("a_request_with_the_header_goes_on ... ok"), "natively: {said}");
    assert!(said.contains("a_request_with_the_header_goes_on ... FAILED"), "in the engine: {said}");
    assert!(said.contains("plugin tests/plugin: panic in request_headers"), "{said}");
    assert!(said.contains("not with acme"), "what it logged: {said}");
    assert!(said.contains("an_empty_name_is_refused ... FAILED"), "a panic is no refusal: {said}");
    assert!(said.contains("panic in configure") && said.contains("no name"), "{said}");
    assert!(!said.contains("cases:"), "the cases were not played: {said}");
}

/// The tests of a project, as a program: what is wrong with its surroundings can be all that it has.
struct Tests(PathBuf);

impl Tests {
    fn of(project: &Project) -> Tests {
        let built = cargo_test(&project.path).arg("--no-run").output().unwrap();
        let said = all(&built);
        let path = said.lines().find_map(|line| line.split_once("unittests src/lib.rs (")?.1.strip_suffix(')'));
        Tests(path.unwrap_or_else(|| panic!("no program: {said}")).into())
    }

    /// What they say, which fails.
    fn fail(&self, module: &Path, program: Option<&Path>) -> String {
        let mut command = Command::new(&self.0);
        command.arg("a_request_with_the_header_goes_on").env("SLUICE_PLUGIN_WASM", module).env("PATH", "");
        command.env_remove("SLUICE").env("XDG_STATE_HOME", cache().join("state"));
        if let Some(program) = program {
            command.env("SLUICE", program);
        }
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(101), "{}", all(&output));
        all(&output)
    }
}

#[test]
fn what_keeps_tests_from_the_engine_is_named() {
    let project = Project::new("kept-from-it", "rust");
    let tests = Tests::of(&project);
    let place = |name: &str| project.path.join(name);
    let module = guests::shipped("key-auth");
    let said = tests.fail(&module, None);
    assert!(said.contains("there is no `sluice` on the PATH") && said.contains("name the program in SLUICE"), "{said}");
    let said = tests.fail(&module, Some(Path::new("/nonexistent/sluice")));
    assert!(said.contains("SLUICE: `/nonexistent/sluice` can't be started"), "{said}");

    // Other programs, one of them an older or newer `sluice`.
    let program = |name: &str, script: &str| {
        std::fs::write(place(name), format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(place(name), std::fs::Permissions::from_mode(0o755)).unwrap();
        place(name)
    };
    let later = program("later", "echo '{\"sluice_plugin_host\":99,\"sluice\":\"9.9.9\"}'; read line");
    let said = tests.fail(&module, Some(&later));
    assert!(said.contains("is Sluice 9.9.9, and speaks version 99 of the protocol of tests"), "{said}");
    assert!(said.contains("sluice plugin sdk"), "{said}");
    let said = tests.fail(&module, Some(&program("other", "echo hello; read line")));
    assert!(said.contains("other plugin host` is no `sluice`: it said `hello`"), "{said}");
    let said = tests.fail(&module, Some(&program("earlier", "exit 2")));
    assert!(said.contains("earlier plugin host` has ended (exit status: 2)"), "{said}");

    // What is no module of a plugin, and that of another.
    let sluice = binary::sluice();
    let said = tests.fail(&place("missing.wasm"), Some(sluice));
    assert!(said.contains("missing.wasm: No such file"), "{said}");
    let said = tests.fail(&place("Cargo.toml"), Some(sluice));
    assert!(said.contains("Cargo.toml: ") && said.contains("WebAssembly"), "{said}");
    let filter = b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x03\x02\x01\0\x07\x1b\x01\x17proxy_abi_version_0_2_1\0\0\x0a\x04\x01\x02\0\x0b";
    std::fs::write(place("filter.wasm"), filter).unwrap();
    let said = tests.fail(&place("filter.wasm"), Some(sluice));
    assert!(said.contains("filter.wasm: this is a filter of the proxy-wasm ABI (0.2.1)"), "{said}");
    let said = tests.fail(&place("src"), Some(sluice));
    assert!(said.contains("src/kept_from_it.wasm: No such file"), "{said}");
    let said = tests.fail(&module, Some(sluice));
    assert!(said.contains("consumers") && said.contains("a_request_with_the_header_goes_on ... FAILED"), "{said}");
}

#[test]
fn the_host_speaks_with_tests_alone() {
    let mut host = sluice(&["plugin", "host"]);
    let mut host = host.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    host.stdin.take().unwrap().write_all(b"hello\n").unwrap();
    let output = host.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(all(&output).contains("this is no message of a plugin's tests"), "{}", all(&output));
}
