//! Tokens of session persistence (GEP-1619): what a client is given, and brings back to come to the same endpoint.
//!
//! A token names an endpoint by a number that only the gateway can make, says when the session began and was last used, and
//! is signed for one scope (a rule, or a rule and a backend). It holds no address, and leads to nothing but the endpoints of the
//! backends of its rule. All that is secret comes from one [`SessionSecret`]: replicas that have the same one keep each other's
//! sessions, and share nothing else.
//!
//! ```text
//! endpoint ─► EndpointTags ─► tag ─┐
//! began, used ─────────────────────┼─► SessionKey::seal ─► token ─► client ─► SessionKey::open ─► tag ─► endpoint
//! ```

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use sha2::{Digest, Sha256};
use sluice_model::config::{BackendKey, EndpointId, SessionPersistence};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// What the tokens of this gateway are made with.
#[derive(Clone, PartialEq, Eq)]
pub struct SessionSecret([u8; 32]);

impl SessionSecret {
    /// Of whatever bytes are secret: at least 32 that cannot be guessed.
    pub fn new(material: &[u8]) -> Self {
        SessionSecret(Sha256::digest(material).into())
    }

    /// Of nothing: what cannot be guessed are the UIDs of the cluster's objects, which are signed and hashed along. Every
    /// replica knows them.
    pub fn of_cluster() -> Self {
        SessionSecret::new(b"")
    }

    fn derive(&self, purpose: &str, parts: &[&str]) -> hmac::Key {
        let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &self.0));
        for part in std::iter::once(&purpose).chain(parts) {
            // Each with its length, so that no two lists of parts read alike.
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part.as_bytes());
        }
        hmac::Key::new(hmac::HMAC_SHA256, context.sign().as_ref())
    }
}

impl fmt::Debug for SessionSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionSecret")
    }
}

/// What stands for the endpoints of one Service's port. The same whatever the policy of the backend.
#[derive(Clone, Debug)]
pub(crate) struct EndpointTags(hmac::Key);

impl EndpointTags {
    pub(crate) fn new(secret: &SessionSecret, backend: &BackendKey) -> Self {
        let service = &backend.service;
        let parts = [&*service.namespace, &*service.name, &*backend.uid, &backend.port.to_string()];
        EndpointTags(secret.derive("endpoints", &parts))
    }

    pub(crate) fn of(&self, endpoint: &EndpointId) -> u64 {
        let mut context = hmac::Context::with_key(&self.0);
        match endpoint.address {
            IpAddr::V4(address) => context.update(&address.octets()),
            IpAddr::V6(address) => context.update(&address.octets()),
        }
        context.update(&endpoint.port.to_be_bytes());
        context.update(endpoint.target.as_bytes());
        first_eight(context.sign().as_ref())
    }
}

fn first_eight(bytes: &[u8]) -> u64 {
    bytes.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Sessions of one rule at one or several backends, with the key that signs them.
#[derive(Debug)]
pub struct SessionRuntime {
    pub config: Arc<SessionPersistence>,
    key: hmac::Key,
}

/// A session as its token has it. Times are seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Session {
    pub(crate) began: u32,
    pub(crate) used: u32,
    pub(crate) tag: u64,
}

const VERSION: u8 = 1;
const SIGNED: usize = 1 + 4 + 4 + 8;
const TOKEN: usize = SIGNED + 32;
/// Characters of a token.
pub(crate) const TOKEN_TEXT: usize = (TOKEN * 4).div_ceil(3);

impl SessionRuntime {
    pub(crate) fn new(secret: &SessionSecret, config: Arc<SessionPersistence>) -> Self {
        let key = secret.derive("scope", &[&config.scope]);
        SessionRuntime { config, key }
    }

    pub(crate) fn seal(&self, session: Session) -> String {
        let mut bytes = [0; TOKEN];
        let (signed, signature) = bytes.split_at_mut(SIGNED);
        signed[0] = VERSION;
        signed[1..5].copy_from_slice(&session.began.to_be_bytes());
        signed[5..9].copy_from_slice(&session.used.to_be_bytes());
        signed[9..].copy_from_slice(&session.tag.to_be_bytes());
        signature.copy_from_slice(hmac::sign(&self.key, signed).as_ref());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// `None`: it was not made for this scope, or by nobody who has the secret.
    pub(crate) fn open(&self, token: &[u8]) -> Option<Session> {
        if token.len() != TOKEN_TEXT {
            return None;
        }
        // As large as the decoder may ask for.
        let mut bytes = [0; TOKEN + 3];
        let length = URL_SAFE_NO_PAD.decode_slice(token, &mut bytes).ok()?;
        let (signed, signature) = bytes.get(..length)?.split_at_checked(SIGNED)?;
        hmac::verify(&self.key, signed, signature).ok()?;
        let number = |range: std::ops::Range<usize>| first_eight(signed.get(range).unwrap_or_default());
        if signed.first() != Some(&VERSION) {
            return None;
        }
        let time = |range| u32::try_from(number(range)).unwrap_or(u32::MAX);
        Some(Session { began: time(1..5), used: time(5..9), tag: number(9..17) })
    }

    /// Whether the session is over by its timeouts.
    pub(crate) fn is_over(&self, session: Session, now: u32) -> bool {
        let passed = |since: u32, limit: Option<std::time::Duration>| {
            limit.is_some_and(|limit| u64::from(now.saturating_sub(since)) >= limit.as_secs())
        };
        passed(session.began, self.config.absolute_timeout) || passed(session.used, self.config.idle_timeout)
    }
}

/// Seconds since 1970.
pub(crate) fn now() -> u32 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u32::try_from(since.as_secs()).unwrap_or(u32::MAX)
}

