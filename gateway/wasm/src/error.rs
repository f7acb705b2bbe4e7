//! Why a call, or the host as a whole, failed.

use sluice_model::Reason;
use sluice_model::plugin::PluginKey;
use std::fmt;
use std::time::Duration;

/// The host could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    #[error("a thread of the plugin host can't be started: {0}")]
    Thread(#[from] std::io::Error),
    #[error("the client that fetches plugins can't be made: {0}")]
    Fetch(#[from] rustls::Error),
}

/// The engine could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EngineError {
    /// Its settings don't fit this machine: most often an address space limit below the pool's.
    #[error("the plugin engine can't reserve its instance pool: {0}")]
    Pool(String),
    #[error("the thread that interrupts plugins can't be started: {0}")]
    Clock(#[from] std::io::Error),
}

/// A call that gave no decision. The use's fail mode says what that means for the request.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PluginError {
    #[error("plugin {plugin}: all {limit} instances that limits.concurrency allows are in use")]
    Busy { plugin: PluginKey, limit: u32 },
    #[error("plugin {plugin}: its share of the gateway's plugin instances or of their memory is used up")]
    PoolFull { plugin: PluginKey },
    #[error("plugin {plugin}: the call took {waited:?}, longer than limits.deadline or the request's timeout allows")]
    Deadline { plugin: PluginKey, waited: Duration },
    #[error("plugin {plugin}: it is not called, because it only failed (limits.circuitBreaker)")]
    CircuitOpen { plugin: PluginKey },
    #[error("plugin {plugin}: {kind} in {phase}: {message}")]
    Trap { plugin: PluginKey, phase: &'static str, kind: TrapKind, message: String },
    /// Another exchange, most likely, ended the VM that this one was in.
    #[error("plugin {plugin}: its VM ended while the exchange was under way, before {phase}")]
    Ended { plugin: PluginKey, phase: &'static str },
    /// What a filter holds back of a body is more than it may.
    #[error("plugin {plugin}: it holds back more than {limit} bytes of a body (limits.bodyBuffer)")]
    TooMuchHeld { plugin: PluginKey, limit: u64 },
    /// A bug of the host: the call panicked, and the exchange it held is gone with it.
    #[error("plugin {plugin}: the host failed while it ran {phase}; the exchange is lost")]
    Lost { plugin: PluginKey, phase: &'static str },
}

impl PluginError {
    /// What the access log and metrics call it where the use fails closed.
    pub fn reason(&self) -> Reason {
        match self {
            PluginError::Busy { .. } | PluginError::PoolFull { .. } | PluginError::Deadline { .. } => {
                Reason::PluginOverloaded
            }
            PluginError::TooMuchHeld { .. } => Reason::BodyTooLarge,
            PluginError::CircuitOpen { .. }
            | PluginError::Trap { .. }
            | PluginError::Ended { .. }
            | PluginError::Lost { .. } => Reason::PluginFailed,
        }
    }

    /// The label `outcome` of `sluice_plugin_calls_total`.
    pub fn outcome(&self) -> &'static str {
        self.kind().as_str()
    }

    pub(crate) fn kind(&self) -> crate::metrics::Outcome {
        use crate::metrics::Outcome;
        match self {
            PluginError::Busy { .. } | PluginError::PoolFull { .. } => Outcome::Busy,
            PluginError::Deadline { .. } => Outcome::Deadline,
            PluginError::CircuitOpen { .. } => Outcome::CircuitOpen,
            PluginError::Trap { .. }
            | PluginError::Ended { .. }
            | PluginError::TooMuchHeld { .. }
            | PluginError::Lost { .. } => Outcome::Failed,
        }
    }
}

/// What ended an instance: the label `kind` of `sluice_plugin_traps_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TrapKind {
    /// It ran longer than `limits.runTime`.
    RunTime,
    /// It asked for more memory than `limits.memory`.
    Memory,
    /// Its calls nest deeper than the stack.
    Stack,
    /// It ended itself: a panic, an assertion, an unreachable instruction.
    Panic,
    /// Memory out of bounds, division by zero, a broken table: a bug in the guest or its compiler.
    Fault,
    /// It used the contract wrongly.
    Contract,
}

impl TrapKind {
    pub const ALL: [TrapKind; 6] =
        [TrapKind::RunTime, TrapKind::Memory, TrapKind::Stack, TrapKind::Panic, TrapKind::Fault, TrapKind::Contract];

    pub const fn as_str(self) -> &'static str {
        match self {
            TrapKind::RunTime => "run_time",
            TrapKind::Memory => "memory",
            TrapKind::Stack => "stack",
            TrapKind::Panic => "panic",
            TrapKind::Fault => "fault",
            TrapKind::Contract => "contract",
        }
    }
}

impl fmt::Display for TrapKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TrapKind::RunTime => "run time exceeded",
            TrapKind::Memory => "memory limit exceeded",
            TrapKind::Stack => "stack exhausted",
            TrapKind::Panic => "panic",
            TrapKind::Fault => "fault",
            TrapKind::Contract => "contract broken",
        })
    }
}
