//! One exchange's part of a filter: its stream context, in the VM that it began with.

use super::place::Locked;
use super::program::Program;
use super::state::{Resumed, Then};
use super::vm::{After, Vm};
use crate::configured::{Permit, Phase};
use crate::decision::Decision;
use crate::error::PluginError;
use crate::exchange::Exchange;
use crate::instance::{Call, Finished};
use bytes::{Bytes, BytesMut};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;
use tokio::sync::oneshot;

pub(crate) struct Stream {
    program: Arc<Program>,
    at: Option<At>,
    /// One of the exchanges that `limits.concurrency` allows.
    permit: Option<Permit>,
    /// What the filter holds back of a body, between two pieces.
    held: Held,
}

/// A body that is held back.
#[derive(Default)]
pub(crate) struct Held {
    pub(crate) bytes: BytesMut,
    /// The piece that a call failed with is among it.
    pub(crate) has_last: bool,
}

/// Where its context is.
#[derive(Clone, Copy)]
struct At {
    slot: usize,
    number: u32,
    context: u32,
}

/// What comes back from a VM. Where nobody takes it any more, as its exchange was given up meanwhile, a context that began
/// with this call is left to the keeper.
struct Ran {
    exchange: Exchange,
    context: Option<u32>,
    after: Option<After>,
    begins: Option<Begins>,
}

/// Where a context begins.
struct Begins {
    program: Arc<Program>,
    slot: usize,
    number: u32,
}

impl Stream {
    pub(crate) fn new(program: Arc<Program>) -> Stream {
        Stream { program, at: None, permit: None, held: Held::default() }
    }

    /// A tunnel of hours counts no more.
    pub(crate) fn release(&mut self) {
        self.permit = None;
    }

    pub(crate) fn holds(&self) -> bool {
        !self.held.bytes.is_empty()
    }

    /// After a failure: what was held back of a body, if anything was.
    pub(crate) fn take_held(&mut self) -> Option<Held> {
        let held = std::mem::take(&mut self.held);
        (held.has_last || !held.bytes.is_empty()).then_some(held)
    }

    /// Runs one phase: the callback, and what the guest's pause waits for.
    pub(crate) async fn call(
        &mut self,
        exchange: &mut Exchange,
        call: Call,
        started: Instant,
        until: Instant,
    ) -> Result<Finished, PluginError> {
        let program = self.program.clone();
        let phase = call.phase();
        if let Some(passed) = self.passes(&call) {
            return Ok(passed);
        }
        if self.at.is_none() && self.permit.is_none() {
            self.permit = Some(program.plugin.admit_stream(program.plugin_key(), program.limits().concurrency)?);
        }
        let at = self.at.map(|at| (at.slot, at.number));
        let Some((slot, vm, way)) = program.vm_and_way(at, until, false).await? else { return self.ended(phase) };
        let number = program.slots.get(slot).map_or(0, |slot| slot.number.load(Ordering::Acquire));
        let work = self.work(exchange, call, (slot, number));
        let (ran, result) = program.run(slot, vm, way, Some(until), phase.as_str(), work).await?;
        match self.after(exchange, ran, result, (slot, number), phase, started)? {
            Next::Done(finished) => Ok(finished),
            Next::Wait(resumed) => self.paused(exchange, resumed, phase, started, until).await,
        }
    }