/// What becomes of a client's token: the label `result` of `sluice_sessions_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SessionResult {
    /// The request goes to its session's endpoint.
    Kept,
    /// It brought no token.
    Begun,
    /// Its session's endpoint takes no requests now, or is gone.
    Moved,
    /// Its session is over by a timeout.
    Expired,
    /// Its token is none of ours, or of another rule.
    Refused,
}

impl SessionResult {
    pub(crate) const ALL: [&'static str; 5] = ["kept", "begun", "moved", "expired", "refused"];
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_model::config::SessionCarrier;
    use sluice_model::object::NamespacedName;
    use std::time::Duration;

    fn sessions(secret: &SessionSecret, scope: &str) -> SessionRuntime {
        let carrier = SessionCarrier::Cookie { name: "s".into(), permanent: false };
        let config = SessionPersistence {
            carrier,
            absolute_timeout: Some(Duration::from_secs(100)),
            idle_timeout: Some(Duration::from_secs(10)),
            scope: scope.into(),
        };
        SessionRuntime::new(secret, Arc::new(config))
    }

    const SESSION: Session = Session { began: 1_700_000_000, used: 1_700_000_007, tag: 0x0102_0304_0506_0708 };

    #[test]
    fn a_token_is_read_by_whoever_has_the_secret_and_by_nobody_else() {
        let secret = SessionSecret::new(b"of replicas");
        let token = sessions(&secret, "rule").seal(SESSION);
        assert_eq!(token.len(), TOKEN_TEXT);
        assert_eq!(sessions(&secret, "rule").open(token.as_bytes()), Some(SESSION));
        assert_eq!(sessions(&secret, "another rule").open(token.as_bytes()), None);
        assert_eq!(sessions(&SessionSecret::new(b"of others"), "rule").open(token.as_bytes()), None);
    }

    #[test]
    fn no_bit_of_a_token_can_be_changed() {
        let sessions = sessions(&SessionSecret::new(b"s"), "rule");
        let token = sessions.seal(SESSION).into_bytes();
        for at in 0..token.len() {
            let mut other = token.clone();
            other[at] = if other[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(sessions.open(&other), None, "{at}");
        }
        for other in [&b""[..], b"x", &token[1..], &[b'='; TOKEN_TEXT], &[0xff; TOKEN_TEXT]] {
            assert_eq!(sessions.open(other), None);
        }
    }

    #[test]
    fn a_session_ends_by_either_timeout() {
        let sessions = sessions(&SessionSecret::new(b"s"), "rule");
        let at = |began, used| Session { began, used, tag: 1 };
        assert!(!sessions.is_over(at(0, 90), 99));
        assert!(sessions.is_over(at(0, 95), 100), "its absolute timeout");
        assert!(sessions.is_over(at(50, 50), 60), "its idle timeout");
        assert!(!sessions.is_over(at(70, 70), 60), "the clock of another replica is ahead");
    }

    #[test]
    fn an_endpoint_has_another_tag_in_each_service_and_with_each_secret() {
        let key = |uid: &str, port| BackendKey {
            service: NamespacedName::new("shop", "web"),
            uid: uid.into(),
            port,
            policy: 0,
        };
        let endpoint = |target: &str, port| EndpointId { target: target.into(), address: [10, 0, 0, 1].into(), port };
        let tags = |secret: &[u8], uid, port| EndpointTags::new(&SessionSecret::new(secret), &key(uid, port));
        let tag = tags(b"s", "u", 80).of(&endpoint("pod", 8080));
        assert_eq!(tag, tags(b"s", "u", 80).of(&endpoint("pod", 8080)));
        let others = [
            tags(b"t", "u", 80).of(&endpoint("pod", 8080)),
            tags(b"s", "v", 80).of(&endpoint("pod", 8080)),
            tags(b"s", "u", 81).of(&endpoint("pod", 8080)),
            tags(b"s", "u", 80).of(&endpoint("another pod of this address", 8080)),
            tags(b"s", "u", 80).of(&endpoint("pod", 8081)),
        ];
        assert!(!others.contains(&tag));
    }
}
