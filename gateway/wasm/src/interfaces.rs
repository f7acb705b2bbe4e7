//! What a plugin's file says of itself, read without running it: for tools that show or make plugins.

use crate::build::{componentize, instrument};
use std::collections::BTreeSet;
use wasmparser::{Encoding, Parser, Payload};

/// What a file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A component: what componentizing toolchains make.
    Component,
    /// A core module that carries its WIT: what `cargo build` makes. The gateway makes a component of it.
    Module,
    /// A core module of the proxy-wasm ABI, with the version it names: `0.2.1`.
    ProxyWasm(String),
}

/// The interfaces of a plugin's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interfaces {
    pub kind: FileKind,
    /// Names of the interfaces that it asks for: `sluice:plugin/types@0.1.0`. Of a proxy-wasm module, its functions.
    pub imports: BTreeSet<String>,
    /// Names of the interfaces that it offers.
    pub exports: BTreeSet<String>,
}

impl Interfaces {
    /// # Errors
    /// A sentence, as the gateway's problems have it, where `bytes` are no WebAssembly, or don't fit the contract that they
    /// carry.
    pub fn of(bytes: &[u8]) -> Result<Interfaces, String> {
        let is_module = matches!(
            Parser::new(0).parse_all(bytes).next(),
            Some(Ok(Payload::Version { encoding: Encoding::Module, .. }))
        );
        if is_module {
            let core = read(bytes, FileKind::Module)?;
            let abi = core.exports.iter().find_map(|name| name.strip_prefix("proxy_abi_version_"));
            if let Some(version) = abi {
                let kind = FileKind::ProxyWasm(version.replace('_', "."));
                return Ok(Interfaces { kind, ..core });
            }
        }
        let component = componentize(bytes)?;
        read(&component, if is_module { FileKind::Module } else { FileKind::Component })
    }
}

/// Why no configured image can be made of a plugin's file, so that its instances are pooled whatever its Plugin says; none
/// where one can.
pub fn image_obstacle(bytes: &[u8]) -> Option<String> {
    let component = componentize(bytes).ok()?;
    instrument(&component).err()
}

/// The imports and exports of the outermost module or component.
fn read(bytes: &[u8], kind: FileKind) -> Result<Interfaces, String> {
    let broken = |error: wasmparser::BinaryReaderError| format!("the source can't be read: {error}");
    let (mut imports, mut exports) = (BTreeSet::new(), BTreeSet::new());
    let mut depth = 0usize;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(broken)? {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(section) if depth == 0 => {
                for import in section {
                    imports.insert(import.map_err(broken)?.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(section) if depth == 0 => {
                for export in section {
                    exports.insert(export.map_err(broken)?.name.name.to_owned());
                }
            }
            Payload::ImportSection(section) if depth == 0 => {
                for import in section.into_imports() {
                    let import = import.map_err(broken)?;
                    imports.insert(format!("{}.{}", import.module, import.name));
                }
            }
            Payload::ExportSection(section) if depth == 0 => {
                for export in section {
                    exports.insert(export.map_err(broken)?.name.to_owned());
                }
            }
            _ => {}
        }
    }
    Ok(Interfaces { kind, imports, exports })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_outermost_interfaces_count() {
        let component = wat::parse_str(
            r#"(component
                (import "sluice:plugin/logging@0.1.0" (instance))
                (core module (import "a" "b" (func)) (export "inner" (func 0)))
                (component $nested (import "other:thing/x" (instance)) (export "y" (instance 0)))
                (instance $made)
                (export "sluice:plugin/log@0.1.0" (instance $made))
            )"#,
        )
        .unwrap();
        let interfaces = Interfaces::of(&component).unwrap();
        assert_eq!(interfaces.kind, FileKind::Component);
        assert_eq!(interfaces.imports.iter().collect::<Vec<_>>(), ["sluice:plugin/logging@0.1.0"]);
        assert_eq!(interfaces.exports.iter().collect::<Vec<_>>(), ["sluice:plugin/log@0.1.0"]);
    }

    #[test]
    fn a_proxy_wasm_module_is_told_by_its_abi() {
        let module = wat::parse_str(
            r#"(module
                (import "env" "proxy_log" (func (param i32 i32 i32) (result i32)))
                (func (export "proxy_abi_version_0_2_1"))
            )"#,
        )
        .unwrap();
        let interfaces = Interfaces::of(&module).unwrap();
        assert_eq!(interfaces.kind, FileKind::ProxyWasm("0.2.1".into()));
        assert_eq!(interfaces.imports.iter().collect::<Vec<_>>(), ["env.proxy_log"]);
    }

    #[test]
    fn what_is_no_webassembly_is_said_so() {
        let error = Interfaces::of(b"#!/bin/sh").unwrap_err();
        assert_eq!(error, "the source is not a WebAssembly module or component");
    }
}
