//! How an exchange ended.

use crate::backend;
use std::time::Duration;

/// For the log phase.
pub struct Summary<'a> {
    pub(crate) handle: &'a backend::Summary,
}

impl<'a> Summary<'a> {
    #[doc(hidden)]
    pub fn new(handle: &'a backend::Summary) -> Self {
        Summary { handle }
    }

    /// From the request's first byte to the response's last.
    pub fn duration(&self) -> Duration {
        Duration::from_nanos(self.handle.duration())
    }

    /// Bytes of the request's body.
    pub fn bytes_received(&self) -> u64 {
        self.handle.bytes_received()
    }

    /// Bytes of the response's body.
    pub fn bytes_sent(&self) -> u64 {
        self.handle.bytes_sent()
    }

    /// Why the gateway gave or changed the answer, in the access log's words; none for the backend's answer.
    pub fn reason(&self) -> Option<String> {
        self.handle.reason()
    }
}
