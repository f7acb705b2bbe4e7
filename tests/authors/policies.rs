//! The policies that ship, by the authors' own means: the cases in each one's folder, played with its module.

use crate::project::{all, run, text};
use sluice_tests::{binary, guests};

#[test]
fn each_policy_that_ships_meets_its_cases() {
    for policy in guests::policies() {
        let (folder, module) = (binary::root().join("plugins").join(&policy), guests::shipped(&policy));
        let arguments = ["plugin", "test", "--project", folder.to_str().unwrap(), "--module", module.to_str().unwrap()];
        let tested = run(&arguments);
        assert!(tested.status.success() && text(&tested).contains(" 0 failed"), "{policy}: {}", all(&tested));
    }
}
