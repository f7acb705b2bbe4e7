//! A live instance: its store, what a call lends it, and the calls themselves.

use crate::aside::Late;
use crate::attributes::Attributes;
use crate::build::Image;
use crate::configured::{Export, Phase, Phases};
use crate::decision::{BodyOutcome, BodyRequest, Decision, OverLimit};
use crate::error::TrapKind;
use crate::exchange::{Exchange, Summary};
use crate::guest::{self, Chosen};
use crate::limits::{Limits, MemoryUsedUp};
use crate::metrics::PluginMetrics;
use crate::outgoing::FetchErrorKind;
use bytes::Bytes;
use futures::FutureExt;
use sluice_model::plugin::PluginKey;
use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;
use wasmtime::component::{Instance, ResourceTable, TypedFunc};
use wasmtime::{PoolConcurrencyLimitError, Store, Trap};

/// Replies and decisions that a guest may hold at a time: it needs one of each.
const MAX_OWNED: usize = 16;

/// Bytes of one log line of a guest.
const MAX_LOG_LINE: usize = 4_096;

/// Log lines of one plugin within a second.
const MAX_LOG_RATE: u64 = 100;

/// What a call is about. Travels with the exchange, so that it can run on another thread.
pub(crate) enum Call {
    RequestHeaders,
    RequestBody(Bytes),
    RequestStream(Piece),
    ResponseHeaders,
    ResponseBody(Bytes),
    ResponseStream(Piece),
    /// Of filters of the proxy-wasm ABI: bytes of a message's body, and whether it ends with them.
    RequestPiece(Bytes, bool),
    ResponsePiece(Bytes, bool),
    ResponseTrailers,
    Log(Summary),
}

/// Bytes of a message's body, and whether it begins and ends with them.
pub(crate) struct Piece {
    pub(crate) bytes: Bytes,
    pub(crate) first: bool,
    pub(crate) last: bool,
}

impl Call {
    /// The function of the contract that it calls, or that a callback of a filter is nearest to.
    pub(crate) fn function(&self) -> Export {
        match self {
            Call::RequestHeaders => Export::RequestHeaders,
            Call::RequestBody(_) => Export::RequestBody,
            Call::RequestStream(_) | Call::RequestPiece(..) => Export::RequestPiece,
            Call::ResponseHeaders => Export::ResponseHeaders,
            Call::ResponseBody(_) => Export::ResponseBody,
            Call::ResponseStream(_) | Call::ResponsePiece(..) => Export::ResponsePiece,
            Call::ResponseTrailers => Export::ResponseTrailers,
            Call::Log(_) => Export::Log,
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        self.function().phase()
    }
}

/// What the host's side of the contract works on: the data of a store.
pub(crate) struct State {
    pub(crate) exchange: Exchange,
    /// None outside of a call: while a plugin is configured, nothing but logging is allowed.
    pub(crate) phase: Option<Export>,
    /// A body, or a piece of one that is the first or the last.
    pub(crate) body: Bytes,
    pub(crate) is_first: bool,
    pub(crate) is_last: bool,
    pub(crate) replacement: Option<Bytes>,
    /// Bytes of a body that is read for the plugin, or that it sets.
    pub(crate) body_buffer: u64,
    pub(crate) summary: Summary,
    /// When the call must be over, where it may wait.
    pub(crate) until: Option<Instant>,
    pub(crate) owned: ResourceTable,
    pub(crate) limits: Limits,
    pub(crate) log: Arc<PluginLog>,
}

impl State {
    pub(crate) fn new(limits: Limits, body_buffer: u64, log: Arc<PluginLog>) -> State {
        let mut owned = ResourceTable::new();
        owned.set_max_capacity(MAX_OWNED);
        State {
            exchange: Exchange::default(),
            phase: None,
            body: Bytes::new(),
            is_first: false,
            is_last: false,
            replacement: None,
            body_buffer,
            summary: Summary::default(),
            until: None,
            owned,
            limits,
            log,
        }
    }

