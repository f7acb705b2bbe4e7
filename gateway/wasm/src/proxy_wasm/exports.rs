//! The guest's callbacks. Each is optional; one of another type than the ABI's is an error of its module.

use wasmtime::{Instance, Memory, Store, TypedFunc, WasmParams, WasmResults};

use super::state::VmState;

/// Both forms of the callback for header fields: version 0.1.0 does not say whether the message ends with them.
#[derive(Clone)]
pub(super) enum OnHeaders {
    WithEnd(TypedFunc<(u32, u32, u32), u32>),
    WithoutEnd(TypedFunc<(u32, u32), u32>),
}

impl OnHeaders {
    pub(super) fn call(
        &self,
        store: &mut Store<VmState>,
        context: u32,
        fields: u32,
        end: bool,
    ) -> wasmtime::Result<u32> {
        match self {
            OnHeaders::WithEnd(callback) => callback.call(store, (context, fields, u32::from(end))),
            OnHeaders::WithoutEnd(callback) => callback.call(store, (context, fields)),
        }
    }
}

/// Root context, number of the call, and sizes of fields, body and trailers.
pub(super) type OnCallResponse = TypedFunc<(u32, u32, u32, u32, u32), ()>;

#[derive(Clone)]
pub(super) struct Exports {
    pub(super) memory: Memory,
    pub(super) allocate: TypedFunc<u32, u32>,
    pub(super) initialize: Option<TypedFunc<(), ()>>,
    pub(super) main: Option<TypedFunc<(u32, u32), u32>>,
    pub(super) start: Option<TypedFunc<(), ()>>,
    pub(super) on_context_create: Option<TypedFunc<(u32, u32), ()>>,
    pub(super) on_vm_start: Option<TypedFunc<(u32, u32), u32>>,
    pub(super) on_configure: Option<TypedFunc<(u32, u32), u32>>,
    pub(super) on_request_headers: Option<OnHeaders>,
    pub(super) on_response_headers: Option<OnHeaders>,
    pub(super) on_request_body: Option<TypedFunc<(u32, u32, u32), u32>>,
    pub(super) on_response_body: Option<TypedFunc<(u32, u32, u32), u32>>,
    pub(super) on_response_trailers: Option<TypedFunc<(u32, u32), u32>>,
    pub(super) on_http_call_response: Option<OnCallResponse>,
    pub(super) on_grpc_receive: Option<TypedFunc<(u32, u32, u32), ()>>,
    pub(super) on_grpc_close: Option<TypedFunc<(u32, u32, u32), ()>>,
    pub(super) on_tick: Option<TypedFunc<u32, ()>>,
    pub(super) on_queue_ready: Option<TypedFunc<(u32, u32), ()>>,
    pub(super) on_done: Option<TypedFunc<u32, u32>>,
    pub(super) on_log: Option<TypedFunc<u32, ()>>,
    pub(super) on_delete: Option<TypedFunc<u32, ()>>,
}

/// Looks exports up in an instance.
struct Found<'s> {
    store: &'s mut Store<VmState>,
    instance: Instance,
}

impl Found<'_> {
    fn function<P: WasmParams, R: WasmResults>(&mut self, name: &str) -> Result<Option<TypedFunc<P, R>>, String> {
        let Some(function) = self.instance.get_func(&mut *self.store, name) else { return Ok(None) };
        let typed = function.typed(&*self.store);
        typed.map(Some).map_err(|_| format!("its `{name}` has not the type that the ABI says"))
    }

    fn on_headers(&mut self, name: &str) -> Result<Option<OnHeaders>, String> {
        let with_end = self.function(name).map(|callback| callback.map(OnHeaders::WithEnd));
        with_end.or_else(|_| self.function(name).map(|callback| callback.map(OnHeaders::WithoutEnd)))
    }
}

impl Exports {
    /// The error is a sentence about the module.
    pub(super) fn of(store: &mut Store<VmState>, instance: Instance) -> Result<Exports, String> {
        let memory = instance.get_memory(&mut *store, "memory").ok_or("it exports no `memory`")?;
        let mut found = Found { store, instance };
        let allocate = match found.function("proxy_on_memory_allocate")? {
            Some(allocate) => Some(allocate),
            None => found.function("malloc")?,
        };
        Ok(Exports {
            memory,
            allocate: allocate.ok_or("it exports neither `proxy_on_memory_allocate` nor `malloc`")?,
            initialize: found.function("_initialize")?,
            // Of whatever type another language gives it, it is not the ABI's.
            main: found.function("main").unwrap_or_default(),
            start: found.function("_start")?,
            on_context_create: found.function("proxy_on_context_create")?,
            on_vm_start: found.function("proxy_on_vm_start")?,
            on_configure: found.function("proxy_on_configure")?,
            on_request_headers: found.on_headers("proxy_on_request_headers")?,
            on_response_headers: found.on_headers("proxy_on_response_headers")?,
            on_request_body: found.function("proxy_on_request_body")?,
            on_response_body: found.function("proxy_on_response_body")?,
            on_response_trailers: found.function("proxy_on_response_trailers")?,
            on_http_call_response: found.function("proxy_on_http_call_response")?,
            on_grpc_receive: found.function("proxy_on_grpc_receive")?,
            on_grpc_close: found.function("proxy_on_grpc_close")?,
            on_tick: found.function("proxy_on_tick")?,
            on_queue_ready: found.function("proxy_on_queue_ready")?,
            on_done: found.function("proxy_on_done")?,
            on_log: found.function("proxy_on_log")?,
            on_delete: found.function("proxy_on_delete")?,
        })
    }
}
