//! Trailer fields.

use crate::backend;
use crate::headers::Refused;

/// The fields that follow a response's body, lent for the length of a call.
pub struct Trailers<'a> {
    pub(crate) handle: &'a backend::Trailers,
}

impl<'a> Trailers<'a> {
    #[doc(hidden)]
    pub fn new(handle: &'a backend::Trailers) -> Self {
        Trailers { handle }
    }

    /// The first value. Names are compared without case.
    pub fn get(&self, name: &str) -> Option<Vec<u8>> {
        self.handle.get(name)
    }

    /// The first value, where it is UTF-8.
    pub fn get_str(&self, name: &str) -> Option<String> {
        String::from_utf8(self.get(name)?).ok()
    }

    /// Every value, in order.
    pub fn get_all(&self, name: &str) -> Vec<Vec<u8>> {
        self.handle.get_all(name)
    }

    /// Every field, in lower case.
    pub fn entries(&self) -> Vec<(String, Vec<u8>)> {
        self.handle.entries()
    }

    /// Replaces every value of a field by this one.
    pub fn set(&mut self, name: &str, value: impl AsRef<[u8]>) -> Result<(), Refused> {
        self.handle.set(name, value.as_ref()).map_err(Refused)
    }

    /// Adds one more value.
    pub fn append(&mut self, name: &str, value: impl AsRef<[u8]>) -> Result<(), Refused> {
        self.handle.append(name, value.as_ref()).map_err(Refused)
    }

    /// Removes every value.
    pub fn remove(&mut self, name: &str) -> Result<(), Refused> {
        self.handle.remove(name).map_err(Refused)
    }
}
