//! A body that was read whole.

use crate::backend;
use crate::headers::Refused;

/// The body of a request or a response, lent for the length of a call.
pub struct Body<'a> {
    pub(crate) handle: &'a backend::Body,
}

impl<'a> Body<'a> {
    #[doc(hidden)]
    pub fn new(handle: &'a backend::Body) -> Self {
        Body { handle }
    }

    /// In bytes.
    pub fn size(&self) -> u64 {
        self.handle.size()
    }

    /// At most `length` bytes from `offset`.
    pub fn read(&self, offset: u64, length: u64) -> Vec<u8> {
        self.handle.read(offset, length)
    }

    /// All of it, copied into the plugin's memory.
    pub fn to_vec(&self) -> Vec<u8> {
        self.read(0, self.size())
    }

    /// The body that goes on instead, at most the Plugin's `limits.bodyBuffer` long.
    pub fn replace(&mut self, content: &[u8]) -> Result<(), Refused> {
        self.handle.replace(content).map_err(Refused)
    }
}
