//! Connections to where stores of plugins are: an endpoint of the Service, as the snapshot that serves has it.

use super::SETTLE;
use crate::http::Shared;
use crate::snapshot::Snapshot;
use crate::upstream::{BackendRuntime, Failure, Outcome, Pick, PickError, PickRequest, Tried};
use ::http::HeaderMap;
use futures::FutureExt;
use futures::future::BoxFuture;
use sluice_model::config::BackendKey;
use sluice_model::plugin::RedisServer;
use sluice_wasm::{StoreConnection, StoreError, StoreErrorKind, StoreServers};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Weak};

/// By the snapshot that serves.
pub(crate) struct StoreEndpoints(Weak<Shared>);

impl StoreEndpoints {
    pub(crate) fn new(shared: &Arc<Shared>) -> Self {
        StoreEndpoints(Arc::downgrade(shared))
    }
}

/// The backend of a store: any Plugin of the namespace that names it has it, where its Service can be used.
fn backend<'s>(
    snapshot: &'s Snapshot,
    namespace: &str,
    store: &str,
    server: &RedisServer,
) -> Option<&'s Arc<BackendRuntime>> {
    let is_it = |key: &BackendKey| key.service == server.service && key.port == server.port;
    let of_namespace = snapshot.plugin_calls.iter().filter(|(plugin, _)| *plugin.namespace == *namespace);
    let mut slots = of_namespace.filter_map(|(_, calls)| calls.stores.get(store)).filter(|slot| is_it(slot.key()));
    slots.find_map(|slot| snapshot.backend(slot))
}

impl StoreServers for StoreEndpoints {
    fn connect(
        &self,
        namespace: &Arc<str>,
        store: &Arc<str>,
        server: &RedisServer,
    ) -> BoxFuture<'static, Result<StoreConnection, StoreError>> {
        let (shared, namespace, store, server) = (self.0.clone(), namespace.clone(), store.clone(), server.clone());
        async move {
            let found = shared
                .upgrade()
                .and_then(|shared| backend(&shared.snapshot.load(), &namespace, &store, &server).cloned());
            let Some(found) = found else {
                let message = "its Service can't be used; see the problems of the Plugin";
                return Err(StoreError::new(StoreErrorKind::NoEndpoint, message));
            };
            let pick = pick(&found).await?;
            let opened = pick.open().await.map_err(|error| {
                pick.report(Outcome::Failed(Failure::Connect));
                StoreError::new(StoreErrorKind::Connect, format!("{}: {}", pick.address(), reason(&error)))
            })?;
            let (address, key) = (pick.address(), found.key().clone());
            let is_current = move || {
                let Some(shared) = shared.upgrade() else { return false };
                let snapshot = shared.snapshot.load();
                // Of another key is one that is spoken to otherwise: by other TLS, say.
                let now = backend(&snapshot, &namespace, &store, &server);
                now.is_some_and(|now| *now.key() == key && now.leads_to(address))
            };
            Ok(StoreConnection {
                io: Box::new(opened.io),
                address: address.to_string(),
                is_current: Box::new(is_current),
                // It counts at its endpoint for as long as it stands.
                held: Box::new((pick, opened._guard)),
            })
        }
        .boxed()
    }
}

async fn pick(backend: &BackendRuntime) -> Result<Pick, StoreError> {
    let (headers, tried) = (HeaderMap::new(), Tried::new());
    let wanted = PickRequest { headers: &headers, client: IpAddr::V4(Ipv4Addr::LOCALHOST), tried: &tried };
    let picked = match backend.pick(&wanted) {
        Err(PickError::NoEndpoints) => {
            backend.settled(SETTLE).await;
            backend.pick(&wanted)
        }
        picked => picked,
    };
    picked.map_err(|error| {
        let kind = match error {
            PickError::NoEndpoints => StoreErrorKind::NoEndpoint,
            PickError::Overflow => StoreErrorKind::Overloaded,
            PickError::Tls => StoreErrorKind::Connect,
        };
        StoreError::new(kind, error.to_string())
    })
}

/// What the engine's error says beside its own words.
fn reason(error: &pingora_core::Error) -> String {
    let context = error.context.as_ref().map(|context| context.as_str());
    let cause = error.cause.as_ref().map(|cause| cause.to_string());
    match (context, cause) {
        (Some(context), Some(cause)) => format!("{context}: {cause}"),
        (Some(one), None) => one.to_owned(),
        (None, Some(one)) => one,
        (None, None) => error.etype().as_str().to_owned(),
    }
}
