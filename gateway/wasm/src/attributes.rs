//! Typed values that belong to one exchange: what a plugin's phases share, and what plugins tell later plugins and
//! the access log.

/// One value.
#[derive(Clone, Debug, PartialEq)]
pub enum AttributeValue {
    String(Box<str>),
    Integer(i64),
    Boolean(bool),
}

/// The attributes of one exchange, in the order in which they were first set. Empty costs nothing.
///
/// A request has a handful, so a list is searched faster than a map is hashed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Attributes {
    entries: Vec<(Box<str>, AttributeValue)>,
}

impl Attributes {
    /// Attributes at a time in one exchange.
    pub const MAX_ENTRIES: usize = 64;
    /// Bytes of a name.
    pub const MAX_NAME: usize = 128;
    /// Bytes of a string value.
    pub const MAX_VALUE: usize = 4_096;

    pub fn get(&self, name: &str) -> Option<&AttributeValue> {
        self.entries.iter().find(|(n, _)| &**n == name).map(|(_, value)| value)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &AttributeValue)> {
        self.entries.iter().map(|(name, value)| (&**name, value))
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Sets one attribute; the error says which of the three limits refused it.
    pub fn set(&mut self, name: &str, value: AttributeValue) -> Result<(), &'static str> {
        if name.is_empty() || name.len() > Self::MAX_NAME {
            return Err("an attribute's name has 1 to 128 bytes");
        }
        if matches!(&value, AttributeValue::String(text) if text.len() > Self::MAX_VALUE) {
            return Err("an attribute's value has at most 4096 bytes");
        }
        if let Some((_, present)) = self.entries.iter_mut().find(|(n, _)| &**n == name) {
            *present = value;
            return Ok(());
        }
        if self.entries.len() == Self::MAX_ENTRIES {
            return Err("an exchange has at most 64 attributes");
        }
        self.entries.push((name.into(), value));
        Ok(())
    }

    pub fn remove(&mut self, name: &str) {
        self.entries.retain(|(n, _)| &**n != name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn setting_again_replaces_the_value_and_keeps_the_place() {
        let mut attributes = Attributes::default();
        attributes.set("a", AttributeValue::Integer(1)).unwrap();
        attributes.set("b", AttributeValue::Boolean(true)).unwrap();
        attributes.set("a", AttributeValue::String("x".into())).unwrap();
        let names: Vec<_> = attributes.iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(attributes.get("a"), Some(&AttributeValue::String("x".into())));
    }

    #[test]
    fn each_limit_refuses_and_leaves_what_was_there() {
        let mut attributes = Attributes::default();
        assert!(attributes.set("", AttributeValue::Integer(1)).is_err());
        assert!(attributes.set(&"n".repeat(129), AttributeValue::Integer(1)).is_err());
        assert!(attributes.set("v", AttributeValue::String("v".repeat(4_097).into())).is_err());
        for n in 0..Attributes::MAX_ENTRIES {
            attributes.set(&n.to_string(), AttributeValue::Integer(1)).unwrap();
        }
        assert!(attributes.set("one more", AttributeValue::Integer(1)).is_err());
        attributes.set("0", AttributeValue::Integer(2)).unwrap();
        attributes.remove("1");
        attributes.set("one more", AttributeValue::Integer(1)).unwrap();
    }
}
