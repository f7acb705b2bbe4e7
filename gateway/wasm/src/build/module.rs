//! A module as a component that is known to keep to the contract.

use super::Failure;
use super::image::phases;
use crate::configured::Phases;
use crate::engine::Engine;
use crate::instance::State;
use crate::proxy_wasm;
use crate::schema::ConfigSchema;
use std::sync::Arc;
use wasmparser::{Encoding, Parser, Payload, TypeRef};
use wasmtime::component::{Component, InstancePre, Linker};
use wasmtime_wizer::Wizer;

/// The contract's name, as imports and exports begin with it.
const CONTRACT: &str = "sluice:plugin/";

/// The interface whose functions wait, and the one whose functions do where a store is in a Redis.
const WAITING: &str = "sluice:plugin/outgoing@";
const STORES: &str = "sluice:plugin/store@";
const ROUTING: &str = "sluice:plugin/routing@";

/// A module, checked; what all its configurations share.
pub(super) struct Module {
    /// What its functions are cached under: the module's digest and the engine's compatibility hash.
    pub(super) cache_name: String,
    pub(super) size: usize,
    pub(super) schema: Option<Arc<ConfigSchema>>,
    /// Its phases, as the metrics name them.
    pub(super) phases: Vec<&'static str>,
    pub(super) form: Form,
}

/// By which ABI it runs.
pub(super) enum Form {
    Component(ComponentForm),
    /// A filter of the proxy-wasm ABI.
    Filter(Arc<proxy_wasm::Code>),
}

pub(super) struct ComponentForm {
    pub(super) component: Vec<u8>,
    /// It imports functions that may wait.
    pub(super) waits: bool,
    /// It uses stores.
    pub(super) stores: bool,
    /// It says where requests go.
    pub(super) routes: bool,
    /// The component with exports for its memories and globals, ready to be configured; the error says why no image
    /// can be made of it.
    pub(super) instrumented: Result<InstancePre<State>, String>,
}

impl Module {
    /// Checks `bytes` and compiles what does not depend on a configuration.
    pub(super) fn load(engine: &Engine, cache_name: String, bytes: &[u8]) -> Result<Module, Failure> {
        let size = bytes.len();
        if let Some(version) = proxy_wasm::version(bytes) {
            let code = version.and_then(|version| proxy_wasm::Code::compile(engine, bytes, version));
            let code = Arc::new(code.map_err(Failure::invalid)?);
            let phases = Phases::of_filter(code.phases()).names();
            let schema = schema_of(bytes)?;
            return Ok(Module { cache_name, size, schema, phases, form: Form::Filter(code) });
        }
        let component = componentize(bytes).map_err(Failure::invalid)?;
        let schema = schema_of(&component)?;
        let (compiled, pre, reason) = match instrument(&component) {
            Ok(code) => {
                let (compiled, pre) = prepare(engine, &engine.linker, &code)?;
                (compiled, pre, None)
            }
            Err(reason) => {
                let (compiled, pre) = prepare(engine, &engine.linker, &component)?;
                (compiled, pre, Some(reason))
            }
        };
        let [waits, stores, routes] = [WAITING, STORES, ROUTING].map(|interface| imports(engine, &compiled, interface));
        let phases = phases(&pre)?;
        let instrumented = reason.map_or(Ok(pre), Err);
        let form = Form::Component(ComponentForm { component, waits, stores, routes, instrumented });
        Ok(Module { cache_name, size, schema, phases: phases.names(), form })
    }
}

fn schema_of(module: &[u8]) -> Result<Option<Arc<ConfigSchema>>, Failure> {
    let schema = ConfigSchema::from_module(module).map_err(|error| Failure::invalid(error.to_string()))?;
    Ok(schema.map(Arc::new))
}

/// The component with exports for its memories and globals; the error says why no image can be made of it: most often table
/// instructions, which no image can hold.
pub(crate) fn instrument(component: &[u8]) -> Result<Vec<u8>, String> {
    // An image's memory is as large as it was when it was taken, which whoever imports it by its first size can't take.
    for payload in Parser::new(0).parse_all(component) {
        if let Ok(Payload::ImportSection(section)) = payload
            && section.into_imports().flatten().any(|import| matches!(import.ty, TypeRef::Memory(_)))
        {
            return Err("one of its modules imports the memory of another".to_owned());
        }
    }
    let instrumented = Wizer::new().instrument_component(component);
    instrumented.map(|(_, code)| code).map_err(|reason| format!("{reason:#}"))
}

/// A core module that holds its WIT (what `cargo build` makes of a guest) becomes a component; a component stays. The error
/// is a sentence about the source.
pub fn componentize(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let version = Parser::new(0).parse_all(bytes).next();
    match version {
        Some(Ok(Payload::Version { encoding: Encoding::Component, .. })) => Ok(bytes.to_vec()),
        Some(Ok(Payload::Version { encoding: Encoding::Module, .. })) => {
            encode(bytes).map_err(|error| format!("the module does not fit the contract it was built with: {error}"))
        }
        _ => Err("the source is not a WebAssembly module or component".to_owned()),
    }
}

fn encode(module: &[u8]) -> Result<Vec<u8>, String> {
    let text = |error: &dyn std::fmt::Display| format!("{error:#}");
    let encoder = wit_component::ComponentEncoder::default().validate(true);
    let mut encoder = encoder.module(module).map_err(|error| text(&error))?;
    encoder.encode().map_err(|error| text(&error))
}

fn imports(engine: &Engine, component: &Component, interface: &str) -> bool {
    let ty = component.component_type();
    ty.imports(&engine.engine).any(|(name, _)| name.starts_with(interface))
}

/// Compiles a component and holds its imports and exports to the contract.
pub(super) fn prepare(
    engine: &Engine,
    linker: &Linker<State>,
    component: &[u8],
) -> Result<(Component, InstancePre<State>), Failure> {
    let component = Component::new(&engine.engine, component)
        .map_err(|error| Failure::invalid(format!("it does not compile: {error:#}")))?;
    let ty = component.component_type();
    let foreign: Vec<_> = ty
        .imports(&engine.engine)
        .map(|(name, _)| name.to_owned())
        .filter(|name| !name.starts_with(CONTRACT))
        .collect();
    if !foreign.is_empty() {
        return Err(Failure::invalid(format!(
            "it imports {}, which the gateway does not offer: build it for wasm32-unknown-unknown, without WASI",
            foreign.join(", ")
        )));
    }
    let pre = linker
        .instantiate_pre(&component)
        .map_err(|error| Failure::invalid(format!("its imports do not fit the contract: {error:#}")))?;
    Ok((component, pre))
}
