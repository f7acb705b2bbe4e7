//! How the program is linked.

use std::process::Command;

/// The first C library that reads packed relocations.
const GLIBC: (u32, u32) = (2, 36);

/// Packs the relocations of the program: a megabyte of pointers in tables that are read once at the start, and that each
/// process then has in memory, become some kilobytes. Where this machine's C library is older, or its version cannot be
/// told, they stay as they are.
fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var("TARGET") == std::env::var("HOST") && glibc().is_some_and(|version| version >= GLIBC) {
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

/// `getconf` says `glibc 2.41`, or nothing where there is another C library.
fn glibc() -> Option<(u32, u32)> {
    let said = Command::new("getconf").arg("GNU_LIBC_VERSION").output().ok()?;
    let said = String::from_utf8(said.stdout).ok()?;
    let (major, minor) = said.trim().strip_prefix("glibc ")?.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}
