//! One VM: an instance with its root context, and as many stream contexts as it has exchanges. All its calls are
//! synchronous, as the guest is called back for memory; so whoever has it has it alone.

use super::abi::CONTINUE;
use super::callouts::{Answered, Callouts, Started};
use super::exports::{Exports, OnHeaders};
use super::module::Code;
use super::shared::QueueOwner;
use super::state::{ROOT, Resumed, Settings, StreamContext, Then, VmState};
use crate::configured::{Held, Phase, PluginState};
use crate::decision::LocalReply;
use crate::engine::Engine;
use crate::exchange::Exchange;
use crate::instance::{Call, Failed};
use crate::limits::Limits;
use crate::outgoing::{FetchError, Outbound, OutboundResponse};
use http::HeaderMap;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use wasmtime::{Store, TypedFunc};

pub(super) struct Vm {
    pub(super) store: Store<VmState>,
    exports: Exports,
    /// The number of the last context.
    last: u32,
    /// The place of one instance among those that all plugins share.
    _held: Held,
}

/// What a VM is made of.
pub(super) struct Parts<'p> {
    pub(super) engine: &'p Engine,
    pub(super) code: &'p Code,
    pub(super) settings: &'p Arc<Settings>,
    pub(super) plugin: &'p Arc<PluginState>,
    pub(super) memory: u64,
    pub(super) queues: QueueOwner,
    pub(super) own: Option<Arc<dyn Outbound>>,
}

/// Why a VM did not start.
pub(super) enum NotStarted {
    /// The module is none of the ABI's.
    Invalid(String),
    /// The filter said no to its configuration.
    Refused {
        callback: &'static str,
        /// What it told of it in the log, if it did.
        said: Option<String>,
    },
    Failed {
        during: &'static str,
        failed: Failed,
    },
}

/// What comes after a phase.
pub(super) enum After {
    Continue,
    Respond(Box<LocalReply>),
    /// The guest will say. The exchange stays with the VM until then.
    Pause(oneshot::Receiver<Resumed>),
    /// It holds back what there is of the body, until more is.
    Hold,
    /// And that is more than it may.
    TooMuch,
}

impl Vm {
    /// Makes one, and configures it. `arm` sets the bounds of that before any of its code runs.
    pub(super) fn start(parts: &Parts<'_>, arm: impl FnOnce(&mut Store<VmState>)) -> Result<Vm, NotStarted> {
        let made = |error: &wasmtime::Error| NotStarted::Failed { during: "start", failed: Failed::of(error, false) };
        let held = parts.plugin.hold().ok_or(NotStarted::Failed { during: "start", failed: Failed::UsedUp })?;
        let state = VmState {
            limits: Limits::counted(parts.memory, parts.plugin.clone()),
            plugin: parts.plugin.clone(),
            settings: parts.settings.clone(),
            memory: None,
            allocate: None,
            streams: HashMap::default(),
            running: ROOT,
            effective: 0,
            tick: None,
            callouts: Callouts::new(parts.own.clone()),
            metrics: Vec::new(),
            queues: parts.queues.clone(),
            woken: Vec::new(),
            said: Some(String::new()),
        };
        let mut store = Store::new(&parts.engine.engine, state);
        store.limiter(|state| &mut state.limits);
        arm(&mut store);
        let instance = parts.code.pre.instantiate(&mut store).map_err(|error| made(&error))?;
        let exports = Exports::of(&mut store, instance).map_err(NotStarted::Invalid)?;
        let state = store.data_mut();
        (state.memory, state.allocate) = (Some(exports.memory), Some(exports.allocate.clone()));
        let mut vm = Vm { store, exports, last: ROOT, _held: held };
        vm.configure()?;
        Ok(vm)
    }

