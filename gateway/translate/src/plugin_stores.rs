//! The stores that a Plugin may keep state in: `spec.capabilities.stores`. Where a Redis is, is a backend's affair
//! ([`crate::plugin_backends`]); here is what is said of it besides.

use crate::plugin::{duration, secret};
use crate::report::Report;
use crate::values::number;
use sluice_model::object::NamespacedName;
use sluice_model::plugin::{Grants, PluginKey, RedisLogin, RedisServer};
use sluice_model::{Code, Kind, ObjectRef, Problem};
use sluice_resources::{PluginStore, RedisConfig, Store, StoreScope};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Where a store is.
pub(crate) enum Place {
    Process,
    Redis(Arc<RedisServer>),
}

/// None for a store that is not given, of which a problem tells.
pub(crate) fn place(
    wanted: &PluginStore,
    plugin: &ObjectRef,
    store: &Store,
    field: &str,
    report: &mut Report<'_>,
) -> Option<Place> {
    match (wanted.scope.unwrap_or(StoreScope::Process), &wanted.redis) {
        (StoreScope::Process, None) => Some(Place::Process),
        (StoreScope::Process, Some(_)) => {
            let message = "redis belongs to scope: Redis; the plugin is not given the store";
            report.error(Code::InvalidCombination, format!("{field}.redis"), message);
            None
        }
        (StoreScope::Redis, None) => {
            let message =
                "a store of scope Redis needs redis.ref, the Service of it; the plugin is not given the store";
            report.error(Code::InvalidCombination, format!("{field}.redis"), message);
            None
        }
        (StoreScope::Redis, Some(redis)) => {
            if wanted.quota.is_some() {
                let message = "a quota belongs to scope: Process, and is ignored; a Redis bounds its memory itself \
                               (maxmemory)";
                report.error(Code::InvalidCombination, format!("{field}.quota"), message);
            }
            let field = format!("{field}.redis");
            server(redis, plugin, store, &field, report).map(|server| Place::Redis(Arc::new(server)))
        }
    }
}

fn server(
    redis: &RedisConfig,
    plugin: &ObjectRef,
    store: &Store,
    field: &str,
    report: &mut Report<'_>,
) -> Option<RedisServer> {
    let login = match (&redis.username, &redis.password_ref) {
        (None, None) => RedisLogin::Nobody,
        (username, Some(reference)) => {
            let field = format!("{field}.passwordRef");
            let password = secret(reference, plugin, store, &field, "nothing connects to the Redis", report);
            RedisLogin::Password { username: username.as_deref().map(Into::into), password }
        }
        (Some(_), None) => {
            let message = "a username needs a passwordRef; the plugin is not given the store";
            report.error(Code::InvalidCombination, format!("{field}.passwordRef"), message);
            return None;
        }
    };
    let namespace = redis.reference.namespace.as_deref().unwrap_or(&plugin.namespace);
    // Data of another database must not be taken for the store's.
    let database = match redis.database {
        None => 0,
        wanted => number(wanted, RedisServer::DATABASES, &format!("{field}.database"), report)?,
    };
    let (timeout_at, concurrency_at) = (format!("{field}.timeout"), format!("{field}.concurrency"));
    Some(RedisServer {
        service: NamespacedName::new(namespace, redis.reference.name.as_str()),
        port: redis.reference.port,
        login,
        database,
        timeout: duration(redis.timeout.as_ref(), RedisServer::LONGEST_TIMEOUT, &timeout_at, report)
            .unwrap_or(RedisServer::DEFAULT_TIMEOUT),
        concurrency: number(redis.concurrency, RedisServer::CONCURRENCIES, &concurrency_at, report)
            .unwrap_or(RedisServer::DEFAULT_CONCURRENCY),
    })
}

/// Plugins of a namespace that name a store alike, and mean different ones: they may well have been meant to share it.
pub(crate) fn not_shared<'g>(
    grants: impl Iterator<Item = (&'g PluginKey, &'g Grants)> + Clone,
    problems: &mut Vec<Problem>,
) {
    if grants.clone().all(|(_, grants)| grants.redis_stores.is_empty()) {
        return;
    }
    let mut first: BTreeMap<(&str, &str), (&PluginKey, Option<&RedisServer>)> = BTreeMap::new();
    for (plugin, grants) in grants {
        let here = grants.stores.keys().map(|name| (name, None, ""));
        let there = grants.redis_stores.iter().map(|(name, grant)| (name, Some(&*grant.server), &*grant.field));
        for (name, place, field) in here.chain(there) {
            let (other, of_other) = first.entry((&*plugin.namespace, &**name)).or_insert((plugin, place));
            if *of_other == place {
                continue;
            }
            let object = ObjectRef::new(Kind::Plugin, plugin.namespace.clone(), plugin.name.clone());
            let field = if field.is_empty() { "spec.capabilities.stores" } else { field };
            let message = format!(
                "Plugin {other} has a store `{name}` too, and says another thing of where it is: they do not share it"
            );
            problems.push(
                Problem::warning(Code::InvalidCombination, &object, field, message)
                    .hint("give both the same scope and the same redis, or the stores names of their own"),
            );
        }
    }
}
