//! A core module of the ABI: told by the export that names its version, held to the functions that there are.

use super::abi::Version;
use super::state::VmState;
use crate::configured::Phase;
use crate::engine::Engine;
use wasmparser::{Encoding, Parser, Payload};
use wasmtime::InstancePre;

/// Compiled code with its imports resolved.
pub(crate) struct Code {
    pub(super) pre: InstancePre<VmState>,
    pub(super) version: Version,
    phases: Vec<Phase>,
    calls_backends: bool,
}

/// The version of the ABI that a module says it is of; none of another kind of file.
pub(crate) fn version(bytes: &[u8]) -> Option<Result<Version, String>> {
    let mut marker = None;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.ok()? {
            Payload::Version { encoding: Encoding::Component, .. } => return None,
            Payload::ExportSection(section) => {
                let mut names = section.into_iter().flatten().map(|export| export.name);
                marker = names.find(|name| name.starts_with("proxy_abi_version_")).map(str::to_owned);
                break;
            }
            _ => {}
        }
    }
    let marker = marker?;
    let known = Version::ALL.into_iter().find(|version| version.marker() == marker);
    Some(known.ok_or_else(|| {
        let version = marker.trim_start_matches("proxy_abi_version_").replace('_', ".");
        format!("it is of version {version} of the proxy-wasm ABI, the gateway has 0.1.0, 0.2.0 and 0.2.1")
    }))
}

impl Code {
    /// Compiles a module. The error is a sentence about it.
    pub(crate) fn compile(engine: &Engine, bytes: &[u8], version: Version) -> Result<Code, String> {
        let module =
            wasmtime::Module::new(&engine.engine, bytes).map_err(|error| format!("it does not compile: {error:#}"))?;
        let pre = engine
            .filters
            .instantiate_pre(&module)
            .map_err(|error| format!("its imports do not fit the proxy-wasm ABI: {error:#}"))?;
        let exports = |name: &str| module.get_export(name).is_some();
        if !exports("memory") {
            return Err("it exports no `memory`".to_owned());
        }
        if !exports("proxy_on_memory_allocate") && !exports("malloc") {
            return Err("it exports neither `proxy_on_memory_allocate` nor `malloc`".to_owned());
        }
        // The end of a context is its log phase, whatever the filter does there.
        let mut phases = Vec::new();
        for (phase, callback) in [
            (Phase::RequestHeaders, "proxy_on_request_headers"),
            (Phase::RequestBody, "proxy_on_request_body"),
            (Phase::ResponseHeaders, "proxy_on_response_headers"),
            (Phase::ResponseBody, "proxy_on_response_body"),
            (Phase::ResponseTrailers, "proxy_on_response_trailers"),
        ] {
            if exports(callback) {
                phases.push(phase);
            }
        }
        phases.push(Phase::Log);
        let calls_backends =
            module.imports().any(|import| matches!(import.name(), "proxy_http_call" | "proxy_grpc_call"));
        Ok(Code { pre, version, phases, calls_backends })
    }

    pub(crate) fn phases(&self) -> &[Phase] {
        &self.phases
    }

    pub(crate) fn calls_backends(&self) -> bool {
        self.calls_backends
    }
}
