//! One request to the API server, with a limit on its time, and what is to be done about its failure.

use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use kube::Client;
use kube::client::Body;
use serde_json::Value;
use sluice_model::{Kind, ObjectRef};
use std::fmt;
use std::time::Duration;
use tokio::time::timeout;

/// Longest time of a request, its answer included.
const PATIENCE: Duration = Duration::from_secs(10);

/// Bytes of an answer: an object is at most 3 MiB, by etcd's limits; the list of Services of all Gateways is larger.
const MAX_ANSWER: usize = 64 << 20;

/// The name under which fields are owned that are applied.
const FIELD_MANAGER: &str = "sluice-controller";

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// 409 of a write: it is another object than we thought; or it is there already.
    #[error("the object was changed meanwhile (409)")]
    Conflict,
    #[error("not found (404)")]
    NotFound,
    /// Everything else that it said: no right, an invalid object, too many requests.
    #[error("{0}")]
    Refused(String),
    /// It said nothing.
    #[error("{0}")]
    Transport(String),
}

#[derive(Clone)]
pub struct Api {
    client: Client,
}

impl Api {
    pub fn new(client: Client) -> Api {
        Api { client }
    }

    pub async fn get(&self, path: &str) -> Result<Value, Failure> {
        self.send(Method::GET, path, None).await
    }

    pub async fn create(&self, path: &str, object: &Value) -> Result<Value, Failure> {
        self.send(Method::POST, path, Some(("application/json", object))).await
    }

    /// Replaces what `patch` names; lists as a whole. With a `resourceVersion` in it, only of that very version.
    pub(crate) async fn merge(&self, path: &str, patch: &Value) -> Result<Value, Failure> {
        self.send(Method::PATCH, path, Some(("application/merge-patch+json", patch))).await
    }

    /// Server-side apply: what we applied before and do not any more goes; what others own stays.
    pub(crate) async fn apply(&self, path: &str, object: &Value) -> Result<Value, Failure> {
        let path = format!("{path}?fieldManager={FIELD_MANAGER}&force=true");
        // YAML is a superset of JSON.
        self.send(Method::PATCH, &path, Some(("application/apply-patch+yaml", object))).await
    }

    /// Deletes it, if it is still the object with this UID.
    pub(crate) async fn delete(&self, path: &str, uid: &str) -> Result<(), Failure> {
        let options = serde_json::json!({
            "kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": uid},
        });
        self.send(Method::DELETE, path, Some(("application/json", &options))).await.map(|_| ())
    }

    async fn send(&self, method: Method, path: &str, body: Option<(&str, &Value)>) -> Result<Value, Failure> {
        let mut request = Request::builder().method(method).uri(path);
        if let Some((content, _)) = body {
            request = request.header(http::header::CONTENT_TYPE, content);
        }
        let body = body.map(|(_, value)| value.to_string().into_bytes()).unwrap_or_default();
        let request = request.body(Body::from(body)).map_err(|error| Failure::Refused(error.to_string()))?;
        match timeout(PATIENCE, self.exchange(request)).await {
            Ok(answer) => answer,
            Err(_) => Err(Failure::Transport("the answer took too long".to_owned())),
        }
    }

    async fn exchange(&self, request: Request<Body>) -> Result<Value, Failure> {
        let answer = self.client.send(request).await.map_err(|error| transport(&error))?;
        let code = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await.map_err(|error| transport(&*error))?;
        let body = body.to_bytes();
        if code.is_success() {
            return serde_json::from_slice(&body)
                .map_err(|error| Failure::Transport(format!("an answer that is not understood: {error}")));
        }
        let said = serde_json::from_slice::<Value>(&body).unwrap_or_default();
        let message = match said.get("message").and_then(Value::as_str) {
            Some(message) => format!("{message} ({})", code.as_u16()),
            None => format!("status {}", code.as_u16()),
        };
        Err(match code {
            StatusCode::CONFLICT => Failure::Conflict,
            StatusCode::NOT_FOUND => Failure::NotFound,
            _ => Failure::Refused(message),
        })
    }
}

/// What the innermost cause says: `Connection refused (os error 111)`.
fn transport(error: &(dyn std::error::Error + 'static)) -> Failure {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    Failure::Transport(cause.to_string())
}

/// Where objects of a kind lie: `/apis/networking.k8s.io/v1/namespaces/shop/ingresses`.
pub fn collection(api_version: &str, namespace: &str, plural: &str) -> String {
    let root = if api_version.contains('/') { "apis" } else { "api" };
    match namespace {
        "" => format!("/{root}/{api_version}/{plural}"),
        _ => format!("/{root}/{api_version}/namespaces/{namespace}/{plural}"),
    }
}

/// Where one object lies, by the version that it was read in.
pub(crate) fn path(object: &ObjectRef, api_version: &str) -> String {
    format!("{}/{}", collection(api_version, &object.namespace, object.kind.plural()), object.name)
}

/// `Services in sluice-system`, for messages.
pub(crate) struct Place<'p>(pub(crate) Kind, pub(crate) &'p str);

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {}", self.0.plural(), self.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_has_its_path_with_and_without_group_and_namespace() {
        let of = |kind, api| path(&ObjectRef::new(kind, "shop", "x"), api);
        assert_eq!(of(Kind::Service, "v1"), "/api/v1/namespaces/shop/services/x");
        assert_eq!(
            of(Kind::GatewayClass, "gateway.networking.k8s.io/v1"),
            "/apis/gateway.networking.k8s.io/v1/gatewayclasses/x"
        );
    }
}
