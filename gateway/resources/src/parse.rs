//! A document becomes an object, or problems that say why not.

use crate::{Object, Unreadable};
use serde::de::DeserializeOwned;
use serde_json::Value;
use sluice_model::{Code, Kind, ObjectRef, Problem, Severity};
use std::sync::Arc;

/// What became of one document.
#[derive(Clone, Debug, PartialEq)]
pub struct Parsed {
    /// `None` where nothing can be made of it: it is no object, of no kind that is read, or does not fit its kind.
    pub object: Option<Object>,
    /// What is known of an object that does not fit its kind.
    pub unreadable: Option<Arc<Unreadable>>,
    /// The object that the document means to be, even where it does not fit.
    pub reference: Option<ObjectRef>,
    pub problems: Vec<Problem>,
}

/// The group of our own kinds.
const OWN_GROUP: &str = Kind::Plugin.group();

/// The namespace of an object that names none.
const DEFAULT_NAMESPACE: &str = "default";

/// Gives the items of a `List` (as `kubectl get -o yaml` writes it); any other document as it is. Lists in lists are
/// not followed.
pub fn expand_list(document: Value) -> Vec<Value> {
    let is_list = document.get("kind").and_then(Value::as_str).is_some_and(|kind| kind.ends_with("List"));
    match document {
        Value::Object(mut fields) if is_list => match fields.remove("items") {
            Some(Value::Array(items)) => items,
            _ => Vec::new(),
        },
        other => vec![other],
    }
}

/// Reads one object. Fields that its kind does not have are warnings; a value of the wrong type is an error with the
/// field's path, and then there is no object.
pub fn parse(document: Value) -> Parsed {
    let text = |value: Option<&Value>| value.and_then(Value::as_str).filter(|t| !t.is_empty()).map(str::to_owned);
    let api_version = text(document.get("apiVersion"));
    let kind_name = text(document.get("kind"));
    let meta = document.get("metadata");
    let name = text(meta.and_then(|m| m.get("name")));
    let (Some(api_version), Some(kind_name), Some(name)) = (api_version, kind_name, name) else {
        let missing = ["apiVersion", "kind"]
            .into_iter()
            .find(|field| text(document.get(field)).is_none())
            .unwrap_or("metadata.name");
        return unreadable(Code::NotAnObject, Severity::Error, missing, format!("the document has no {missing}"));
    };
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", &api_version));
    let Some(kind) = Kind::from_group_kind(group, &kind_name) else {
        let message = format!("{kind_name} of {api_version} (`{name}`) is not a kind that is read here");
        // Other groups have kinds that are none of our business; of ours a name can only be mistyped.
        let severity = if group == OWN_GROUP { Severity::Error } else { Severity::Warning };
        return unreadable(Code::UnknownKind, severity, "kind", message);
    };
    let namespace = text(meta.and_then(|m| m.get("namespace"))).unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned());
    let reference = ObjectRef::new(kind, namespace.as_str(), name.as_str());
    if !versions(kind).contains(&version) {
        let wanted = versions(kind).join(" or ");
        let problem = Problem::error(
            Code::UnknownKind,
            &reference,
            "apiVersion",
            format!("version `{version}` of {kind} is not read here; {wanted} is"),
        );
        return Parsed { object: None, unreadable: None, reference: Some(reference), problems: vec![problem] };
    }
    let mut problems = Vec::new();
    let mut unreadable = Unreadable::of(&document, &reference);
    let completed = |mut object: Object| {
        complete(&mut object, kind.namespaced().then_some(namespace));
        object
    };
    match read(kind, document, &reference, &mut problems) {
        Ok(object) => {
            Parsed { object: Some(completed(object)), unreadable: None, reference: Some(reference), problems }
        }
        Err(problem) => {
            unreadable.message = match problem.field.as_str() {
                "" => problem.message.clone(),
                field => format!("{field}: {}", problem.message),
            };
            unreadable.stand_in = unreadable.stand_in.map(completed);
            problems.push(*problem);
            Parsed { object: None, unreadable: Some(Arc::new(unreadable)), reference: Some(reference), problems }
        }
    }
}

/// The served versions that have the schema that is read here, the preferred one first.
pub fn versions(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::GatewayClass | Kind::Gateway | Kind::HTTPRoute | Kind::ReferenceGrant => &["v1", "v1beta1"],
        Kind::BackendTLSPolicy => &["v1", "v1alpha3"],
        Kind::TLSRoute => &["v1", "v1alpha3", "v1alpha2"],
        Kind::TCPRoute | Kind::UDPRoute => &["v1", "v1alpha2"],
        Kind::XBackendTrafficPolicy | Kind::Plugin | Kind::TrafficPolicy | Kind::GatewayConfig => &["v1alpha1"],
        _ => &["v1"],
    }
}

fn unreadable(code: Code, severity: Severity, field: &str, message: String) -> Parsed {
    let problem = Problem {
        code,
        severity,
        object: None,
        field: field.to_owned(),
        message,
        hint: code.hint().to_owned(),
        location: None,
    };
    Parsed { object: None, unreadable: None, reference: None, problems: vec![problem] }
}