    /// The same, where nothing may be waited for.
    pub(crate) fn call_at_once(
        &mut self,
        exchange: &mut Exchange,
        call: Call,
        started: Instant,
    ) -> Result<Finished, PluginError> {
        let program = self.program.clone();
        let phase = call.phase();
        if let Some(passed) = self.passes(&call) {
            return Ok(passed);
        }
        let Some(at) = self.at else { return self.ended(phase) };
        let vm: Locked = match program.same_vm_at_once(at.slot, at.number, started)? {
            Some(vm) => vm,
            None => return self.ended(phase),
        };
        let until = started.checked_add(program.limits().deadline);
        let work = self.work(exchange, call, (at.slot, at.number));
        let (ran, result) = program.run_here(at.slot, vm, until, phase.as_str(), work)?;
        match self.after(exchange, ran, result, (at.slot, at.number), phase, started)? {
            Next::Done(finished) => Ok(finished),
            // What is not over when the body is can't be waited for here.
            Next::Wait(mut resumed) => {
                let plugin = || program.plugin_key().clone();
                let mut withdrawn = None;
                if let Ok(Some(mut vm)) = program.same_vm_at_once(at.slot, at.number, Instant::now()) {
                    withdrawn = vm.as_mut().and_then(|vm| vm.withdraw(at.context));
                }
                let back = withdrawn.or_else(|| resumed.try_recv().ok().map(|resumed| resumed.exchange));
                let lost = || PluginError::Lost { plugin: plugin(), phase: phase.as_str() };
                *exchange = back.ok_or_else(lost)?;
                self.keep(exchange, phase);
                Err(PluginError::Deadline { plugin: plugin(), waited: started.elapsed() })
            }
        }
    }

    /// A filter sees no response to a request that it has not seen, but its end it does.
    fn passes(&self, call: &Call) -> Option<Finished> {
        if self.at.is_some() {
            return None;
        }
        match call {
            Call::ResponseHeaders | Call::ResponseTrailers => Some(Finished::nothing()),
            Call::RequestPiece(piece, _) | Call::ResponsePiece(piece, _) => {
                Some(Finished { decision: Decision::Continue, replacement: Some(piece.clone()) })
            }
            _ => None,
        }
    }

