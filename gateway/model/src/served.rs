//! What one proxy serves of some objects: how the controller learns when a change has arrived everywhere.

use crate::object::ObjectRef;
use serde::{Deserialize, Serialize};

/// The question: these objects.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServedQuestion {
    pub objects: Vec<ObjectRef>,
}

/// The answer: those of them that are served in some form.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Served {
    pub objects: Vec<ServedObject>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServedObject {
    pub object: ObjectRef,
    pub uid: String,
    /// `metadata.generation` of the form that is served.
    pub generation: i64,
    /// Of a Gateway, and for an Ingress of the Gateway that all of them share: the listeners whose sockets are open.
    pub listeners: Vec<String>,
    /// Of a Plugin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plugin: Option<ServedPlugin>,
}

/// What a proxy has made of a Plugin's code.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServedPlugin {
    /// SHA-256 of the code, in hex; empty while it is not fetched.
    pub sha256: String,
    /// Of code that was fetched: its bytes, and the digest of its image where it came from one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fetched: Option<FetchedPlugin>,
    /// It was compiled and held to the contract, or that has failed.
    pub checked: bool,
    /// The phases that it has a part in.
    pub phases: Vec<String>,
    /// SHA-256 of its configuration's schema, in hex; none where it has none.
    pub config_schema: Option<String>,
    /// Configurations in use, and those of them that run this very code.
    pub uses: u32,
    pub ready: u32,
    /// Why the newest code or configuration does not run.
    pub error: Option<String>,
}

/// Code that a proxy has fetched.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FetchedPlugin {
    pub size: u64,
    /// Of the manifest: `sha256:` and hex.
    pub image_digest: Option<String>,
}
