//! docs/problems.md and docs/reasons.md, from the enums that the code uses.

use sluice_model::problem::Code;
use sluice_model::reason::Reason;
use sluice_tests::binary;
use std::fmt::Write;

fn up_to_date(file: &str, generated: &str) {
    let path = binary::root().join("docs").join(file);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, generated).unwrap();
        return;
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == generated, "docs/{file} is not what the code says; UPDATE=1 writes it again");
}

#[test]
fn problems_md_lists_every_code() {
    let mut text = String::from(
        "# Problems\n\nWhat `sluice check`, the log, the metric `sluice_config_problems{code}` and the admin page call by these codes. A code never\nchanges its meaning. Errors leave out the part they name, and of\na route all of the rule that it is in; warnings nothing. Everything else goes on serving.\n\nThis file is generated from `gateway/model/src/problem.rs`.\n",
    );
    let mut group = ' ';
    for code in Code::ALL {
        let this = code.id().as_bytes()["SLUICE-P".len()] as char;
        if this != group {
            group = this;
            let title = match group {
                '0' => "Reading files",
                '1' => "Values",
                '2' => "References",
                '3' => "Listeners and certificates",
                '4' => "Plugins and policies",
                '5' => "Routes",
                '6' => "Clusters",
                other => panic!("group {other} has no title here"),
            };
            write!(text, "\n## {title}\n\n| code | what it is | the way out |\n|---|---|---|\n").unwrap();
        }
        writeln!(text, "| {} | {} | {} |", code.id(), cell(code.title()), cell(code.hint())).unwrap();
    }
    up_to_date("problems.md", &text);
}

#[test]
fn reasons_md_lists_every_reason() {
    let mut text = String::from(
        "# Reasons\n\nWhy an answer was given: the field `reason` of the access log and the label of `sluice_requests_total`. Where a status is given,\nthe gateway itself answered with it.\n\nThis file is generated from `gateway/model/src/reason.rs`.\n\n| reason | status | meaning |\n|---|---|---|\n",
    );
    for reason in Reason::ALL {
        let status = match reason.status() {
            0 => String::new(),
            status => status.to_string(),
        };
        writeln!(text, "| `{reason}` | {status} | {} |", cell(reason.description())).unwrap();
    }
    up_to_date("reasons.md", &text);
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}