    fn work(
        &mut self,
        exchange: &mut Exchange,
        call: Call,
        (slot, number): (usize, u32),
    ) -> impl FnOnce(&mut Vm) -> (Ran, wasmtime::Result<()>) + Send + 'static {
        // A context that is only told the end ends with that call.
        let begins = (self.at.is_none() && call.phase() != Phase::Log).then(|| Begins {
            program: self.program.clone(),
            slot,
            number,
        });
        let context = self.at.map(|at| at.context);
        let mut ran = Ran { exchange: std::mem::take(exchange), context, after: None, begins };
        ran.exchange.body.held = std::mem::take(&mut self.held).bytes;
        move |vm: &mut Vm| {
            let after = vm.phase(&mut ran.context, &mut ran.exchange, call);
            let result = after.map(|after| ran.after = Some(after));
            (ran, result)
        }
    }

    /// Takes the exchange back, unless it is paused.
    fn after(
        &mut self,
        exchange: &mut Exchange,
        mut ran: Ran,
        result: Result<(), PluginError>,
        (slot, number): (usize, u32),
        phase: Phase,
        started: Instant,
    ) -> Result<Next, PluginError> {
        ran.begins = None;
        self.at = ran.context.map(|context| At { slot, number, context });
        if phase == Phase::Log || result.is_err() {
            // The context has ended, or its VM has.
            self.at = None;
        }
        let after = match ran.after.take() {
            Some(After::Pause(resumed)) => return Ok(Next::Wait(resumed)),
            after => after,
        };
        *exchange = std::mem::take(&mut ran.exchange);
        let program = self.program.clone();
        let plugin = || program.plugin_key().clone();
        match (result, after) {
            (Err(error), _) => {
                self.keep(exchange, phase);
                Err(error)
            }
            (Ok(()), Some(After::Continue)) => Ok(Next::Done(passed(exchange, Decision::Continue))),
            (Ok(()), Some(After::Respond(reply))) => Ok(Next::Done(passed(exchange, Decision::Respond(reply)))),
            (Ok(()), Some(After::Hold)) => Ok(Next::Done(self.hold(exchange))),
            (Ok(()), Some(After::TooMuch)) => {
                let error = PluginError::TooMuchHeld { plugin: plugin(), limit: self.program.limits().body_buffer };
                self.keep(exchange, phase);
                Err(error)
            }
            (Ok(()), Some(After::Pause(_)) | None) => {
                Err(PluginError::Deadline { plugin: plugin(), waited: started.elapsed() })
            }
        }
    }

    /// Waits until the guest says what becomes of the exchange.
    async fn paused(
        &mut self,
        exchange: &mut Exchange,
        mut resumed: oneshot::Receiver<Resumed>,
        phase: Phase,
        started: Instant,
        until: Instant,
    ) -> Result<Finished, PluginError> {
        let program = self.program.clone();
        let plugin = || program.plugin_key().clone();
        let lost = || PluginError::Lost { plugin: plugin(), phase: phase.as_str() };
        let back = match tokio::time::timeout_at(until.into(), &mut resumed).await {
            Ok(back) => back.map_err(|_| lost())?,
            Err(_) => {
                let at = self.at.ok_or_else(lost)?;
                let slot = self.program.slots.get(at.slot).ok_or_else(lost)?;
                // Calls of the guest are short: whoever has the VM gives it back soon.
                let mut vm = slot.vm.lock().await;
                let is_same = slot.number.load(Ordering::Acquire) == at.number;
                let withdrawn = vm.as_mut().filter(|_| is_same).and_then(|vm| vm.withdraw(at.context));
                drop(vm);
                if let Some(back) = withdrawn {
                    *exchange = back;
                    self.keep(exchange, phase);
                    let plugin = self.program.plugin_key().clone();
                    return Err(PluginError::Deadline { plugin, waited: started.elapsed() });
                }
                // It came back, or its VM ended, just now.
                resumed.try_recv().map_err(|_| lost())?
            }
        };
        *exchange = back.exchange;
        match back.then {
            Then::Respond(reply) => Ok(passed(exchange, Decision::Respond(reply))),
            Then::GoOn => Ok(passed(exchange, Decision::Continue)),
            Then::Hold => Ok(self.hold(exchange)),
            Then::Ended => {
                self.keep(exchange, phase);
                self.ended(phase)
            }
        }
    }

    /// What is held back stays here, what was let go goes on.
    fn hold(&mut self, exchange: &mut Exchange) -> Finished {
        let body = std::mem::take(&mut exchange.body);
        self.held = Held { bytes: body.held, has_last: false };
        Finished { decision: Decision::Continue, replacement: Some(body.released.freeze()) }
    }

    /// After a failure: all of the body that is here, for whoever goes on without the filter.
    fn keep(&mut self, exchange: &mut Exchange, phase: Phase) {
        let mut body = std::mem::take(&mut exchange.body);
        body.released.unsplit(body.held);
        let has_last = matches!(phase, Phase::RequestBody | Phase::ResponseBody);
        self.held = Held { bytes: body.released, has_last };
    }

    /// Its VM has ended, by another exchange's doing most likely.
    fn ended(&mut self, phase: Phase) -> Result<Finished, PluginError> {
        self.at = None;
        match phase {
            Phase::Log => Ok(Finished::nothing()),
            _ => Err(PluginError::Ended { plugin: self.program.plugin_key().clone(), phase: phase.as_str() }),
        }
    }
}

/// What follows a call.
enum Next {
    Done(Finished),
    Wait(oneshot::Receiver<Resumed>),
}

/// The exchange goes on, with what there is of a body.
fn passed(exchange: &mut Exchange, decision: Decision) -> Finished {
    let mut body = std::mem::take(&mut exchange.body);
    body.released.unsplit(body.held);
    let bytes: Bytes = body.released.freeze();
    Finished { decision, replacement: Some(bytes) }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Some(at) = self.at {
            self.program.forget(at.slot, at.number, at.context);
        }
    }
}

impl Drop for Ran {
    fn drop(&mut self) {
        if let (Some(Begins { program, slot, number }), Some(context)) = (&self.begins, self.context) {
            program.forget(*slot, *number, context);
        }
    }
}
