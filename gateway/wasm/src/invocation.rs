//! One plugin's part in one exchange: its calls, phase after phase.

use crate::TrapKind;
use crate::aside::{
    Bounds, Counted, limit_cpu_time, limit_from_first_tick, limit_over_polls, ran_in_place, thread_time,
};
use crate::build::CONFIGURE_TIME;
use crate::configured::{Configured, Export, LONGEST_IN_PLACE, Permit, Phase};
use crate::decision::{BodyOutcome, Decision};
use crate::error::PluginError;
use crate::exchange::{Exchange, Summary};
use crate::instance::{Call, Failed, Finished, Live, Piece, State};
use crate::metrics::Outcome;
use crate::proxy_wasm::Stream;
use bytes::Bytes;
use http::HeaderMap;
use sluice_model::plugin::InstanceMode;
use std::sync::Arc;
use std::time::{Duration, Instant};
use wasmtime::Store;

/// The calls of one plugin for one exchange.
///
/// Between phases a `fresh` plugin keeps its instance as long as a later phase needs it; a `pooled` one gives it back.
/// Dropping this frees what is held; so does [`Invocation::release`], at a protocol upgrade.
///
/// Each call borrows the [`Exchange`] and gives it back, whatever came of it; the future may be dropped at any await,
/// and the exchange is then lost with it.
pub struct Invocation {
    configured: Arc<Configured>,
    held: Option<(Live, Permit)>,
    /// The part of a filter of the proxy-wasm ABI, which has no instance for itself.
    stream: Option<Stream>,
    /// Of a component: how the bodies stand whose pieces it sees.
    request: Passing,
    response: Passing,
}

/// A body that passes a plugin piece by piece.
#[derive(Clone, Copy, Default)]
struct Passing {
    begun: bool,
    /// Some of it has been replaced: without the plugin what is left of it would belong to nothing.
    changed: bool,
    /// Its last piece has passed, or the plugin sees no more of it.
    over: bool,
}

impl Passing {
    fn is_under_way(self) -> bool {
        self.begun && !self.over
    }
}

impl Invocation {
    pub(crate) fn new(configured: Arc<Configured>) -> Invocation {
        let stream = configured.stream();
        let (request, response) = (Passing::default(), Passing::default());
        Invocation { configured, held: None, stream, request, response }
    }

    pub fn configured(&self) -> &Arc<Configured> {
        &self.configured
    }

    /// The request's head. `Continue` where the plugin has no such phase.
    pub async fn on_request(&mut self, exchange: &mut Exchange) -> Result<Decision, PluginError> {
        Ok(self.call(exchange, Call::RequestHeaders).await?.decision)
    }

    /// The body, after `on_request` decided [`Decision::ReadBody`] and the body kept to its limit.
    pub async fn on_request_body(&mut self, exchange: &mut Exchange, body: Bytes) -> Result<BodyOutcome, PluginError> {
        Ok(self.call(exchange, Call::RequestBody(body)).await?.into())
    }

    /// The response's head, put into the exchange before: a backend's, or a local reply.
    pub async fn on_response(&mut self, exchange: &mut Exchange) -> Result<Decision, PluginError> {
        Ok(self.call(exchange, Call::ResponseHeaders).await?.decision)
    }

    /// The response's body, after `on_response` decided [`Decision::ReadBody`] and the body kept to its limit. The head can
    /// still be changed.
    pub async fn on_response_body(&mut self, exchange: &mut Exchange, body: Bytes) -> Result<BodyOutcome, PluginError> {
        Ok(self.call(exchange, Call::ResponseBody(body)).await?.into())
    }

    /// A piece of the request's body on its way. `piece` becomes what goes on.
    pub async fn on_request_piece(
        &mut self,
        exchange: &mut Exchange,
        piece: &mut Bytes,
        end: bool,
    ) -> Result<Decision, PluginError> {
        if self.stream.is_some() {
            let result = self.call(exchange, Call::RequestPiece(piece.clone(), end)).await;
            return self.went_on(piece, result);
        }
        let Some(next) = next_piece(&mut self.request, piece, end) else { return Ok(Decision::Continue) };
        let result = self.call(exchange, Call::RequestStream(next)).await;
        passed(&mut self.request, piece, result)
    }

