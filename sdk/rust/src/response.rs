//! The head of the response.

use crate::backend;
use crate::headers::{Refused, fields};

/// A response's head, lent for the length of a call.
pub struct Response<'a> {
    pub(crate) handle: &'a backend::Response,
}

impl<'a> Response<'a> {
    #[doc(hidden)]
    pub fn new(handle: &'a backend::Response) -> Self {
        Response { handle }
    }

    pub fn status(&self) -> u16 {
        self.handle.status()
    }

    /// 200 to 599.
    pub fn set_status(&mut self, status: u16) -> Result<(), Refused> {
        self.handle.set_status(status).map_err(Refused)
    }

    fields!();
}
