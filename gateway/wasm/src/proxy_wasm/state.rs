//! What the host's functions work on: the data of a VM's store.

use super::abi::{Answer, Status, Version};
use super::callouts::Callouts;
use super::shared::QueueOwner;
use crate::configured::{Phase, PluginState};
use crate::decision::LocalReply;
use crate::exchange::{Exchange, Summary};
use crate::limits::Limits;
use crate::services::Handle;
use foldhash::fast::RandomState;
use sluice_model::plugin::PluginKey;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tracing::Level;
use wasmtime::{Memory, TypedFunc};

/// The root context's number: there is one configuration a VM.
pub(super) const ROOT: u32 = 1;

/// The shortest time between two ticks: what a filter asks for below is this.
pub(super) const SHORTEST_TICK: Duration = Duration::from_millis(10);

/// What all VMs of one configuration have in common.
pub(super) struct Settings {
    pub(super) plugin: PluginKey,
    pub(super) version: Version,
    /// As `proxy_on_configure` reads it.
    pub(super) configuration: bytes::Bytes,
    /// Bytes of a body that is held, of an answer to a callout, and of a local reply.
    pub(super) body_buffer: u64,
}

pub(crate) struct VmState {
    pub(super) limits: Limits,
    pub(super) plugin: Arc<PluginState>,
    pub(super) settings: Arc<Settings>,
    pub(super) memory: Option<Memory>,
    pub(super) allocate: Option<TypedFunc<u32, u32>>,
    pub(super) streams: HashMap<u32, StreamContext, RandomState>,
    /// The context that the guest is called for.
    pub(super) running: u32,
    /// The one that it has chosen instead; 0 where it has not.
    pub(super) effective: u32,
    pub(super) tick: Option<Duration>,
    pub(super) callouts: Callouts,
    /// Metrics by their numbers.
    pub(super) metrics: Vec<Handle>,
    /// Where queues that it registers tell that something waits in them.
    pub(super) queues: QueueOwner,
    /// Streams that were paused and may go on.
    pub(super) woken: Vec<u32>,
    /// The last warning or error of a filter that is being configured; none once it is.
    pub(super) said: Option<String>,
}

/// One exchange, as the guest knows it by its number.
#[derive(Default)]
pub(super) struct StreamContext {
    /// Lent for the length of a call, or of a pause.
    pub(super) exchange: Option<Exchange>,
    /// The phase that it is in; none between two.
    pub(super) phase: Option<Phase>,
    /// The guest has asked for it to go on since the phase began.
    pub(super) resumed: bool,
    pub(super) reply: Option<Box<LocalReply>>,
    pub(super) summary: Option<Summary>,
    /// The piece that it is called for is its message's last.
    pub(super) ends: bool,
    /// Between two pieces of a body: the phase in which it holds back what there was of it.
    pub(super) holds: Option<Phase>,
    /// It has let that go meanwhile.
    pub(super) released: bool,
    /// Who waits for the end of a pause.
    pub(super) waiter: Option<oneshot::Sender<Resumed>>,
}

/// The end of a pause.
pub(super) struct Resumed {
    pub(super) exchange: Exchange,
    pub(super) then: Then,
}

/// What becomes of an exchange that was paused.
pub(super) enum Then {
    GoOn,
    Respond(Box<LocalReply>),
    /// The body is held back, as before.
    Hold,
    /// The VM has ended.
    Ended,
}

impl VmState {
    /// The context that a function is about.
    pub(super) fn context(&self) -> u32 {
        let is_known = self.effective == ROOT || self.streams.contains_key(&self.effective);
        if is_known { self.effective } else { self.running }
    }

    pub(super) fn stream(&self) -> Option<&StreamContext> {
        self.streams.get(&self.context())
    }

    pub(super) fn stream_mut(&mut self) -> Option<&mut StreamContext> {
        let context = self.context();
        self.streams.get_mut(&context)
    }

    /// The exchange that a function is about, while it is lent.
    pub(super) fn exchange(&self) -> Option<&Exchange> {
        self.stream()?.exchange.as_ref()
    }

    pub(super) fn exchange_mut(&mut self) -> Option<&mut Exchange> {
        self.stream_mut()?.exchange.as_mut()
    }

    /// Whether the stream that a function is about is in this phase, so that its message may be changed.
    pub(super) fn is_in(&self, phase: Phase) -> bool {
        self.stream().is_some_and(|stream| stream.phase == Some(phase))
    }

    /// Says in the plugin's log why a function refuses, and refuses.
    pub(super) fn refuse<T>(&self, status: Status, function: &str, why: &dyn std::fmt::Display) -> Answer<T> {
        self.plugin.log.line(Level::WARN, &format!("{function}: {why}"));
        Err(status.into())
    }

    /// The stream that a function is about goes on once the guest returns.
    pub(super) fn wake(&mut self) {
        let context = self.context();
        self.woken.push(context);
    }
}