    /// A piece of the response's body.
    pub async fn on_response_piece(
        &mut self,
        exchange: &mut Exchange,
        piece: &mut Bytes,
        end: bool,
    ) -> Result<Decision, PluginError> {
        if self.stream.is_some() {
            let result = self.call(exchange, Call::ResponsePiece(piece.clone(), end)).await;
            return self.went_on(piece, result);
        }
        let Some(next) = next_piece(&mut self.response, piece, end) else { return Ok(Decision::Continue) };
        let result = self.call(exchange, Call::ResponseStream(next)).await;
        passed(&mut self.response, piece, result)
    }

    /// The same at once, of a filter of the proxy-wasm ABI.
    pub fn on_response_piece_at_once(
        &mut self,
        exchange: &mut Exchange,
        piece: &mut Bytes,
        end: bool,
    ) -> Result<Decision, PluginError> {
        let started = Instant::now();
        let Some(stream) = &mut self.stream else { return Ok(Decision::Continue) };
        let call = Call::ResponsePiece(piece.clone(), end);
        // Nor is it left out while the plugin's breaker is open: it has begun with this body.
        let result = stream.call_at_once(exchange, call, started);
        self.judge(&result);
        self.count(Phase::ResponseBody, &result, started);
        self.went_on(piece, result)
    }

    /// Whether it will see pieces of the request's body by the contract.
    pub fn streams_request(&self) -> bool {
        self.configured.phases().streams_request() && !self.request.over
    }

    pub fn streams_response(&self) -> bool {
        self.configured.phases().streams_response() && !self.response.over
    }

    /// The body was read whole for this plugin, or there is none: it sees no pieces of it.
    pub fn skip_request_pieces(&mut self) {
        self.request.over = true;
    }

    pub fn skip_response_pieces(&mut self) {
        self.response.over = true;
    }

    /// Whether it has changed some of a body that is still under way: such a body can't go on without it.
    pub fn is_bound_to_request(&self) -> bool {
        self.request.changed
    }

    pub fn is_bound_to_response(&self) -> bool {
        self.response.changed
    }

    /// The response's trailers. `before` becomes what was held back of the body, which goes before them.
    pub async fn on_response_trailers(
        &mut self,
        exchange: &mut Exchange,
        trailers: &mut HeaderMap,
        before: &mut Bytes,
    ) -> Result<(), PluginError> {
        let result = if self.configured.phases().response_trailers() {
            exchange.trailers = Some(std::mem::take(trailers));
            let result = self.call(exchange, Call::ResponseTrailers).await;
            *trailers = exchange.trailers.take().unwrap_or_default();
            result
        } else {
            Ok(Finished::nothing())
        };
        let held = self.stream.as_mut().and_then(Stream::take_held).map(|held| held.bytes.freeze());
        match result {
            Ok(finished) => {
                *before = finished.replacement.or(held).unwrap_or_default();
                Ok(())
            }
            Err(error) => {
                *before = held.unwrap_or_default();
                Err(error)
            }
        }
    }

    /// Whether it holds back some of a body.
    pub fn holds_body(&self) -> bool {
        self.stream.as_ref().is_some_and(Stream::holds)
    }

    fn went_on(&mut self, piece: &mut Bytes, result: Result<Finished, PluginError>) -> Result<Decision, PluginError> {
        match result {
            Ok(finished) => {
                *piece = finished.replacement.unwrap_or_default();
                Ok(finished.decision)
            }
            Err(error) => {
                if let Some(mut held) = self.stream.as_mut().and_then(Stream::take_held) {
                    if !held.has_last {
                        held.bytes.extend_from_slice(piece);
                    }
                    *piece = held.bytes.freeze();
                }
                Err(error)
            }
        }
    }

    /// The end. What a plugin fails at here concerns its metrics and its log alone.
    pub async fn on_log(&mut self, exchange: &mut Exchange, summary: Summary) -> Result<(), PluginError> {
        self.held = None;
        self.call(exchange, Call::Log(summary)).await.map(|_| ())
    }

