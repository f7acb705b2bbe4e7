//! The time, on the gateway's clocks. `configure` can't use them.
//!
//! ```
//! use sluice_plugin::{clock, testing::Services};
//! use std::time::Duration;
//!
//! let services = Services::new();
//! let (began, now) = (clock::monotonic(), clock::now());
//! services.advance(Duration::from_secs(2));
//! assert_eq!(clock::monotonic() - began, Duration::from_secs(2));
//! assert_eq!(clock::now() - now, Duration::from_secs(2));
//! ```

use crate::backend::clock;
use std::time::Duration;

/// Since 1970-01-01T00:00:00Z.
pub fn now() -> Duration {
    Duration::from_nanos(clock::now())
}

/// On a clock that never goes back; only differences mean something.
pub fn monotonic() -> Duration {
    Duration::from_nanos(clock::monotonic())
}
