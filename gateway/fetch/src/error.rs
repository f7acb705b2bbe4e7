//! Why code was not fetched.

use http::StatusCode;
use sluice_model::Code;
use std::time::Duration;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    #[error("{url}: {reason}")]
    Unreachable { url: String, reason: String },
    #[error("{url} answered {status}{detail}")]
    Status {
        url: String,
        status: StatusCode,
        /// What the answer says of it, after a colon.
        detail: String,
    },
    /// By this gateway: a host, an address or a scheme that it does not fetch from.
    #[error("{0}")]
    Refused(String),
    /// What came is not what was to come; it may be another time.
    #[error("{0}")]
    Damaged(String),
    /// What came can't be used, and will be the same the next time.
    #[error("{0}")]
    Unusable(String),
    #[error("{what} is larger than {max} bytes")]
    TooLarge { what: String, max: u64 },
    #[error("{0}")]
    Unsigned(String),
    #[error("it was not fetched within {0:?}")]
    Late(Duration),
}

impl FetchError {
    /// Whether the same may succeed later, without a change of the object.
    pub fn may_mend(&self) -> bool {
        !matches!(self, FetchError::Refused(_) | FetchError::Unusable(_) | FetchError::TooLarge { .. })
    }

    /// The code of the problem.
    pub fn code(&self) -> Code {
        match self {
            FetchError::Unsigned(_) => Code::PluginSignature,
            _ => Code::PluginFetch,
        }
    }

    /// The label `outcome` of `sluice_plugin_fetches_total`.
    pub fn outcome(&self) -> &'static str {
        match self {
            FetchError::Unreachable { .. } => "unreachable",
            FetchError::Status { status, .. } => match *status {
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => "denied",
                StatusCode::NOT_FOUND => "not_found",
                _ => "unreachable",
            },
            FetchError::Refused(_) => "refused",
            FetchError::Damaged(_) | FetchError::Unusable(_) | FetchError::TooLarge { .. } => "invalid",
            FetchError::Unsigned(_) => "unsigned",
            FetchError::Late(_) => "late",
        }
    }
}