fn read(
    kind: Kind,
    document: Value,
    reference: &ObjectRef,
    problems: &mut Vec<Problem>,
) -> Result<Object, Box<Problem>> {
    macro_rules! read {
        ($variant:ident) => {
            Object::$variant(Arc::new(typed(document, reference, problems)?))
        };
    }
    Ok(match kind {
        Kind::GatewayClass => read!(GatewayClass),
        Kind::Gateway => read!(Gateway),
        Kind::ListenerSet => read!(ListenerSet),
        Kind::HTTPRoute => read!(HTTPRoute),
        Kind::GRPCRoute => read!(GRPCRoute),
        Kind::TLSRoute => read!(TLSRoute),
        Kind::TCPRoute => read!(TCPRoute),
        Kind::UDPRoute => read!(UDPRoute),
        Kind::ReferenceGrant => read!(ReferenceGrant),
        Kind::BackendTLSPolicy => read!(BackendTLSPolicy),
        Kind::XBackendTrafficPolicy => read!(XBackendTrafficPolicy),
        Kind::Ingress => read!(Ingress),
        Kind::IngressClass => read!(IngressClass),
        Kind::Service => read!(Service),
        Kind::EndpointSlice => read!(EndpointSlice),
        Kind::Secret => read!(Secret),
        Kind::ConfigMap => read!(ConfigMap),
        Kind::Namespace => read!(Namespace),
        Kind::Plugin => read!(Plugin),
        Kind::TrafficPolicy => read!(TrafficPolicy),
        Kind::GatewayConfig => read!(GatewayConfig),
    })
}

/// Status is what a controller writes; it is not read, so it cannot make an object unreadable.
fn typed<T: DeserializeOwned>(
    mut document: Value,
    reference: &ObjectRef,
    problems: &mut Vec<Problem>,
) -> Result<T, Box<Problem>> {
    if let Value::Object(fields) = &mut document {
        fields.shift_remove("status");
        // What a server keeps beside the object for itself, and changes at each write.
        if let Some(Value::Object(meta)) = fields.get_mut("metadata") {
            meta.shift_remove("managedFields");
            meta.shift_remove("resourceVersion");
        }
    }
    let mut track = serde_path_to_error::Track::new();
    let deserializer = serde_path_to_error::Deserializer::new(document, &mut track);
    let mut unknown = Vec::new();
    let result: Result<T, serde_json::Error> = serde_ignored::deserialize(deserializer, |path| {
        unknown.push(ignored_path(&path));
    });
    // Not every type looks at what the document says of itself; it has been read above.
    unknown.retain(|field| field != "apiVersion" && field != "kind");
    problems.extend(unknown.into_iter().map(|field| {
        let last = field.rsplit('.').next().unwrap_or(&field);
        let message = format!("{} has no field `{last}` here", reference.kind);
        Problem::warning(Code::UnknownField, reference, field, message)
    }));
    result.map_err(|error| {
        let path = track.path().to_string();
        let path = if path == "." { String::new() } else { path };
        Box::new(Problem::error(Code::WrongType, reference, path, error.to_string()))
    })
}

/// A path as the API writes it: `spec.rules[0].name`.
fn ignored_path(path: &serde_ignored::Path<'_>) -> String {
    use serde_ignored::Path;
    match path {
        Path::Root => String::new(),
        Path::Seq { parent, index } => format!("{}[{index}]", ignored_path(parent)),
        Path::Map { parent, key } => {
            let parent = ignored_path(parent);
            if parent.is_empty() { key.clone() } else { format!("{parent}.{key}") }
        }
        Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => {
            ignored_path(parent)
        }
    }
}

/// What an API server would have written: the namespace, and a Secret's `stringData` in its `data`.
fn complete(object: &mut Object, namespace: Option<String>) {
    macro_rules! set_namespace {
        ($($variant:ident),*) => {
            match object { $(Object::$variant(object) => {
                if object.metadata.namespace != namespace {
                    Arc::make_mut(object).metadata.namespace = namespace;
                }
            })* }
        };
    }
    set_namespace!(
        GatewayClass,
        Gateway,
        ListenerSet,
        HTTPRoute,
        GRPCRoute,
        TLSRoute,
        TCPRoute,
        UDPRoute,
        ReferenceGrant,
        BackendTLSPolicy,
        XBackendTrafficPolicy,
        Ingress,
        IngressClass,
        Service,
        EndpointSlice,
        Secret,
        ConfigMap,
        Namespace,
        Plugin,
        TrafficPolicy,
        GatewayConfig
    );
    if let Object::Secret(secret) = object
        && secret.string_data.is_some()
    {
        let secret = Arc::make_mut(secret);
        let data = secret.data.get_or_insert_with(Default::default);
        for (key, text) in secret.string_data.take().unwrap_or_default() {
            data.insert(key, k8s_openapi::ByteString(text.into_bytes()));
        }
    }
}

#[cfg(test)]
mod tests;
