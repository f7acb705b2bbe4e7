//! One plugin's part in one exchange: its calls, phase after phase.

use crate::aside::{limit_cpu_time, limit_from_first_tick, ran_in_place, thread_time};
use crate::configured::{Configured, Permit, Phase};
use crate::decision::{BodyOutcome, Decision};
use crate::error::PluginError;
use crate::exchange::{Exchange, Summary};
use crate::instance::{Call, Finished, Live, State};
use crate::metrics::Outcome;
use bytes::Bytes;
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
}

impl Invocation {
    pub(crate) fn new(configured: Arc<Configured>) -> Invocation {
        Invocation { configured, held: None }
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

    /// The end. What a plugin fails at here concerns its metrics and its log alone.
    pub async fn on_log(&mut self, exchange: &mut Exchange, summary: Summary) -> Result<(), PluginError> {
        self.held = None;
        self.call(exchange, Call::Log(summary)).await.map(|_| ())
    }

    /// Frees the instance: no further header or body phase will come (a 101, a tunnel).
    pub fn release(&mut self) {
        self.held = None;
    }

    async fn call(&mut self, exchange: &mut Exchange, call: Call) -> Result<Finished, PluginError> {
        let phase = call.phase();
        if !self.configured.phases().has(phase) {
            return Ok(Finished::nothing());
        }
        let started = Instant::now();
        let result = self.admitted(exchange, call, started).await;
        let outcome = match &result {
            Ok(finished) => match finished.decision {
                Decision::Continue => Outcome::Continue,
                Decision::Respond(_) => Outcome::Respond,
                Decision::ReadBody(_) => Outcome::ReadBody,
            },
            Err(error) => error.outcome(),
        };
        self.configured.plugin.metrics.called(phase, outcome, started.elapsed());
        result
    }

    async fn admitted(
        &mut self,
        exchange: &mut Exchange,
        call: Call,
        started: Instant,
    ) -> Result<Finished, PluginError> {
        let configured = &self.configured;
        let (live, permit) = match self.held.take() {
            Some((live, permit)) => (Some(live), permit),
            None => (None, configured.admit()?),
        };
        let phase = call.phase();
        let job = Job { configured: configured.clone(), live, exchange: std::mem::take(exchange), call };
        let done = if configured.plugin.standing.is_good(started) {
            job.run_here()
        } else {
            configured.plugin.metrics.aside.inc();
            job.run_aside(exchange, phase).await?
        };
        *exchange = done.exchange;
        if let Some(live) = done.live {
            if self.is_needed_after(phase, &done.result) {
                self.held = Some((live, permit));
            } else {
                self.configured.give_back(live);
            }
        }
        done.result
    }

    /// Whether the instance stays with the exchange until a later phase.
    fn is_needed_after(&self, phase: Phase, result: &Result<Finished, PluginError>) -> bool {
        let phases = self.configured.phases();
        self.configured.mode() == InstanceMode::Fresh
            && match phase {
                Phase::RequestHeaders => {
                    phases.response_headers()
                        || (phases.request_body()
                            && matches!(result, Ok(Finished { decision: Decision::ReadBody(_), .. })))
                }
                Phase::RequestBody => phases.response_headers(),
                Phase::ResponseHeaders | Phase::Log => false,
            }
    }
}

/// A call with all that it needs, so that any thread can run it.
struct Job {
    configured: Arc<Configured>,
    live: Option<Live>,
    exchange: Exchange,
    call: Call,
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
        let limit = self.configured.limits().run_time;
        let arm = |store: &mut Store<State>| limit_from_first_tick(store, limit);
        self.run(arm, Instant::now(), |started: &Instant| ran_in_place(*started))
    }

    /// On a thread of low priority. Waits for one, at most until the Plugin's deadline; the exchange stays here until a
    /// thread is free.
    async fn run_aside(self, exchange: &mut Exchange, phase: Phase) -> Result<Done, PluginError> {
        let configured = self.configured.clone();
        let waiting = Instant::now();
        let Some(turn) = configured.aside.turn(configured.limits().deadline).await else {
            *exchange = self.exchange;
            return Err(PluginError::Deadline { plugin: configured.key().plugin.clone(), waited: waiting.elapsed() });
        };
        let running = configured.aside.run(turn, move || {
            let limit = self.configured.limits().run_time;
            let arm = |store: &mut Store<State>| limit_cpu_time(store, limit);
            let mut done = self.run(arm, thread_time(), |began: &Duration| thread_time().saturating_sub(*began));
            if let Some(live) = &mut done.live {
                live.store.epoch_deadline_trap();
            }
            done
        });
        let lost = || PluginError::Lost { plugin: configured.key().plugin.clone(), phase: phase.as_str() };
        running.await.map_err(|_| lost())
    }

    fn run<T>(mut self, arm: impl FnOnce(&mut Store<State>), began: T, ran: impl FnOnce(&T) -> Duration) -> Done {
        let configured = &self.configured;
        let phase = self.call.phase();
        let made = match self.live.take() {
            Some(mut live) => {
                arm(&mut live.store);
                Ok(live)
            }
            None => configured.instance(arm),
        };
        let mut live = match made {
            Ok(live) => live,
            Err(error) => {
                let error = configured.not_made(phase, &error);
                return Done { exchange: self.exchange, live: None, result: Err(error) };
            }
        };
        let called = live.call(configured.phases(), &mut self.exchange, self.call);
        let limited = matches!(&called, Err(trapped) if trapped.kind == crate::TrapKind::RunTime);
        configured.plugin.standing.record(Instant::now(), ran(&began), limited);
        match called {
            Ok(finished) => Done { exchange: self.exchange, live: Some(live), result: Ok(finished) },
            Err(trapped) => {
                configured.plugin.metrics.trapped(trapped.kind);
                let plugin = configured.key().plugin.clone();
                let (kind, message) = (trapped.kind, trapped.message);
                let result = Err(PluginError::Trap { plugin, phase: phase.as_str(), kind, message });
                Done { exchange: self.exchange, live: None, result }
            }
        }
    }
}