    pub(crate) fn attributes(&mut self) -> wasmtime::Result<&mut Attributes> {
        match self.phase {
            Some(_) => Ok(&mut self.exchange.attributes),
            None => Err(broken("attributes belong to an exchange: there is none in configure or a self-test")),
        }
    }
}

/// A store that is bounded by its limits. Its deadline is the caller's to set.
pub(crate) fn store(engine: &wasmtime::Engine, state: State) -> Store<State> {
    let most = state.limits.memory();
    let mut store = Store::new(engine, state);
    store.limiter(|state| &mut state.limits);
    // What the host copies for one call is no more than the guest could have in its memory once: else a list whose texts are
    // all the same bytes would take the host's.
    store.set_hostcall_fuel(most);
    store
}

/// A future that has nothing to wait for: what runs while a plugin is made ready calls no backend.
pub(crate) fn at_once<T>(future: impl Future<Output = wasmtime::Result<T>>) -> wasmtime::Result<T> {
    future.now_or_never().unwrap_or_else(|| Err(broken("it waits where nothing may wait")))
}

/// The guest used the contract wrongly: a trap of its own kind.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct ContractBroken(pub(crate) String);

pub(crate) fn broken(message: impl Into<String>) -> wasmtime::Error {
    wasmtime::Error::from(ContractBroken(message.into()))
}

/// Where a plugin's own lines go, at most 100 a second.
#[derive(Debug)]
pub(crate) struct PluginLog {
    plugin: PluginKey,
    metrics: Arc<PluginMetrics>,
    since: Instant,
    /// The second that `lines` counts for.
    second: AtomicU64,
    lines: AtomicU64,
}

impl PluginLog {
    pub(crate) fn new(plugin: PluginKey, metrics: Arc<PluginMetrics>) -> PluginLog {
        PluginLog { plugin, metrics, since: Instant::now(), second: AtomicU64::new(0), lines: AtomicU64::new(0) }
    }

    /// Cuts a line that is too long, and says no to one too many. Under a race a line more may pass.
    fn admit<'a>(&self, message: &'a str) -> Option<&'a str> {
        let second = self.since.elapsed().as_secs();
        if self.second.swap(second, Relaxed) != second {
            self.lines.store(0, Relaxed);
        }
        if self.lines.fetch_add(1, Relaxed) >= MAX_LOG_RATE {
            self.metrics.log_dropped.inc();
            return None;
        }
        Some(&message[..message.floor_char_boundary(MAX_LOG_LINE)])
    }

    /// A call to a backend ended so, after this time.
    pub(crate) fn fetched(&self, failure: Option<FetchErrorKind>, took: std::time::Duration) {
        self.metrics.fetched(failure, took);
    }

    pub(crate) fn line(&self, level: tracing::Level, message: &str) {
        let Some(message) = self.admit(message) else { return };
        let (message, plugin) = (one_line(message), &self.plugin);
        match level {
            tracing::Level::ERROR => tracing::error!(target: "plugin", %plugin, "{message}"),
            tracing::Level::WARN => tracing::warn!(target: "plugin", %plugin, "{message}"),
            tracing::Level::INFO => tracing::info!(target: "plugin", %plugin, "{message}"),
            _ => tracing::debug!(target: "plugin", %plugin, "{message}"),
        }
    }
}

/// A guest writes no lines but its own: control characters are escaped, so that none ends the line or colours a terminal.
fn one_line(message: &str) -> Cow<'_, str> {
    if !message.contains(char::is_control) {
        return Cow::Borrowed(message);
    }
    let mut line = String::with_capacity(message.len() + 8);
    for c in message.chars() {
        if c.is_control() { line.extend(c.escape_default()) } else { line.push(c) }
    }
    Cow::Owned(line)
}

/// What a call gave, the exchange aside.
pub(crate) struct Finished {
    pub(crate) decision: Decision,
    pub(crate) replacement: Option<Bytes>,
}

impl Finished {
    pub(crate) fn nothing() -> Finished {
        Finished { decision: Decision::Continue, replacement: None }
    }
}

impl From<Finished> for BodyOutcome {
    fn from(finished: Finished) -> BodyOutcome {
        BodyOutcome { decision: finished.decision, replacement: finished.replacement }
    }
}

/// Why an instance must go, or could not be made.
pub(crate) enum Failed {
    Trapped {
        kind: TrapKind,
        message: String,
    },
    /// Its deadline passed: the guest itself kept to its limits.
    Late,
    /// No instance, or no memory, was left of what all plugins share.
    UsedUp,
}

