//! What requests, responses and replies have in common.

use std::fmt;

/// Why the gateway refused a change: the name, value or path is not valid, or it is not a plugin's to set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused(pub(crate) String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

impl From<Refused> for String {
    fn from(refused: Refused) -> String {
        refused.0
    }
}

/// The methods that every set of header fields has.
macro_rules! fields {
    () => {
        /// The first value. Names are compared without case.
        pub fn header(&self, name: &str) -> Option<Vec<u8>> {
            self.handle.header(name)
        }

        /// The first value, where it is UTF-8.
        pub fn header_str(&self, name: &str) -> Option<String> {
            String::from_utf8(self.handle.header(name)?).ok()
        }

        /// Every value, in the order in which they came.
        pub fn header_values(&self, name: &str) -> Vec<Vec<u8>> {
            self.handle.header_values(name)
        }

        /// Every field, names in lower case. [`Self::header`] is cheaper.
        pub fn headers(&self) -> Vec<(String, Vec<u8>)> {
            self.handle.headers()
        }

        /// Replaces every value.
        pub fn set_header(&mut self, name: &str, value: impl AsRef<[u8]>) -> Result<(), $crate::Refused> {
            self.handle.set_header(name, value.as_ref()).map_err($crate::Refused)
        }

        /// Adds one more value.
        pub fn append_header(&mut self, name: &str, value: impl AsRef<[u8]>) -> Result<(), $crate::Refused> {
            self.handle.append_header(name, value.as_ref()).map_err($crate::Refused)
        }

        /// Removes every value; removing what is not there is no error.
        pub fn remove_header(&mut self, name: &str) -> Result<(), $crate::Refused> {
            self.handle.remove_header(name).map_err($crate::Refused)
        }
    };
}
pub(crate) use fields;
