//! Names of keys: `sluice:<namespace>:<store>:<kind>:<key>`, so that an operator can find them and an ACL can name them.

use std::fmt::Write;
use std::sync::Arc;

/// What a key names. One key may name one of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Value,
    Counter,
    Tokens,
}

impl Kind {
    const fn as_str(self) -> &'static str {
        match self {
            Kind::Value => "value",
            Kind::Counter => "counter",
            Kind::Tokens => "tokens",
        }
    }
}

/// The keys of one store.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    /// `sluice:<namespace>:<store>:`
    prefix: Arc<str>,
}

impl Keys {
    pub(super) fn of(namespace: &str, store: &str) -> Keys {
        let mut prefix = String::from("sluice:");
        for part in [namespace, store] {
            escape(part, &mut prefix);
            prefix.push(':');
        }
        Keys { prefix: prefix.into() }
    }

    /// What the plugin calls `key`. It comes last, and so needs no escape.
    pub(super) fn key(&self, kind: Kind, key: &str) -> String {
        let kind = kind.as_str();
        let mut name = String::with_capacity(self.prefix.len() + kind.len() + 1 + key.len());
        name.push_str(&self.prefix);
        name.push_str(kind);
        name.push(':');
        name.push_str(key);
        name
    }
}

/// Percent-encodes what ends a part, and what would make two stores' names one.
fn escape(part: &str, out: &mut String) {
    for c in part.chars() {
        match c {
            ':' | '%' => {
                // Writing to a string never fails.
                let _ = write!(out, "%{:02X}", u32::from(c));
            }
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn a_key_reads_as_its_parts() {
        let keys = Keys::of("shop", "limits");
        assert_eq!(keys.key(Kind::Tokens, "default/a:b"), "sluice:shop:limits:tokens:default/a:b");
    }

    #[test]
    fn no_two_keys_are_one() {
        let parts = ["a", "a:", ":a", "a:value", "a%3A", "%", "a:b", "b", "value", "a:value:b", "%3Aa"];
        let mut seen = HashSet::new();
        for namespace in parts {
            for store in parts {
                let keys = Keys::of(namespace, store);
                for kind in [Kind::Value, Kind::Counter, Kind::Tokens] {
                    for key in parts {
                        assert!(seen.insert(keys.key(kind, key)), "{namespace} {store} {kind:?} {key}");
                    }
                }
            }
        }
    }
}
