//! Calls of filters to backends, by number. The guest goes on at once; the answer is a callback, in any later call of its
//! VM.

use crate::outgoing::{Outbound, OutboundRequest, OutboundResponse};
use foldhash::fast::RandomState;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::task::AbortHandle;

/// Callouts of one VM at a time; what is above is refused.
const MAX_UNDER_WAY: usize = 1_024;

/// What `proxy_get_status` says of a callout that got no answer: a broken connection.
const BROKEN: u32 = 11;

/// A call that is to be sent.
pub(super) struct Started {
    pub(super) backend: String,
    pub(super) request: OutboundRequest,
    pub(super) outbound: Arc<dyn Outbound>,
}

struct UnderWay {
    /// The context that made it.
    context: u32,
    task: Option<AbortHandle>,
}

#[derive(Default)]
pub(super) struct Callouts {
    last: u32,
    /// The guest has made them, and has not returned yet.
    started: Vec<(u32, Started)>,
    /// Dropped with the VM, whose calls then end.
    under_way: HashMap<u32, UnderWay, RandomState>,
    /// Of the callout whose callback runs; none where it failed.
    answer: Option<OutboundResponse>,
    status: (u32, &'static str),
    /// What the plugin may call outside of an exchange: in ticks, and when it is configured.
    own: Option<Arc<dyn Outbound>>,
}

impl Callouts {
    pub(super) fn new(own: Option<Arc<dyn Outbound>>) -> Callouts {
        let mut callouts = Callouts::default();
        callouts.own = own;
        callouts
    }

    pub(super) fn own(&self) -> Option<Arc<dyn Outbound>> {
        self.own.clone()
    }

    /// Its number; none where too many are under way.
    pub(super) fn start(&mut self, context: u32, call: Started) -> Option<u32> {
        if self.under_way.len() >= MAX_UNDER_WAY {
            return None;
        }
        loop {
            self.last = self.last.wrapping_add(1);
            if self.last != 0 && !self.under_way.contains_key(&self.last) {
                break;
            }
        }
        self.under_way.insert(self.last, UnderWay { context, task: None });
        self.started.push((self.last, call));
        Some(self.last)
    }

    /// What is to be sent now.
    pub(super) fn take_started(&mut self) -> Vec<(u32, Started)> {
        std::mem::take(&mut self.started)
    }

    pub(super) fn sent(&mut self, token: u32, task: AbortHandle) {
        match self.under_way.get_mut(&token) {
            Some(call) => call.task = Some(task),
            None => task.abort(),
        }
    }

    /// Whether a context waits for an answer.
    pub(super) fn waits(&self, context: u32) -> bool {
        self.under_way.values().any(|call| call.context == context)
    }

    /// The answer is there, or there will be none. The context that made the call; none where nobody waits for it.
    pub(super) fn answered(&mut self, token: u32, answer: Option<OutboundResponse>) -> Option<u32> {
        self.status = if answer.is_some() { (0, "") } else { (BROKEN, "reset") };
        self.answer = answer;
        self.under_way.remove(&token).map(|call| call.context)
    }

    pub(super) fn answer(&self) -> Option<&OutboundResponse> {
        self.answer.as_ref()
    }

    pub(super) fn status(&self) -> (u32, &'static str) {
        self.status
    }

    /// The callback is over.
    pub(super) fn forget_answer(&mut self) {
        self.answer = None;
        self.status = (0, "");
    }
}

impl Drop for Callouts {
    fn drop(&mut self) {
        self.under_way.values().filter_map(|call| call.task.as_ref()).for_each(AbortHandle::abort);
    }
}
