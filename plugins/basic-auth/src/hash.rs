//! Hashes of passwords: Argon2 in PHC's form (RFC 9106), and bcrypt.

use argon2::password_hash::phc::PasswordHash;
use argon2::{Argon2, Params, PasswordVerifier};
use base64::Engine;
use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, NO_PAD};

/// KiB that a hash may take to compute: a plugin has 64 MiB, unless its limits say otherwise.
const MEMORY: u32 = 48 << 10;

/// Rounds of bcrypt, as the power of two.
const COST: std::ops::RangeInclusive<u32> = 4..=14;

/// bcrypt's own base64, without padding.
const ENGINE: GeneralPurpose = GeneralPurpose::new(&alphabet::BCRYPT, NO_PAD);

#[derive(Clone, Debug)]
pub(crate) struct Hash {
    text: String,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Argon2,
    Bcrypt { cost: u32, salt: [u8; 16], digest: [u8; 23] },
}

impl Hash {
    /// The error says what is wrong, and repeats no part of the hash.
    pub(crate) fn parse(text: &str) -> Result<Hash, String> {
        let kind = if text.starts_with("$argon2") { argon2(text)? } else { bcrypt(text)? };
        Ok(Hash { text: text.to_owned(), kind })
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.text.as_bytes()
    }

    /// Whether it is the hash of this password.
    pub(crate) fn is_of(&self, password: &[u8]) -> bool {
        match &self.kind {
            Kind::Argon2 => Argon2::default().verify_password(password, self.text.as_str()).is_ok(),
            Kind::Bcrypt { cost, salt, digest } => {
                // A text of C ends in a zero, and bcrypt looks at 72 bytes.
                let mut key: Vec<u8> = password.iter().copied().chain([0]).collect();
                key.truncate(72);
                let computed = bcrypt::bcrypt(*cost, *salt, &key);
                computed.get(..digest.len()).is_some_and(|computed| kit::same_secret(computed, digest))
            }
        }
    }
}

fn argon2(text: &str) -> Result<Kind, String> {
    let hash = PasswordHash::new(text).map_err(|error| format!("it is not an Argon2 hash: {error}"))?;
    let params = Params::try_from(&hash).map_err(|error| format!("its parameters can't be used: {error}"))?;
    if params.m_cost() > MEMORY {
        return Err(format!("it takes {} KiB to compute (m), and may take {MEMORY}", params.m_cost()));
    }
    match (hash.salt, hash.hash) {
        (Some(_), Some(_)) => Ok(Kind::Argon2),
        _ => Err("it has no salt, or no hash".to_owned()),
    }
}

fn bcrypt(text: &str) -> Result<Kind, String> {
    let unknown = || "it is neither an Argon2 hash ($argon2id$…) nor one of bcrypt ($2y$10$…)".to_owned();
    let rest = ["$2a$", "$2b$", "$2y$"].iter().find_map(|version| text.strip_prefix(version)).ok_or_else(unknown)?;
    let (cost, encoded) = rest.split_once('$').ok_or_else(unknown)?;
    let cost: u32 = cost.parse().map_err(|_| unknown())?;
    if !COST.contains(&cost) {
        return Err(format!("its cost is {cost}, and may be {} to {}", COST.start(), COST.end()));
    }
    let parts = encoded.split_at_checked(22).and_then(|(salt, digest)| {
        let salt = ENGINE.decode(salt).ok()?.try_into().ok()?;
        let digest = ENGINE.decode(digest).ok()?.try_into().ok()?;
        Some(Kind::Bcrypt { cost, salt, digest })
    });
    parts.ok_or_else(|| "it is not a whole bcrypt hash: 22 characters of salt and 31 of digest".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_of_other_programs_are_those_of_their_passwords() {
        // By libxcrypt, and by the reference implementation of Argon2.
        for (text, password) in [
            ("$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW", "U*U"),
            ("$2a$06$DCq7YPn5Rq63x1Lad4cll.TV4S6ytwfsfvkgY8jIucDrjc8deX1s.", ""),
            (
                "$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHQxMjM0NTY3OA$d5mmwZNoYLsw42KWtsD8h3UEM+GyC6iqRvhsUPNZ4fM",
                "open-sesame",
            ),
        ] {
            let hash = Hash::parse(text).unwrap();
            assert!(hash.is_of(password.as_bytes()), "{text}");
            assert!(!hash.is_of(b"other") && !hash.is_of(format!("{password}x").as_bytes()), "{text}");
        }
    }

    #[test]
    fn what_is_no_hash_is_refused_without_repeating_it() {
        for (text, why) in [
            ("hunter2", "neither an Argon2 hash"),
            ("{SHA}nU4eI71bcnBGqeO0t9tXvY1u5oQ=", "neither an Argon2 hash"),
            ("$2y$31$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW", "its cost is 31"),
            ("$2y$05$short", "not a whole bcrypt hash"),
            ("$2x$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW", "neither"),
            ("$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHQ", "no salt, or no hash"),
            ("$argon2i$v=19$m=65536,t=2,p=4$c29tZXNhbHQ$RdescudvJCsgt3ub+b+dWRWJTmaaJObG", "65536 KiB"),
            ("$argon2id$nonsense", "it is not an Argon2 hash"),
        ] {
            let message = Hash::parse(text).unwrap_err();
            assert!(message.contains(why) && !message.contains(text), "{text}: {message}");
        }
    }

    #[test]
    fn of_a_long_password_bcrypt_sees_72_bytes() {
        let hash = Hash::parse("$2a$05$abcdefghijklmnopqrstuu5s2v8.iXieOjg/.AySBTTZIIVFJeBui").unwrap();
        assert!(
            hash.is_of(
                "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789chars after 72 are ignored"
                    .as_bytes()
            )
        );
    }
}
