//! Which Secrets and ConfigMaps are referred to, and by how many.
//!
//! An object whose new form was not handed on yet counts with both forms: what the former names must not go away before
//! the consumer has the new one.

use sluice_model::{Kind, ObjectRef};
use std::collections::{BTreeMap, HashMap};

#[derive(Debug, Default)]
pub(super) struct References {
    counts: BTreeMap<ObjectRef, usize>,
    by_object: HashMap<ObjectRef, Forms>,
}

/// What one object names.
#[derive(Debug, Default)]
struct Forms {
    handed_on: Vec<ObjectRef>,
    waiting: Option<Vec<ObjectRef>>,
}

impl References {
    /// The object has a new form, which names these. Says whether that changes what is referred to.
    pub(super) fn put(&mut self, object: &ObjectRef, names: Vec<ObjectRef>) -> bool {
        if names.is_empty() && !self.by_object.contains_key(object) {
            return false;
        }
        let mut changed = false;
        for name in &names {
            let count = self.counts.entry(name.clone()).or_default();
            *count += 1;
            changed |= *count == 1;
        }
        let former = self.by_object.entry(object.clone()).or_default().waiting.replace(names);
        changed | self.release(former.unwrap_or_default())
    }

    /// The object's newest form was handed on. Says whether that changes what is referred to.
    pub(super) fn handed_on(&mut self, object: &ObjectRef) -> bool {
        let Some(forms) = self.by_object.get_mut(object) else { return false };
        let Some(waiting) = forms.waiting.take() else { return false };
        let former = std::mem::replace(&mut forms.handed_on, waiting);
        if forms.handed_on.is_empty() {
            self.by_object.remove(object);
        }
        self.release(former)
    }

    /// Those of one kind, in order.
    pub(super) fn of(&self, kind: Kind) -> impl Iterator<Item = &ObjectRef> {
        self.counts.range(ObjectRef::new(kind, "", "")..).map(|(name, _)| name).take_while(move |n| n.kind == kind)
    }

    pub(super) fn contains(&self, name: &ObjectRef) -> bool {
        self.counts.contains_key(name)
    }

    fn release(&mut self, names: Vec<ObjectRef>) -> bool {
        let mut changed = false;
        for name in names {
            if let Some(count) = self.counts.get_mut(&name) {
                *count -= 1;
                if *count == 0 {
                    self.counts.remove(&name);
                    changed = true;
                }
            }
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plugin(name: &str) -> ObjectRef {
        ObjectRef::new(Kind::Plugin, "shop", name)
    }

    fn map(name: &str) -> ObjectRef {
        ObjectRef::new(Kind::ConfigMap, "shop", name)
    }

    fn named(references: &References) -> Vec<String> {
        references.of(Kind::ConfigMap).map(|r| r.name.to_string()).collect()
    }

    #[test]
    fn what_the_former_form_names_stays_until_the_new_one_is_handed_on() {
        let mut references = References::default();
        assert!(references.put(&plugin("a"), vec![map("v1")]));
        assert!(!references.handed_on(&plugin("a")));
        assert!(references.put(&plugin("a"), vec![map("v2")]));
        assert_eq!(named(&references), ["v1", "v2"]);
        assert!(references.put(&plugin("a"), vec![map("v3")]));
        assert_eq!(named(&references), ["v1", "v3"]);
        assert!(references.handed_on(&plugin("a")));
        assert_eq!(named(&references), ["v3"]);
    }

    #[test]
    fn what_several_name_goes_with_the_last_of_them() {
        let mut references = References::default();
        references.put(&plugin("a"), vec![map("code")]);
        references.put(&plugin("b"), vec![map("code")]);
        for name in ["a", "b"] {
            references.handed_on(&plugin(name));
        }
        assert!(!references.put(&plugin("a"), Vec::new()));
        assert!(!references.handed_on(&plugin("a")));
        references.put(&plugin("b"), Vec::new());
        assert_eq!(named(&references), ["code"]);
        assert!(references.handed_on(&plugin("b")));
        assert!(named(&references).is_empty() && references.by_object.is_empty());
    }
}
