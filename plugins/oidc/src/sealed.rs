//! What is given to browsers, so that they can neither read nor change it: XChaCha20-Poly1305, with keys that are derived of
//! the configuration's secrets.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
use hkdf::Hkdf;
use sha2::Sha256;
use sluice_plugin::{log, random, secrets};

/// Bytes of a nonce. So many may be random: no two will be alike.
const NONCE: usize = 24;

/// Bytes of a secret, at least.
const SECRET: usize = 32;

/// What the key is for (RFC 5869, section 3.2).
const INFO: &[u8] = b"sluice oidc 1";

/// Names of secrets, and the configuration that they seal for.
#[derive(Debug)]
pub(crate) struct Seal {
    pub(crate) secrets: Vec<String>,
    pub(crate) fingerprint: String,
}

impl Seal {
    /// A text for a cookie. What was sealed for one purpose opens for no other.
    pub(crate) fn seal(&self, purpose: &str, content: &[u8]) -> Result<String, String> {
        let name = self.secrets.first().ok_or("there is no secret of sessions")?;
        let nonce: [u8; NONCE] = random::array();
        let payload = Payload { msg: content, aad: &self.bound_to(purpose) };
        let sealed =
            cipher(name)?.encrypt(&XNonce::from(nonce), payload).map_err(|_| "it is too large to be sealed")?;
        Ok(BASE64_URL_SAFE_NO_PAD.encode([nonce.as_slice(), &sealed].concat()))
    }

    /// None for whatever was not sealed with one of the secrets, for this purpose and configuration.
    pub(crate) fn open(&self, purpose: &str, sealed: &str) -> Option<Vec<u8>> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(sealed).ok()?;
        let (nonce, sealed) = bytes.split_first_chunk::<NONCE>()?;
        let (nonce, bound) = (XNonce::from(*nonce), self.bound_to(purpose));
        self.secrets.iter().find_map(|name| {
            let cipher = cipher(name).map_err(|reason| log::error(&reason)).ok()?;
            cipher.decrypt(&nonce, Payload { msg: sealed, aad: &bound }).ok()
        })
    }

    fn bound_to(&self, purpose: &str) -> Vec<u8> {
        format!("{}\n{purpose}", self.fingerprint).into_bytes()
    }
}

fn cipher(name: &str) -> Result<XChaCha20Poly1305, String> {
    let secret = secrets::get(name).ok_or_else(|| format!("there is no secret `{name}`"))?;
    if secret.len() < SECRET {
        return Err(format!("the secret `{name}` has {} bytes, and needs {SECRET}", secret.len()));
    }
    let mut key = [0; 32];
    let derived = Hkdf::<Sha256>::new(None, &secret).expand(INFO, &mut key);
    derived.map_err(|error| format!("no key can be made of the secret `{name}`: {error}"))?;
    Ok(XChaCha20Poly1305::new(&Key::from(key)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_plugin::testing::Services;

    const OLD: &str = "a secret of thirty-two bytes, old";
    const NEW: &str = "a secret of thirty-two bytes, new";

    fn seal(secrets: &[&str], fingerprint: &str) -> Seal {
        Seal { secrets: secrets.iter().map(|name| (*name).to_owned()).collect(), fingerprint: fingerprint.to_owned() }
    }

    #[test]
    fn what_is_sealed_opens_for_its_purpose_and_configuration_alone() {
        let _services = Services::new().secret("a", OLD);
        let (one, other) = (seal(&["a"], "one"), seal(&["a"], "other"));
        let sealed = one.seal("session", b"content").unwrap();
        assert_eq!(one.open("session", &sealed).as_deref(), Some(&b"content"[..]));
        assert_eq!(one.open("login", &sealed), None);
        assert_eq!(other.open("session", &sealed), None);
        assert_ne!(sealed, one.seal("session", b"content").unwrap(), "each has a nonce of its own");
    }

    #[test]
    fn no_character_of_it_can_be_changed() {
        let _services = Services::new().secret("a", OLD);
        let seal = seal(&["a"], "one");
        let sealed = seal.seal("session", b"content!").unwrap();
        for at in 0..sealed.len() {
            let other = if sealed.as_bytes()[at] == b'A' { "B" } else { "A" };
            let changed = format!("{}{other}{}", &sealed[..at], &sealed[at + 1..]);
            assert_eq!(seal.open("session", &changed), None, "{at}");
        }
        for text in ["", "A", "????", &sealed[..20], &sealed[..sealed.len() - 1], "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"] {
            assert_eq!(seal.open("session", text), None, "{text}");
        }
    }

    #[test]
    fn a_new_secret_seals_while_the_old_one_still_opens() {
        let services = Services::new().secret("old", OLD);
        let before = seal(&["old"], "one").seal("session", b"1").unwrap();
        services.rotate("new", NEW);
        let both = seal(&["new", "old"], "one");
        assert!(both.open("session", &before).is_some());
        let after = both.seal("session", b"2").unwrap();
        assert!(seal(&["new"], "one").open("session", &after).is_some());
        assert_eq!(seal(&["new"], "one").open("session", &before), None, "the old one is gone");
        services.revoke("old");
        assert_eq!(both.open("session", &before), None);
    }

    #[test]
    fn a_secret_that_is_short_or_missing_seals_nothing() {
        let _services = Services::new().secret("short", "hunter2");
        let refused = |name| seal(&[name], "one").seal("session", b"1").unwrap_err();
        assert_eq!(refused("short"), "the secret `short` has 7 bytes, and needs 32");
        assert_eq!(refused("missing"), "there is no secret `missing`");
    }
}
