//! That SDK declares the host's functions without the module that they are in; a linker of today wants to be told.

fn main() {
    println!("cargo::rustc-link-arg=--allow-undefined");
    println!("cargo::rerun-if-changed=build.rs");
}
