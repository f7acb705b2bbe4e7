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
}
