//! Who goes first where two objects want the same: the older, then namespace and name (Gateway API, "conflicts").

use sluice_model::object::NamespacedName;
use sluice_resources::api::ObjectMeta;

/// Ordered: the one that goes first is the least.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    /// Seconds since 1970. An object of a file has no time of creation; such objects are equally old, and older than
    /// those that have one.
    pub(crate) created: i64,
    pub(crate) name: NamespacedName,
}

impl Rank {
    /// Goes behind everything.
    pub(crate) fn last() -> Self {
        Rank { created: i64::MAX, name: NamespacedName::new("", "") }
    }

    pub(crate) fn of(meta: &ObjectMeta) -> Self {
        Rank::named(meta, &name_of(meta))
    }

    /// Of an object whose name is in memory by now.
    pub(crate) fn named(meta: &ObjectMeta, name: &NamespacedName) -> Self {
        Rank {
            created: meta.creation_timestamp.as_ref().map_or(i64::MIN, |time| time.0.as_second()),
            name: name.clone(),
        }
    }
}

pub(crate) fn name_of(meta: &ObjectMeta) -> NamespacedName {
    NamespacedName::new(meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default())
}
