//! Signed tokens and the keys that verify them, for the plugins that read them.
//!
//! Nothing of a token is believed before its signature, and whoever reads it says which algorithms there are (RFC 8725).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub mod claims;
pub mod jwks;
pub mod kept;
mod key;
mod token;

pub use key::{Jwk, Key};
pub use token::Token;

// RFC 7518, section 3.1. Those with a shared secret, and `none`, are not among them. A description would be in each schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum Algorithm {
    RS256,
    RS384,
    RS512,
    ES256,
    ES384,
    /// With Ed25519.
    EdDSA,
}
