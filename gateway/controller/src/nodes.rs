//! Addresses of nodes, for Gateways whose Service has the type NodePort: asked for when they are needed, since nodes are
//! not watched.

use crate::api::{Api, Failure};
use serde_json::Value;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// How long an answer is good for.
const FRESH: Duration = Duration::from_secs(60);

/// Addresses of a Gateway's status, by the API's schema.
pub(crate) const MAX_ADDRESSES: usize = 16;

#[derive(Debug, Default)]
pub(crate) struct Nodes {
    known: Mutex<Option<(Instant, Vec<String>)>>,
}

impl Nodes {
    /// One address of each node that is Ready: the external one where it has one.
    pub(crate) async fn addresses(&self, api: &Api) -> Result<Vec<String>, Failure> {
        let mut known = self.known.lock().await;
        if let Some((when, addresses)) = &*known
            && when.elapsed() < FRESH
        {
            return Ok(addresses.clone());
        }
        let list = api.get("/api/v1/nodes").await?;
        let addresses = read(&list);
        *known = Some((Instant::now(), addresses.clone()));
        Ok(addresses)
    }
}

fn read(list: &Value) -> Vec<String> {
    let entries =
        |value: &Value, path: &str| value.pointer(path).and_then(Value::as_array).cloned().unwrap_or_default();
    let text = |value: &Value, field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut found = Vec::new();
    for node in entries(list, "/items") {
        let conditions = entries(&node, "/status/conditions");
        if !conditions.iter().any(|c| text(c, "type") == "Ready" && text(c, "status") == "True") {
            continue;
        }
        let addresses = entries(&node, "/status/addresses");
        let of = |kind: &str| addresses.iter().find(|a| text(a, "type") == kind).map(|a| text(a, "address"));
        found.extend(of("ExternalIP").or_else(|| of("InternalIP")));
    }
    found.sort();
    found.truncate(MAX_ADDRESSES);
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_node_that_is_ready_has_its_external_address_or_else_its_internal_one() {
        let node = |ready: &str, addresses: Value| json!({"status": {"conditions": [{"type": "Ready", "status": ready}], "addresses": addresses}});
        let internal = |address: &str| json!({"type": "InternalIP", "address": address});
        let list = json!({"items": [
            node("True", json!([{"type": "Hostname", "address": "a"}, internal("10.0.0.2")])),
            node("True", json!([internal("10.0.0.3"), {"type": "ExternalIP", "address": "192.0.2.3"}])),
            node("False", json!([internal("10.0.0.4")])),
        ]});
        assert_eq!(read(&list), ["10.0.0.2", "192.0.2.3"]);
    }
}
