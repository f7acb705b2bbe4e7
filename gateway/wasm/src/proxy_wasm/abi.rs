//! Words of the ABI (proxy-wasm/spec, versions 0.1.0, 0.2.0 and 0.2.1).

use crate::instance::ContractBroken;

/// What a host function answers: `proxy_status_t`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Status {
    Ok = 0,
    NotFound = 1,
    BadArgument = 2,
    ParseFailure = 4,
    InvalidMemoryAccess = 6,
    Empty = 7,
    CasMismatch = 8,
    InternalFailure = 10,
    Unimplemented = 12,
}

/// Why a host function did not do what it was asked for.
pub(super) enum Stop {
    /// The guest is told, and goes on.
    Told(Status),
    /// The guest's own code, called for memory, ended.
    Ended(wasmtime::Error),
}

impl From<Status> for Stop {
    fn from(status: Status) -> Stop {
        Stop::Told(status)
    }
}

impl From<wasmtime::Error> for Stop {
    fn from(error: wasmtime::Error) -> Stop {
        Stop::Ended(error)
    }
}

impl From<ContractBroken> for Stop {
    fn from(broken: ContractBroken) -> Stop {
        Stop::Ended(broken.into())
    }
}

pub(super) type Answer<T = ()> = Result<T, Stop>;

/// As the guest gets it.
pub(super) fn status(answer: Answer) -> wasmtime::Result<u32> {
    match answer {
        Ok(()) => Ok(Status::Ok as u32),
        Err(Stop::Told(status)) => Ok(status as u32),
        Err(Stop::Ended(error)) => Err(error),
    }
}

/// The version that a module names by an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    V0_1_0,
    V0_2_0,
    V0_2_1,
}

impl Version {
    pub(super) const ALL: [Version; 3] = [Version::V0_2_1, Version::V0_2_0, Version::V0_1_0];

    pub(super) const fn marker(self) -> &'static str {
        match self {
            Version::V0_1_0 => "proxy_abi_version_0_1_0",
            Version::V0_2_0 => "proxy_abi_version_0_2_0",
            Version::V0_2_1 => "proxy_abi_version_0_2_1",
        }
    }
}

/// `proxy_action_t`: anything but this pauses.
pub(super) const CONTINUE: u32 = 0;

/// `proxy_stream_type_t`.
pub(super) const REQUEST: u32 = 0;
pub(super) const RESPONSE: u32 = 1;
/// Of TCP, which no filter here is for.
pub(super) const DOWNSTREAM: u32 = 2;
pub(super) const UPSTREAM: u32 = 3;

/// `proxy_buffer_type_t`.
pub(super) mod buffer {
    pub(crate) const REQUEST_BODY: u32 = 0;
    pub(crate) const RESPONSE_BODY: u32 = 1;
    pub(crate) const CALL_RESPONSE_BODY: u32 = 4;
    pub(crate) const GRPC_RECEIVE: u32 = 5;
    pub(crate) const VM_CONFIGURATION: u32 = 6;
    pub(crate) const PLUGIN_CONFIGURATION: u32 = 7;
    pub(crate) const LAST: u32 = 8;
}

/// `proxy_map_type_t`.
pub(super) mod map {
    pub(crate) const REQUEST_HEADERS: u32 = 0;
    pub(crate) const RESPONSE_HEADERS: u32 = 2;
    pub(crate) const RESPONSE_TRAILERS: u32 = 3;
    pub(crate) const CALL_RESPONSE_HEADERS: u32 = 6;
    pub(crate) const CALL_RESPONSE_TRAILERS: u32 = 7;
    pub(crate) const LAST: u32 = 7;
}

/// `proxy_metric_type_t`.
pub(super) mod metric {
    pub(crate) const COUNTER: u32 = 0;
    pub(crate) const GAUGE: u32 = 1;
    pub(crate) const HISTOGRAM: u32 = 2;
}
