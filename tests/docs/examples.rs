//! Every fenced `yaml` block of the documents goes through `sluice check`.

use sluice_tests::{Folder, binary, guests};
use std::path::PathBuf;
use std::process::Command;

fn documents() -> Vec<PathBuf> {
    let root = binary::root();
    let mut files: Vec<_> = std::fs::read_dir(root.join("docs")).unwrap().map(|e| e.unwrap().path()).collect();
    files.push(root.join("README.md"));
    files.retain(|f| f.extension().is_some_and(|e| e == "md") && f.exists());
    files.sort();
    files
}

/// The fenced blocks of a language, with the line they begin on.
fn blocks(text: &str, language: &str) -> Vec<(usize, String)> {
    let mut blocks = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (n, line) in text.lines().enumerate() {
        match &mut open {
            Some(_) if line.trim_end() == "```" => blocks.extend(open.take()),
            Some((_, block)) => {
                block.push_str(line);
                block.push('\n');
            }
            None if line.trim_end() == format!("```{language}") => open = Some((n + 2, String::new())),
            None => {}
        }
    }
    blocks
}

/// What an example leaves out on purpose: objects that another example, or the reader, has.
const NOT_IN_THE_EXAMPLE: [&str; 9] = [
    "SLUICE-P201",
    "SLUICE-P205",
    "SLUICE-P206",
    "SLUICE-P209",
    "SLUICE-P210",
    "SLUICE-P211",
    "SLUICE-P213",
    "SLUICE-P215",
    "SLUICE-P409",
];

#[test]
fn each_yaml_in_the_documents_reads_without_a_problem_of_its_own() {
    let mut checked = 0;
    let mut wrong = Vec::new();
    for file in documents() {
        let text = std::fs::read_to_string(&file).unwrap();
        for (line, block) in blocks(&text, "yaml") {
            let folder = Folder::new();
            folder.write("example.yaml", &block);
            for name in ["key-auth", "transform"] {
                if block.contains(&format!("{name}.wasm")) {
                    folder.write(&format!("{name}.wasm"), std::fs::read(guests::shipped(name)).unwrap());
                }
            }
            // The reader's own: any that asks the gateway for something will do.
            for name in ["sign-in.wasm", "quota.wasm"] {
                if block.contains(name) {
                    folder.write(name, std::fs::read(guests::module("caller")).unwrap());
                }
            }
            if block.contains("filter-config.wasm") {
                folder.write("filter-config.wasm", std::fs::read(guests::module("filter-config")).unwrap());
            }
            let output =
                Command::new(binary::sluice()).args(["check", "-o", "json"]).arg(folder.path()).output().unwrap();
            let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| {
                panic!("{}:{line}: {e}: {}", file.display(), String::from_utf8_lossy(&output.stderr))
            });
            let problems = report["problems"].as_array().unwrap().iter();
            wrong.extend(
                problems
                    .filter(|p| !NOT_IN_THE_EXAMPLE.contains(&p["code"].as_str().unwrap()))
                    .map(|p| format!("{}:{line}: {p}", file.display())),
            );
            checked += 1;
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(checked >= 5, "only {checked} blocks were found");
}