    fn configure(&mut self) -> Result<(), NotStarted> {
        self.during("start", |store, exports| {
            match (&exports.initialize, &exports.main, &exports.start) {
                (Some(initialize), main, _) => {
                    initialize.call(&mut *store, ())?;
                    if let Some(main) = main {
                        main.call(store, (0, 0))?;
                    }
                }
                (None, _, Some(start)) => start.call(store, ())?,
                (None, _, None) => {}
            }
            Ok(())
        })?;
        self.during("proxy_on_context_create", |store, exports| match &exports.on_context_create {
            Some(create) => create.call(store, (ROOT, 0)),
            None => Ok(()),
        })?;
        let started = self.during("proxy_on_vm_start", |store, exports| match &exports.on_vm_start {
            Some(start) => start.call(store, (ROOT, 0)),
            None => Ok(1),
        })?;
        if started == 0 {
            return Err(self.refused("proxy_on_vm_start"));
        }
        let length = u32::try_from(self.store.data().settings.configuration.len()).unwrap_or(u32::MAX);
        let configured = self.during("proxy_on_configure", |store, exports| match &exports.on_configure {
            Some(configure) => configure.call(store, (ROOT, length)),
            None => Ok(1),
        })?;
        if configured == 0 {
            return Err(self.refused("proxy_on_configure"));
        }
        self.store.data_mut().said = None;
        Ok(())
    }

    fn refused(&mut self, callback: &'static str) -> NotStarted {
        let said = self.store.data_mut().said.take().filter(|said| !said.is_empty());
        NotStarted::Refused { callback, said }
    }

    fn during<T>(
        &mut self,
        during: &'static str,
        call: impl FnOnce(&mut Store<VmState>, &Exports) -> wasmtime::Result<T>,
    ) -> Result<T, NotStarted> {
        self.enter(ROOT, call).map_err(|error| NotStarted::Failed { during, failed: self.failed(&error) })
    }

    pub(super) fn failed(&self, error: &wasmtime::Error) -> Failed {
        Failed::of(error, self.store.data().limits.refused)
    }

    /// Calls the guest for one of its contexts. What it has let go on goes on.
    fn enter<T>(
        &mut self,
        context: u32,
        call: impl FnOnce(&mut Store<VmState>, &Exports) -> wasmtime::Result<T>,
    ) -> wasmtime::Result<T> {
        let state = self.store.data_mut();
        (state.running, state.effective, state.limits.refused) = (context, 0, false);
        let result = call(&mut self.store, &self.exports)?;
        self.resume_woken();
        Ok(result)
    }

    fn resume_woken(&mut self) {
        let state = self.store.data_mut();
        while let Some(context) = state.woken.pop() {
            let Some(stream) = state.streams.get_mut(&context) else { continue };
            // One that runs now sees for itself.
            if let Some(waiter) = stream.waiter.take()
                && let Some(exchange) = stream.exchange.take()
            {
                stream.phase = None;
                let then = stream.reply.take().map_or(Then::GoOn, Then::Respond);
                // Where nobody waits any more, nobody wants the exchange either.
                drop(waiter.send(Resumed { exchange, then }));
            }
        }
    }

    /// A phase of one exchange, whose context is made at its first. The exchange comes back unless the guest pauses it.
    pub(super) fn phase(
        &mut self,
        context: &mut Option<u32>,
        exchange: &mut Exchange,
        call: Call,
    ) -> wasmtime::Result<After> {
        let phase = call.phase();
        let context = match *context {
            Some(context) => context,
            None => *context.insert(self.next_context()),
        };
        let is_new = !self.store.data().streams.contains_key(&context);
        let stream = self.store.data_mut().streams.entry(context).or_default();
        (stream.phase, stream.resumed, stream.reply) = (Some(phase), false, None);
        let mut lent = std::mem::take(exchange);
        match &call {
            Call::Log(summary) => stream.summary = Some(summary.clone()),
            Call::RequestPiece(piece, ends) | Call::ResponsePiece(piece, ends) => {
                let body = &mut lent.body;
                if std::mem::take(&mut stream.released) {
                    body.released.unsplit(std::mem::take(&mut body.held));
                }
                body.held.extend_from_slice(piece);
                (stream.ends, stream.holds) = (*ends, None);
            }
            Call::ResponseTrailers => (stream.released, stream.holds) = (false, None),
            _ => {}
        }
        stream.exchange = Some(lent);
        let action = self.called(context, is_new, &call);
        let ends = matches!(call, Call::Log(_));
        let is_piece = matches!(call, Call::RequestPiece(..) | Call::ResponsePiece(..));
        let state = self.store.data_mut();
        let (limit, waits) = (state.settings.body_buffer, state.callouts.waits(context));
        let Some(stream) = state.streams.get_mut(&context) else { return Ok(After::Continue) };
        let paused = match action {
            Ok(action) => action != CONTINUE && !stream.resumed && stream.reply.is_none(),
            Err(_) => false,
        };
        if paused && is_piece && !stream.ends && !waits {
            stream.holds = stream.phase.take();
            if let Some(back) = stream.exchange.take() {
                *exchange = back;
            }
            let is_too_much = exchange.body.held.len() as u64 > limit;
            return Ok(if is_too_much { After::TooMuch } else { After::Hold });
        }
        if paused {
            let (waiter, resumed) = oneshot::channel();
            stream.waiter = Some(waiter);
            return Ok(After::Pause(resumed));
        }
        stream.phase = None;
        if let Some(back) = stream.exchange.take() {
            *exchange = back;
        }
        let reply = stream.reply.take();
        if ends {
            self.store.data_mut().streams.remove(&context);
        }
        action?;
        Ok(reply.map_or(After::Continue, After::Respond))
    }

