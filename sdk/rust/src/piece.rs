//! A piece of a body on its way.

use crate::backend;
use crate::headers::Refused;

/// A piece of a body, lent for the length of a call. Where one ends says nothing: a word may lie in two of them.
pub struct Piece<'a> {
    pub(crate) handle: &'a backend::Piece,
}

impl<'a> Piece<'a> {
    #[doc(hidden)]
    pub fn new(handle: &'a backend::Piece) -> Self {
        Piece { handle }
    }

    /// In bytes. It may be empty where it is the last.
    pub fn size(&self) -> u64 {
        self.handle.size()
    }

    /// Copied into the plugin's memory.
    pub fn read(&self) -> Vec<u8> {
        self.handle.read()
    }

    /// Whether the body begins with it.
    pub fn is_first(&self) -> bool {
        self.handle.is_first()
    }

    /// Whether nothing of the body follows.
    pub fn is_last(&self) -> bool {
        self.handle.is_last()
    }

    /// What goes on instead: more, less, or nothing; at most the Plugin's `limits.bodyBuffer` long. What is kept for later
    /// belongs into the state.
    pub fn replace(&mut self, content: &[u8]) -> Result<(), Refused> {
        self.handle.replace(content).map_err(Refused)
    }
}