impl Failed {
    /// Reads an error of a call. `refused`: the guest did not get memory that it asked for.
    pub(crate) fn of(error: &wasmtime::Error, refused: bool) -> Failed {
        if error.is::<Late>() {
            return Failed::Late;
        }
        if error.is::<MemoryUsedUp>() || error.is::<PoolConcurrencyLimitError>() {
            return Failed::UsedUp;
        }
        let kind = match error.downcast_ref::<Trap>() {
            Some(Trap::Interrupt) => TrapKind::RunTime,
            Some(Trap::StackOverflow) => TrapKind::Stack,
            // A Rust guest that gets no memory aborts: the limit is the reason, not the panic.
            Some(_) if refused => TrapKind::Memory,
            Some(Trap::UnreachableCodeReached) => TrapKind::Panic,
            Some(_) => TrapKind::Fault,
            None => TrapKind::Contract,
        };
        Failed::Trapped { kind, message: error.root_cause().to_string() }
    }
}

pub(crate) struct Live {
    pub(crate) store: Store<State>,
    instance: Instance,
    /// Functions of the phases that were called on this instance.
    bound: guest::Bound,
    /// Its calls run on fibers.
    waits: bool,
    pub(crate) calls: u32,
    /// Bytes of memory when it was made.
    born_with: usize,
}

impl Live {
    /// Makes an instance; configures it where its image is not configured yet. The store's deadline is the caller's to
    /// set.
    pub(crate) fn new(image: &Image, mut store: Store<State>) -> wasmtime::Result<Live> {
        let instance = if image.waits {
            at_once(image.pre.instantiate_async(&mut store))?
        } else {
            image.pre.instantiate(&mut store)?
        };
        let mut live =
            Live { store, instance, bound: guest::Bound::default(), waits: image.waits, calls: 0, born_with: 0 };
        if let Some(config) = &image.configure_with {
            live.configure(&image.phases, config)?
                .map_err(|refusal| broken(format!("configure refused: {refusal}")))?;
        }
        live.born_with = live.store.data().limits.used();
        Ok(live)
    }

    /// Runs configure; the inner error is the guest's refusal.
    pub(crate) fn configure(&mut self, phases: &Phases, config: &str) -> wasmtime::Result<Result<(), String>> {
        match &phases.configuration {
            Some(export) => {
                type Configure = TypedFunc<(String,), (Result<(), String>,)>;
                let configure: Configure = self.instance.get_typed_func(&mut self.store, export)?;
                let config = (config.to_owned(),);
                let (result,) = if self.waits {
                    at_once(configure.call_async(&mut self.store, config))?
                } else {
                    configure.call(&mut self.store, config)?
                };
                Ok(result)
            }
            None => Ok(Ok(())),
        }
    }

    /// Runs the plugin's check of itself, where it has one; the inner error is what that found.
    pub(crate) fn self_test(&mut self, phases: &Phases) -> wasmtime::Result<Result<(), String>> {
        let Some(export) = &phases.self_test else { return Ok(Ok(())) };
        type Run = TypedFunc<(), (Result<(), String>,)>;
        let run: Run = self.instance.get_typed_func(&mut self.store, export)?;
        let (result,) =
            if self.waits { at_once(run.call_async(&mut self.store, ()))? } else { run.call(&mut self.store, ())? };
        Ok(result)
    }

    pub(crate) fn instance(&self) -> Instance {
        self.instance
    }

    /// Bytes that it has grown by since it was made.
    pub(crate) fn grown(&self) -> usize {
        self.store.data().limits.used().saturating_sub(self.born_with)
    }

    /// Runs one phase. The exchange goes in and comes back, also from a call that traps.
    pub(crate) fn call(&mut self, phases: &Phases, exchange: &mut Exchange, call: Call) -> Result<Finished, Failed> {
        let function = call.function();
        let has_response = self.lend(exchange, call, None);
        let called = self.bound.call(&mut self.store, &self.instance, phases, function, has_response);
        self.take(phases, function, exchange, called)
    }

    /// The same for an instance whose calls may wait, at most until `until`. What it has used of its time by then is what
    /// the store's bounds say, over all polls of this future.
    pub(crate) async fn call_waiting(
        &mut self,
        phases: &Phases,
        exchange: &mut Exchange,
        call: Call,
        until: Instant,
    ) -> Result<Finished, Failed> {
        let function = call.function();
        let has_response = self.lend(exchange, call, Some(until));
        let called = self.bound.call_waiting(&mut self.store, &self.instance, phases, function, has_response);
        // Where nobody waits any longer the fiber is unwound, and what it was lent is still in the store.
        let called = match tokio::time::timeout_at(until.into(), called).await {
            Ok(called) => called,
            Err(_) => Err(Late.into()),
        };
        self.take(phases, function, exchange, called)
    }