    /// Frees the instance: no further header or body phase will come (a 101, a tunnel).
    pub fn release(&mut self) {
        self.held = None;
        if let Some(stream) = &mut self.stream {
            stream.release();
        }
    }

    async fn call(&mut self, exchange: &mut Exchange, call: Call) -> Result<Finished, PluginError> {
        let function = call.function();
        if !self.configured.phases().takes(function) {
            return Ok(Finished::nothing());
        }
        let started = Instant::now();
        let has_begun = matches!(&call, Call::RequestStream(piece) | Call::ResponseStream(piece) if !piece.first);
        let result = if has_begun {
            // Whatever the breaker says meanwhile: it has begun with this body.
            let result = self.admitted(exchange, call, started).await;
            self.judge(&result);
            result
        } else {
            self.unless_open(exchange, call, started).await
        };
        self.count(function.phase(), &result, started);
        result
    }

    fn count(&self, phase: Phase, result: &Result<Finished, PluginError>, started: Instant) {
        let outcome = match result {
            Ok(finished) => Outcome::of(&finished.decision),
            Err(error) => error.kind(),
        };
        self.configured.plugin.metrics.called(phase, outcome, started.elapsed());
    }

    /// Where the plugin has a circuit breaker: unless it is open.
    async fn unless_open(
        &mut self,
        exchange: &mut Exchange,
        call: Call,
        started: Instant,
    ) -> Result<Finished, PluginError> {
        let Some(limits) = self.configured.limits().circuit_breaker else {
            return self.admitted(exchange, call, started).await;
        };
        if !self.configured.plugin.breaker.admits(limits, started) {
            return Err(PluginError::CircuitOpen { plugin: self.configured.key().plugin.clone() });
        }
        let result = self.admitted(exchange, call, started).await;
        self.judge(&result);
        result
    }

    /// Tells the circuit breaker, where there is one, how a call ended.
    fn judge(&self, result: &Result<Finished, PluginError>) {
        let Some(limits) = self.configured.limits().circuit_breaker else { return };
        let breaker = &self.configured.plugin.breaker;
        match result {
            Ok(_) => breaker.succeeded(),
            // How busy it is, and what others have done to it, says nothing about how it works.
            Err(
                PluginError::Busy { .. }
                | PluginError::PoolFull { .. }
                | PluginError::Ended { .. }
                | PluginError::TooMuchHeld { .. }
                | PluginError::CircuitOpen { .. },
            ) => {}
            Err(error) => {
                if breaker.failed(limits, Instant::now()) {
                    let (plugin, window_s) = (&self.configured.key().plugin, limits.window.as_secs_f64());
                    tracing::warn!(%plugin, failures = limits.failures, window_s, %error, "the plugin only fails: it is not called for a while");
                }
            }
        }
    }

    async fn admitted(
        &mut self,
        exchange: &mut Exchange,
        call: Call,
        started: Instant,
    ) -> Result<Finished, PluginError> {
        let configured = &self.configured;
        let until = match (started.checked_add(configured.limits().deadline), exchange.deadline) {
            (Some(own), Some(whole)) => Some(own.min(whole)),
            (own, whole) => own.or(whole),
        };
        let late = || PluginError::Deadline { plugin: configured.key().plugin.clone(), waited: started.elapsed() };
        if until.is_some_and(|until| until <= started) {
            return Err(late());
        }
        if let Some(stream) = &mut self.stream {
            let until = until.unwrap_or_else(|| started + configured.limits().deadline);
            return stream.call(exchange, call, started, until).await;
        }
        let (live, permit) = match self.held.take() {
            Some((live, permit)) => (Some(live), permit),
            None => {
                let permit = configured.admit()?;
                (configured.idle(), permit)
            }
        };
        let (function, phase) = (call.function(), call.phase());
        let in_place = configured.limits().run_time <= LONGEST_IN_PLACE
            && configured.plugin.standing.is_good(started)
            && (live.is_some() || !configured.configures_each());
        let exchange_out = std::mem::take(exchange);
        let job = Job { configured: configured.clone(), live, exchange: exchange_out, call, started, until };
        let done = if configured.waits() {
            if in_place {
                job.run_waiting().await
            } else {
                configured.plugin.metrics.aside.inc();
                let lost = PluginError::Lost { plugin: configured.key().plugin.clone(), phase: phase.as_str() };
                configured.aside.poll(job.run_waiting()).await.map_err(|_| lost)?
            }
        } else if in_place {
            job.run_here()
        } else {
            configured.plugin.metrics.aside.inc();
            job.run_aside(exchange, phase).await?
        };
        *exchange = done.exchange;
        if let Some(live) = done.live {
            if self.is_needed_after(function, exchange, &done.result) {
                self.held = Some((live, permit));
            } else {
                self.configured.give_back(live);
            }
        }
        done.result
    }