    fn called(&mut self, context: u32, is_new: bool, call: &Call) -> wasmtime::Result<u32> {
        if is_new {
            self.enter(context, |store, exports| match &exports.on_context_create {
                Some(create) => create.call(store, (context, ROOT)),
                None => Ok(()),
            })?;
        }
        match call {
            Call::RequestHeaders => self.on_headers(
                context,
                |exports| &exports.on_request_headers,
                |exchange| {
                    let request = exchange.request()?;
                    let hosts = request.headers().get_all(http::header::HOST).iter().count();
                    Some((request.headers().len() - hosts + 4, exchange.request_ends))
                },
            ),
            Call::ResponseHeaders => self.on_headers(
                context,
                |exports| &exports.on_response_headers,
                |exchange| Some((exchange.response()?.headers().len() + 1, exchange.response_ends)),
            ),
            Call::RequestPiece(_, ends) => self.on_body(context, |exports| exports.on_request_body.as_ref(), *ends),
            Call::ResponsePiece(_, ends) => self.on_body(context, |exports| exports.on_response_body.as_ref(), *ends),
            Call::ResponseTrailers => {
                let exchange = self.store.data().streams.get(&context).and_then(|stream| stream.exchange.as_ref());
                let fields = exchange.and_then(|exchange| exchange.trailers.as_ref()).map_or(0, HeaderMap::len);
                self.enter(context, |store, exports| match &exports.on_response_trailers {
                    Some(callback) => callback.call(store, (context, size(fields))),
                    None => Ok(CONTINUE),
                })
            }
            // Of components.
            Call::RequestBody(_) | Call::RequestStream(_) | Call::ResponseBody(_) | Call::ResponseStream(_) => {
                Ok(CONTINUE)
            }
            Call::Log(_) => {
                self.end(context, true)?;
                Ok(CONTINUE)
            }
        }
    }

    fn on_headers(
        &mut self,
        context: u32,
        callback: impl FnOnce(&Exports) -> &Option<OnHeaders>,
        message: impl FnOnce(&Exchange) -> Option<(usize, bool)>,
    ) -> wasmtime::Result<u32> {
        let stream = self.store.data().streams.get(&context);
        let (fields, ends) = stream.and_then(|stream| message(stream.exchange.as_ref()?)).unwrap_or_default();
        self.enter(context, |store, exports| match callback(exports) {
            Some(callback) => callback.call(store, context, u32::try_from(fields).unwrap_or(u32::MAX), ends),
            None => Ok(CONTINUE),
        })
    }

    fn on_body(
        &mut self,
        context: u32,
        callback: impl FnOnce(&Exports) -> Option<&TypedFunc<(u32, u32, u32), u32>>,
        ends: bool,
    ) -> wasmtime::Result<u32> {
        let exchange = self.store.data().streams.get(&context).and_then(|stream| stream.exchange.as_ref());
        let length = exchange.map_or(0, |exchange| exchange.body.held.len());
        self.enter(context, |store, exports| match callback(exports) {
            Some(callback) => {
                callback.call(store, (context, u32::try_from(length).unwrap_or(u32::MAX), u32::from(ends)))
            }
            None => Ok(CONTINUE),
        })
    }

