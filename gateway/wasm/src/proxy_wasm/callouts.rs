//! Calls of filters to backends, by number. The guest goes on at once; the answer is a callback, in any later call of its
//! VM.

use super::grpc::{self, Closed};
use crate::outgoing::{FetchError, Outbound, OutboundRequest, OutboundResponse};
use bytes::Bytes;
use foldhash::fast::RandomState;
use std::any::Any;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::task::AbortHandle;

/// Callouts of one VM at a time; what is above is refused.
const MAX_UNDER_WAY: usize = 1_024;

/// What `proxy_get_status` says of a callout that got no answer: a broken connection.
const BROKEN: u32 = 11;

/// What a call is, to the guest that makes it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Http,
    Grpc,
}

impl Kind {
    pub(super) const fn callback(self) -> &'static str {
        match self {
            Kind::Http => "on_http_call_response",
            Kind::Grpc => "on_grpc_receive",
        }
    }
}

/// How a call ended, and the sizes that its callback is told.
pub(super) enum Answered {
    Http { fields: usize, length: usize, trailers: usize },
    Message { length: usize },
    Closed { status: u32 },
}

/// A call that is to be sent.
pub(super) struct Started {
    pub(super) backend: String,
    pub(super) request: OutboundRequest,
    pub(super) outbound: Arc<dyn Outbound>,
    pub(super) kind: Kind,
}

struct UnderWay {
    /// The context that made it.
    context: u32,
    kind: Kind,
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
    /// The message that an answer of gRPC is, and what accounts for its bytes.
    message: Option<(Bytes, Option<Arc<dyn Any + Send + Sync>>)>,
    status: (u32, String),
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
        self.under_way.insert(self.last, UnderWay { context, kind: call.kind, task: None });
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

    pub(super) fn is_grpc(&self, token: u32) -> bool {
        self.under_way.get(&token).is_some_and(|call| call.kind == Kind::Grpc)
    }

    /// Ends a call of gRPC. Its callback is not called; `false` where there is no such call.
    pub(super) fn cancel(&mut self, token: u32) -> bool {
        if !self.is_grpc(token) {
            return false;
        }
        self.started.retain(|(started, _)| *started != token);
        if let Some(UnderWay { task: Some(task), .. }) = self.under_way.remove(&token) {
            task.abort();
        }
        true
    }

    /// The answer is there, or there will be none. With the context that made the call; none where nobody waits for it.
    pub(super) fn answered(
        &mut self,
        token: u32,
        answer: Result<OutboundResponse, FetchError>,
    ) -> Option<(u32, Answered)> {
        let call = self.under_way.remove(&token)?;
        let answered = match call.kind {
            Kind::Http => {
                self.status = if answer.is_ok() { (0, String::new()) } else { (BROKEN, "reset".to_owned()) };
                self.answer = answer.ok();
                let sizes = self.answer.as_ref().map(|answer| Answered::Http {
                    fields: answer.headers.len() + 1,
                    length: answer.body.len(),
                    trailers: answer.trailers.len(),
                });
                sizes.unwrap_or(Answered::Http { fields: 0, length: 0, trailers: 0 })
            }
            Kind::Grpc => {
                match answer.map_err(Closed::failed).and_then(|answer| Ok((grpc::message(&answer)?, answer.held))) {
                    Ok((message, held)) => {
                        let length = message.len();
                        (self.status, self.message) = ((0, String::new()), Some((message, held)));
                        Answered::Message { length }
                    }
                    Err(Closed { status, message }) => {
                        self.status = (status, message);
                        Answered::Closed { status }
                    }
                }
            }
        };
        Some((call.context, answered))
    }

    pub(super) fn message(&self) -> Option<&Bytes> {
        self.message.as_ref().map(|(message, _)| message)
    }

    pub(super) fn answer(&self) -> Option<&OutboundResponse> {
        self.answer.as_ref()
    }

    pub(super) fn status(&self) -> &(u32, String) {
        &self.status
    }

    /// The callback is over.
    pub(super) fn forget_answer(&mut self) {
        (self.answer, self.message) = (None, None);
        self.status = (0, String::new());
    }
}

impl Drop for Callouts {
    fn drop(&mut self) {
        self.under_way.values().filter_map(|call| call.task.as_ref()).for_each(AbortHandle::abort);
    }
}