    /// Whether the instance stays with the exchange until a later phase.
    fn is_needed_after(&self, function: Export, exchange: &Exchange, result: &Result<Finished, PluginError>) -> bool {
        let piece_follows = self.request.is_under_way() || self.response.is_under_way();
        // A pooled instance too is one body's alone, from its first piece to its last.
        if piece_follows || self.configured.mode() != InstanceMode::Fresh {
            return piece_follows;
        }
        let phases = self.configured.phases();
        let in_response = phases.response_headers() || phases.streams_response() || phases.response_trailers();
        let behind_head = !exchange.response_ends && (phases.streams_response() || phases.response_trailers());
        match function {
            Export::RequestHeaders => {
                in_response
                    || (phases.request_body() && reads(result))
                    || (phases.streams_request() && !exchange.request_ends)
            }
            Export::RequestBody | Export::RequestPiece => in_response,
            Export::ResponseHeaders => (phases.response_body() && reads(result)) || behind_head,
            Export::ResponseBody | Export::ResponsePiece => phases.response_trailers(),
            Export::ResponseTrailers | Export::Log => false,
        }
    }
}

/// The next piece of a body for a component; none where it sees no more of it.
fn next_piece(passing: &mut Passing, bytes: &Bytes, last: bool) -> Option<Piece> {
    if passing.over {
        return None;
    }
    passing.over = last;
    let first = !std::mem::replace(&mut passing.begun, true);
    Some(Piece { bytes: bytes.clone(), first, last })
}

/// What came of it. `piece` becomes what goes on.
fn passed(
    passing: &mut Passing,
    piece: &mut Bytes,
    result: Result<Finished, PluginError>,
) -> Result<Decision, PluginError> {
    match result {
        Ok(finished) => {
            if let Some(replacement) = finished.replacement {
                passing.changed = true;
                *piece = replacement;
            }
            Ok(finished.decision)
        }
        Err(error) => {
            // Another instance would know nothing of what has passed.
            passing.over = true;
            Err(error)
        }
    }
}

/// Whether it asks for the body.
fn reads(result: &Result<Finished, PluginError>) -> bool {
    matches!(result, Ok(Finished { decision: Decision::ReadBody(_), .. }))
}

/// A call with all that it needs, so that any thread can run it.
struct Job {
    configured: Arc<Configured>,
    live: Option<Live>,
    exchange: Exchange,
    call: Call,
    started: Instant,
    /// When it must be over.
    until: Option<Instant>,
}

struct Done {
    exchange: Exchange,
    /// The instance, unless it trapped.
    live: Option<Live>,
    result: Result<Finished, PluginError>,
}

impl Job {
    /// On the thread that serves the request, interrupted by the clock.
    fn run_here(self) -> Done {
        self.run(limit_from_first_tick, Instant::now(), |started: &Instant| ran_in_place(*started))
    }