    /// The last callbacks of a context, in Envoy's order.
    fn end(&mut self, context: u32, log: bool) -> wasmtime::Result<()> {
        if log {
            self.enter(context, |store, exports| match &exports.on_log {
                Some(log) => log.call(store, context),
                None => Ok(()),
            })?;
        }
        self.enter(context, |store, exports| {
            if let Some(done) = &exports.on_done {
                done.call(store, context)?;
            }
            Ok(())
        })?;
        self.enter(context, |store, exports| match &exports.on_delete {
            Some(delete) => delete.call(store, context),
            None => Ok(()),
        })
    }

    /// An exchange was given up, without a log phase.
    pub(super) fn forget(&mut self, context: u32) -> wasmtime::Result<()> {
        if self.store.data_mut().streams.remove(&context).is_none() {
            return Ok(());
        }
        self.end(context, false)
    }

    /// A pause has lasted too long: the exchange comes back, unless it just did.
    pub(super) fn withdraw(&mut self, context: u32) -> Option<Exchange> {
        let stream = self.store.data_mut().streams.get_mut(&context)?;
        stream.waiter.take()?;
        stream.phase = None;
        stream.exchange.take()
    }

    fn next_context(&mut self) -> u32 {
        let streams = &self.store.data().streams;
        let mut next = self.last;
        loop {
            next = next.wrapping_add(1);
            if next > ROOT && !streams.contains_key(&next) {
                break;
            }
        }
        self.last = next;
        next
    }

    /// The callback of a callout.
    pub(super) fn answered(
        &mut self,
        token: u32,
        answer: Result<OutboundResponse, FetchError>,
    ) -> wasmtime::Result<()> {
        let Some((context, answered)) = self.store.data_mut().callouts.answered(token, answer) else { return Ok(()) };
        let called = self.enter(ROOT, |store, exports| match answered {
            Answered::Http { fields, length, trailers } => match &exports.on_http_call_response {
                Some(callback) => callback.call(store, (ROOT, token, size(fields), size(length), size(trailers))),
                None => Ok(()),
            },
            Answered::Message { length } => match &exports.on_grpc_receive {
                Some(callback) => callback.call(store, (ROOT, token, size(length))),
                None => Ok(()),
            },
            Answered::Closed { status } => match &exports.on_grpc_close {
                Some(callback) => callback.call(store, (ROOT, token, status)),
                None => Ok(()),
            },
        });
        let state = self.store.data_mut();
        state.callouts.forget_answer();
        // Whoever holds back a body without its end goes on reading once nothing else is waited for.
        let waits = state.callouts.waits(context);
        if let Some(stream) = state.streams.get_mut(&context)
            && matches!(stream.phase, Some(Phase::RequestBody | Phase::ResponseBody))
            && !(stream.ends || waits)
            && let Some(waiter) = stream.waiter.take()
            && let Some(exchange) = stream.exchange.take()
        {
            stream.holds = stream.phase.take();
            drop(waiter.send(Resumed { exchange, then: Then::Hold }));
        }
        called
    }

    pub(super) fn tick(&mut self) -> wasmtime::Result<()> {
        self.enter(ROOT, |store, exports| match &exports.on_tick {
            Some(tick) => tick.call(store, ROOT),
            None => Ok(()),
        })
    }

    pub(super) fn queue_ready(&mut self, queue: u32) -> wasmtime::Result<()> {
        self.enter(ROOT, |store, exports| match &exports.on_queue_ready {
            Some(ready) => ready.call(store, (ROOT, queue)),
            None => Ok(()),
        })
    }

    pub(super) fn tick_period(&self) -> Option<Duration> {
        self.store.data().tick
    }

    pub(super) fn is_idle(&self) -> bool {
        self.store.data().streams.is_empty()
    }

    pub(super) fn take_started(&mut self) -> Vec<(u32, Started)> {
        self.store.data_mut().callouts.take_started()
    }

    pub(super) fn sent(&mut self, token: u32, task: AbortHandle) {
        self.store.data_mut().callouts.sent(token, task);
    }
}

/// As the ABI counts.
fn size(size: usize) -> u32 {
    u32::try_from(size).unwrap_or(u32::MAX)
}

impl Drop for Vm {
    /// Whoever waits for it is told that it has ended.
    fn drop(&mut self) {
        for (_, stream) in self.store.data_mut().streams.drain() {
            let StreamContext { exchange, waiter, .. } = stream;
            if let (Some(exchange), Some(waiter)) = (exchange, waiter) {
                drop(waiter.send(Resumed { exchange, then: Then::Ended }));
            }
        }
    }
}
