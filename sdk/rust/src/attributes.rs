//! Typed values that belong to one exchange: all that phases share, and what later plugins and the access log see.
//!
//! By custom a name begins with the plugin's own: `key-auth.consumer`. At most 64 an exchange, names of at most 128
//! bytes, strings of at most 4,096. `configure` can't use them.

use crate::backend::attributes;
use crate::headers::Refused;

/// A type that an attribute can have.
pub trait Attribute: Sized {
    /// None where nothing of this type has the name.
    fn get(name: &str) -> Option<Self>;
    fn set(name: &str, value: Self) -> Result<(), Refused>;
}

macro_rules! attribute {
    ($type:ty, $get:ident, $set:ident, $value:ident => $pass:expr) => {
        impl Attribute for $type {
            fn get(name: &str) -> Option<Self> {
                attributes::$get(name)
            }

            fn set(name: &str, $value: Self) -> Result<(), Refused> {
                attributes::$set(name, $pass).map_err(Refused)
            }
        }
    };
}

attribute!(String, get_string, set_string, value => &value);
attribute!(i64, get_integer, set_integer, value => value);
attribute!(bool, get_boolean, set_boolean, value => value);

/// `attributes::get::<String>("key-auth.consumer")`.
pub fn get<A: Attribute>(name: &str) -> Option<A> {
    A::get(name)
}

/// Sets or replaces.
pub fn set<A: Attribute>(name: &str, value: A) -> Result<(), Refused> {
    A::set(name, value)
}

/// Sets a string without giving it away.
pub fn set_str(name: &str, value: &str) -> Result<(), Refused> {
    attributes::set_string(name, value).map_err(Refused)
}

pub fn remove(name: &str) {
    attributes::remove(name);
}
