//! Bytes that nobody can guess, from the operating system. `configure` can't use them: all instances would begin with the same.
//!
//! ```
//! use sluice_plugin::random;
//!
//! let token: [u8; 16] = random::array();
//! assert_ne!(token, random::array());
//! assert_eq!(random::bytes(32).len(), 32);
//! ```

use crate::backend::random;

/// At most 65,536 at a time; more ends the call.
pub fn bytes(length: u32) -> Vec<u8> {
    random::get_bytes(length)
}

/// So many bytes, at most 65,536.
pub fn array<const N: usize>() -> [u8; N] {
    let mut array = [0; N];
    let bytes = random::get_bytes(u32::try_from(N).unwrap_or(u32::MAX));
    array.iter_mut().zip(bytes).for_each(|(place, byte)| *place = byte);
    array
}

pub fn number() -> u64 {
    random::get_u64()
}