    /// On a thread of low priority. Waits for one, at most until the call's deadline; the exchange stays here until a
    /// thread is free.
    async fn run_aside(self, exchange: &mut Exchange, phase: Phase) -> Result<Done, PluginError> {
        let configured = self.configured.clone();
        let Some(turn) = configured.aside.turn(&configured.plugin.lane, self.until).await else {
            *exchange = self.exchange;
            let (plugin, waited) = (configured.key().plugin.clone(), self.started.elapsed());
            return Err(PluginError::Deadline { plugin, waited });
        };
        let running = configured.aside.run(turn, move || {
            let mut done =
                self.run(limit_cpu_time, thread_time(), |began: &Duration| thread_time().saturating_sub(*began));
            if let Some(live) = &mut done.live {
                live.store.epoch_deadline_trap();
            }
            done
        });
        let lost = || PluginError::Lost { plugin: configured.key().plugin.clone(), phase: phase.as_str() };
        running.await.map_err(|_| lost())
    }

    /// `arm` sets the bounds of what comes next in a store.
    fn run<T>(mut self, arm: fn(&mut Store<State>, Bounds), began: T, ran: impl FnOnce(&T) -> Duration) -> Done {
        let configured = &self.configured;
        let phase = self.call.phase();
        let bounds = Bounds { run_time: configured.limits().run_time, until: self.until };
        let made = match self.live.take() {
            Some(mut live) => {
                arm(&mut live.store, bounds);
                Ok(live)
            }
            None if configured.configures_each() => {
                // As long as it was given when it was built; the call that follows has its own time.
                let configuring = Bounds { run_time: CONFIGURE_TIME, ..bounds };
                configured.instance(|store| arm(store, configuring)).map(|mut live| {
                    arm(&mut live.store, bounds);
                    live
                })
            }
            None => configured.instance(|store| arm(store, bounds)),
        };
        let (live, called) = match made {
            Ok(mut live) => {
                let call = std::mem::replace(&mut self.call, Call::RequestHeaders);
                let called = live.call(configured.phases(), &mut self.exchange, call);
                (Some(live), called)
            }
            Err(error) => (None, Err(Failed::of(&error, false))),
        };
        let ran = ran(&began);
        self.done(live, called, phase, ran)
    }

    /// A call that may wait, on whichever threads poll this.
    async fn run_waiting(mut self) -> Done {
        let configured = self.configured.clone();
        let phase = self.call.phase();
        let bounds = Bounds { run_time: configured.limits().run_time, until: self.until };
        // Neither an instance nor its configuration waits for anything.
        let time = if configured.configures_each() { CONFIGURE_TIME } else { bounds.run_time };
        let making = Bounds { run_time: time, ..bounds };
        let made = match self.live.take() {
            Some(live) => Ok(live),
            None => configured.instance(|store| limit_cpu_time(store, making)),
        };
        let mut live = match made {
            Ok(live) => live,
            Err(error) => return self.done(None, Err(Failed::of(&error, false)), phase, Duration::ZERO),
        };
        limit_over_polls(&mut live.store, bounds);
        let call = std::mem::replace(&mut self.call, Call::RequestHeaders);
        let until = self.until.unwrap_or_else(|| self.started + configured.limits().deadline);
        let call = live.call_waiting(configured.phases(), &mut self.exchange, call, until);
        let (called, ran) = Counted::new(call).await;
        self.done(Some(live), called, phase, ran)
    }

    /// Judges a call that ended.
    fn done(self, live: Option<Live>, called: Result<Finished, Failed>, phase: Phase, ran: Duration) -> Done {
        let configured = &self.configured;
        let limited = matches!(&called, Err(Failed::Trapped { kind: TrapKind::RunTime, .. }));
        configured.plugin.standing.record(Instant::now(), ran, limited);
        let failed = match called {
            Ok(finished) => return Done { exchange: self.exchange, live, result: Ok(finished) },
            Err(failed) => failed,
        };
        let plugin = configured.key().plugin.clone();
        let error = match failed {
            Failed::Trapped { kind, message } => {
                configured.plugin.metrics.trapped(kind);
                PluginError::Trap { plugin, phase: phase.as_str(), kind, message }
            }
            Failed::Late => PluginError::Deadline { plugin, waited: self.started.elapsed() },
            Failed::UsedUp => PluginError::PoolFull { plugin },
        };
        Done { exchange: self.exchange, live: None, result: Err(error) }
    }
}
