//! One exchange's part of a filter: its stream context, in the VM that it began with.

use super::program::Program;
use super::state::Resumed;
use super::vm::{After, Vm};
use crate::configured::{Permit, Phase};
use crate::decision::Decision;
use crate::error::PluginError;
use crate::exchange::Exchange;
use crate::instance::{Call, Finished};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;
use tokio::sync::oneshot;

pub(crate) struct Stream {
    program: Arc<Program>,
    at: Option<At>,
    /// One of the exchanges that `limits.concurrency` allows.
    permit: Option<Permit>,
}

/// Where its context is.
#[derive(Clone, Copy)]
struct At {
    slot: usize,
    number: u32,
    context: u32,
}

/// What comes back from a VM.
struct Ran {
    exchange: Exchange,
    context: Option<u32>,
    after: Option<After>,
}

impl Stream {
    pub(crate) fn new(program: Arc<Program>) -> Stream {
        Stream { program, at: None, permit: None }
    }

    /// A tunnel of hours counts no more.
    pub(crate) fn release(&mut self) {
        self.permit = None;
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
        // A filter sees no response to a request that it has not seen, but its end it does.
        if self.at.is_none() && phase == Phase::ResponseHeaders {
            return Ok(Finished::nothing());
        }
        let late = |waited| PluginError::Deadline { plugin: program.plugin_key().clone(), waited };
        let (slot, vm) = match self.at {
            Some(at) => match program.same_vm(at.slot, at.number, until).await? {
                Some(vm) => (at.slot, vm),
                None => {
                    self.at = None;
                    return self.ended(phase);
                }
            },
            None => {
                if self.permit.is_none() {
                    self.permit =
                        Some(program.plugin.admit_stream(program.plugin_key(), program.limits().concurrency)?);
                }
                program.vm(until).await?
            }
        };
        // In this order: whoever has a thread and no VM would keep it from whoever makes one.
        let way = program.way(Some(until), false).await?;
        let number = program.slots.get(slot).map_or(0, |slot| slot.number.load(Ordering::Acquire));
        let mut ran = Ran { exchange: std::mem::take(exchange), context: self.at.map(|at| at.context), after: None };
        let work = move |vm: &mut Vm| {
            let after = vm.phase(&mut ran.context, &mut ran.exchange, call);
            let result = after.map(|after| ran.after = Some(after));
            (ran, result)
        };
        let (ran, result) = program.run(slot, vm, way, Some(until), phase.as_str(), work).await?;
        self.at = ran.context.map(|context| At { slot, number, context });
        if phase == Phase::Log || result.is_err() {
            // The context has ended, or its VM has.
            self.at = None;
        }
        let after = match ran.after {
            Some(After::Pause(resumed)) => return self.paused(exchange, resumed, phase, started, until).await,
            after => after,
        };
        *exchange = ran.exchange;
        result?;
        match after {
            Some(After::Respond(reply)) => Ok(finished(Decision::Respond(reply))),
            Some(After::Continue) => Ok(Finished::nothing()),
            Some(After::Pause(_)) | None => Err(late(started.elapsed())),
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
        let plugin = || self.program.plugin_key().clone();
        let lost = || PluginError::Lost { plugin: plugin(), phase: phase.as_str() };
        let back = match tokio::time::timeout_at(until.into(), &mut resumed).await {
            Ok(back) => back.map_err(|_| lost())?,
            Err(_) => {
                let at = self.at.ok_or_else(lost)?;
                let slot = self.program.slots.get(at.slot).ok_or_else(lost)?;
                // Calls of the guest are short: whoever has the VM gives it back soon.
                let mut vm = slot.vm.clone().lock_owned().await;
                let is_same = slot.number.load(Ordering::Acquire) == at.number;
                let withdrawn = vm.as_mut().filter(|_| is_same).and_then(|vm| vm.withdraw(at.context));
                if let Some(back) = withdrawn {
                    *exchange = back;
                    return Err(PluginError::Deadline { plugin: plugin(), waited: started.elapsed() });
                }
                // It came back, or its VM ended, just now.
                resumed.try_recv().map_err(|_| lost())?
            }
        };
        *exchange = back.exchange;
        match back.reply {
            Some(Some(reply)) => Ok(finished(Decision::Respond(reply))),
            Some(None) => Ok(Finished::nothing()),
            None => {
                self.at = None;
                self.ended(phase)
            }
        }
    }

    /// Its VM has ended, by another exchange's doing most likely.
    fn ended(&self, phase: Phase) -> Result<Finished, PluginError> {
        match phase {
            Phase::Log => Ok(Finished::nothing()),
            _ => Err(PluginError::Ended { plugin: self.program.plugin_key().clone(), phase: phase.as_str() }),
        }
    }
}

fn finished(decision: Decision) -> Finished {
    Finished { decision, replacement: None }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Some(At { slot, number, context }) = self.at
            && let Some(slot) = self.program.slots.get(slot)
        {
            slot.left.push((number, context));
            self.program.bell.notify_one();
        }
    }
}
