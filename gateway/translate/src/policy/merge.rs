//! One effective policy out of those of all levels.

use super::{Policies, Policy};
use sluice_model::config::ListenerId;
use sluice_model::object::NamespacedName;
use sluice_resources::{BackendSettings, ClientSettings, Layered, PluginUseConfig, PolicySettings};

/// From the least specific to the most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    Gateway,
    ListenerSet,
    Listener,
    /// Counts for `backend` alone.
    Service,
    /// An HTTPRoute or an Ingress.
    Route,
    /// A named rule; then ExtensionRef filters, in order.
    Rule,
}

/// The policies that meet at one rule.
#[derive(Clone, Debug, Default)]
pub(crate) struct Chain<'p> {
    /// In order of level; of one level, the later is the more specific.
    levels: Vec<(Level, &'p Policy)>,
}

/// A plugin's use, and whose it is: references in it are relative to that policy.
#[derive(Clone, Debug)]
pub(crate) struct PluginEntry<'p> {
    pub(crate) policy: &'p NamespacedName,
    pub(crate) settings: &'p PluginUseConfig,
    /// Where it is written in the policy.
    pub(crate) field: String,
}

impl<'p> Chain<'p> {
    pub(crate) fn push(&mut self, level: Level, policy: Option<&'p Policy>) {
        if let Some(policy) = policy {
            let at = self.levels.partition_point(|(other, _)| *other <= level);
            self.levels.insert(at, (level, policy));
        }
    }

    /// What is attached to a listener's Gateway, to its ListenerSet where it is of one, and to itself.
    pub(crate) fn push_listener(&mut self, policies: &'p Policies, id: &ListenerId) {
        policies.of_listener(id).for_each(|(level, policy)| self.push(level, Some(policy)));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.levels.is_empty()
    }

    /// Whether a policy that may guard the rule cannot be read.
    pub(crate) fn unreadable(&self) -> bool {
        self.levels.iter().any(|(level, policy)| *level != Level::Service && policy.unreadable)
    }

    pub(crate) fn backend(&self) -> BackendSettings {
        self.merged(|settings| settings.backend.as_ref())
    }

    pub(crate) fn client(&self) -> ClientSettings {
        self.merged(|settings| settings.client.as_ref())
    }

    /// Overrides, the least specific first, then defaults, the most specific first: what is set earlier stays.
    fn merged<T: Layered + Default + 'p>(&self, part: impl Fn(&'p PolicySettings) -> Option<&'p T>) -> T {
        let mut result = T::default();
        for (_, policy) in &self.levels {
            if let Some(settings) = part(&policy.overrides) {
                result.fill_from(settings);
            }
        }
        for (_, policy) in self.levels.iter().rev() {
            if let Some(settings) = part(&policy.defaults) {
                result.fill_from(settings);
            }
        }
        result
    }

    /// Uses by name, in running order.
    pub(crate) fn plugins(&self) -> Vec<PluginEntry<'p>> {
        let mut found: Vec<((i32, usize, usize), PluginEntry<'p>)> = Vec::new();
        let mut take = |index: usize, policy: &'p Policy, settings: &'p PolicySettings, field: &str| {
            for (position, plugin) in settings.plugins.iter().flatten().enumerate() {
                if found.iter().all(|(_, other)| other.settings.name != plugin.name) {
                    let order = (plugin.order.unwrap_or_default(), index, position);
                    let field = format!("{field}.plugins[{position}]");
                    found.push((order, PluginEntry { policy: &policy.name, settings: plugin, field }));
                }
            }
        };
        let levels = || self.levels.iter().enumerate().filter(|(_, (level, _))| *level != Level::Service);
        for (index, (_, policy)) in levels() {
            take(index, policy, &policy.overrides, "spec.overrides");
        }
        for (index, (_, policy)) in levels().rev() {
            take(index, policy, &policy.defaults, policy.defaults_field);
        }
        found.sort_by_key(|(order, _)| *order);
        found.into_iter().map(|(_, entry)| entry).collect()
    }
}