    /// Puts what a call is about into the store.
    fn lend(&mut self, exchange: &mut Exchange, call: Call, until: Option<Instant>) -> bool {
        self.calls += 1;
        let function = call.function();
        let state = self.store.data_mut();
        state.until = until;
        state.limits.refused = false;
        state.exchange = std::mem::take(exchange);
        state.phase = Some(function);
        match call {
            Call::RequestBody(body) | Call::ResponseBody(body) => state.body = body,
            Call::RequestStream(piece) | Call::ResponseStream(piece) => {
                (state.body, state.is_first, state.is_last) = (piece.bytes, piece.first, piece.last);
            }
            Call::Log(summary) => state.summary = summary,
            Call::RequestHeaders
            | Call::ResponseHeaders
            | Call::RequestPiece(..)
            | Call::ResponsePiece(..)
            | Call::ResponseTrailers => {}
        }
        state.exchange.response.is_some()
    }

    /// Takes back what was lent, and what came of it.
    fn take(
        &mut self,
        phases: &Phases,
        function: Export,
        exchange: &mut Exchange,
        called: wasmtime::Result<Option<Chosen>>,
    ) -> Result<Finished, Failed> {
        let result = called.and_then(|chosen| self.finish(phases, function, chosen));
        let state = self.store.data_mut();
        *exchange = std::mem::take(&mut state.exchange);
        state.phase = None;
        state.body = Bytes::new();
        let replacement = state.replacement.take();
        match result {
            Ok(decision) => Ok(Finished { decision, replacement }),
            Err(error) => Err(self.failed(&error)),
        }
    }

    fn finish(&mut self, phases: &Phases, function: Export, chosen: Option<Chosen>) -> wasmtime::Result<Decision> {
        let is_piece = matches!(function, Export::RequestPiece | Export::ResponsePiece);
        let (limit, pass_over_limit) = match chosen {
            None => return Ok(Decision::Continue),
            Some(Chosen::Respond(_)) if function == Export::ResponsePiece => {
                return Err(broken("the response's head has been sent: on-response-piece may abort, but not respond"));
            }
            Some(Chosen::Respond(reply)) => return Ok(Decision::Respond(reply)),
            Some(Chosen::Abort) if is_piece => return Ok(Decision::Abort),
            Some(Chosen::Abort) => {
                return Err(broken("abort is a decision of on-request-piece and on-response-piece only"));
            }
            Some(Chosen::ReadBody { limit, pass_over_limit }) => (limit, pass_over_limit),
        };
        match function {
            Export::RequestHeaders => {}
            Export::ResponseHeaders if phases.response_body() => {}
            // Read for nobody, a body would only be late.
            Export::ResponseHeaders => {
                return Err(broken("on-response decided read-body without response-body exported"));
            }
            _ => return Err(broken("read-body is a decision of on-request and on-response only")),
        }
        let over_limit = if pass_over_limit { OverLimit::Pass } else { OverLimit::Refuse };
        Ok(Decision::ReadBody(BodyRequest { limit: limit.min(self.store.data().body_buffer), over_limit }))
    }

    pub(crate) fn failed(&self, error: &wasmtime::Error) -> Failed {
        Failed::of(error, self.store.data().limits.refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    #[test]
    fn a_guests_line_is_one_line_of_bounded_length() {
        let key = PluginKey::new("shop", "keys");
        let log = PluginLog::new(key.clone(), Arc::new(Metrics::default().plugin(&key)));
        assert_eq!(log.admit("\u{e9}".repeat(3_000).as_str()).map(str::len), Some(MAX_LOG_LINE));
        assert_eq!(one_line("a\nlevel=error \u{1b}[31m\tb"), "a\\nlevel=error \\u{1b}[31m\\tb");
        assert!(matches!(one_line("as it is"), Cow::Borrowed(_)));
    }

    #[test]
    fn lines_above_the_rate_are_dropped_and_counted() {
        let key = PluginKey::new("shop", "keys");
        let metrics = Arc::new(Metrics::default().plugin(&key));
        let log = PluginLog::new(key, metrics.clone());
        // The second may turn meanwhile, once.
        let admitted = (0..3 * MAX_LOG_RATE).filter(|_| log.admit("x").is_some()).count() as u64;
        assert!((MAX_LOG_RATE..=2 * MAX_LOG_RATE).contains(&admitted), "{admitted}");
        assert_eq!(metrics.log_dropped.get(), 3 * MAX_LOG_RATE - admitted);
    }
}
