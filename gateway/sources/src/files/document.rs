//! One file's text into objects: documents, `List`s, and what of an object's former version stays where the new one
//! cannot be used.

use crate::yaml::{self, Node, SyntaxError};
use serde_json::Value;
use sha2::{Digest, Sha256};
use sluice_model::object::NamespacedName;
use sluice_model::{Code, Kind, Location, ObjectRef, Problem, Severity};
use sluice_resources::{Object, Unreadable, parse};
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

/// One object as it stands in a file.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// `None` where the text does not even say which object it is.
    pub(super) reference: Option<ObjectRef>,
    /// Namespace and name of an object whose kind is not one that is read.
    stranger: Option<NamespacedName>,
    pub(super) place: Place,
    pub(super) line: u32,
    /// Of the object's content, so that another layout of the same text is no change.
    pub(super) fingerprint: [u8; 32],
    /// What serves: this text's object, or the former one where this text's cannot be used.
    pub(super) object: Option<Object>,
    /// Why this text's object cannot be used.
    pub(super) unreadable: Option<Arc<Unreadable>>,
    /// A plugin's code, absolute.
    pub(super) module: Option<Arc<str>>,
    pub(super) problems: Vec<Problem>,
}

/// Where in a file an object stands: which document, and which item if that is a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    document: usize,
    item: Option<usize>,
}

impl Place {
    /// Of an object that stays, though the text that it came from has gone.
    const GONE: Place = Place { document: usize::MAX, item: None };

    pub(super) fn find(self, documents: &[Node]) -> Option<&Node> {
        let document = documents.get(self.document)?;
        match self.item {
            None => Some(document),
            Some(index) => match &document.get("items")?.data {
                yaml::Data::Sequence(items) => items.get(index),
                _ => None,
            },
        }
    }
}

/// Reads all objects of a file. `former` are the objects that it held before.
pub(super) fn read(path: &Path, text: &str, former: &[Entry]) -> Result<Vec<Entry>, SyntaxError> {
    let by_reference: HashMap<&ObjectRef, &Entry> =
        former.iter().rev().filter_map(|entry| Some((entry.reference.as_ref()?, entry))).collect();
    let mut entries = Vec::new();
    let mut document = 0;
    yaml::each(text, |node| {
        match list_items(&node) {
            Some(items) => {
                for (item, node) in items.iter().enumerate() {
                    entries.push(entry(path, Place { document, item: Some(item) }, node, &by_reference));
                }
            }
            None => entries.push(entry(path, Place { document, item: None }, &node, &by_reference)),
        }
        document += 1;
    })?;
    entries.shrink_to_fit();
    keep_unnamed(&mut entries, former);
    Ok(entries)
}

/// A document that does not say which object it is may be any of those that the file held before: they stay. So does one
/// that has its name, where the kind that the document now says is none that is read: `kind` was mistyped.
fn keep_unnamed(entries: &mut Vec<Entry>, former: &[Entry]) {
    let unnamed = entries.iter().any(|entry| entry.problems.iter().any(|problem| problem.code == Code::NotAnObject));
    if !unnamed && entries.iter().all(|entry| entry.stranger.is_none()) {
        return;
    }
    let named: HashSet<ObjectRef> = entries.iter().filter_map(|entry| entry.reference.clone()).collect();
    let mut kept = Vec::new();
    for lost in former.iter().filter(|f| f.object.is_some() || f.unreadable.is_some()) {
        let Some(reference) = lost.reference.as_ref().filter(|reference| !named.contains(reference)) else { continue };
        let key = reference.key();
        // A name of a cluster-scoped kind has no namespace, whatever the document says.
        let same = |name: &NamespacedName| *name == key || (key.namespace.is_empty() && name.name == key.name);
        let mistyped = entries.iter_mut().find(|entry| entry.stranger.as_ref().is_some_and(same));
        if let Some(entry) = mistyped {
            for problem in &mut entry.problems {
                problem.severity = Severity::Error;
                problem.hint = format!("{reference} goes on serving as it was; delete the document to remove it");
            }
        } else if !unnamed {
            continue;
        }
        kept.push(Entry { place: Place::GONE, problems: Vec::new(), ..lost.clone() });
    }
    entries.extend(kept);
}

/// The items of what `kubectl get -o yaml` prints.
fn list_items(node: &Node) -> Option<&[Node]> {
    let text = |key| match node.get(key).map(|n| &n.data) {
        Some(yaml::Data::String(text)) => Some(text.as_str()),
        _ => None,
    };
    match (text("kind")?.ends_with("List"), text("apiVersion"), node.get("items").map(|n| &n.data)) {
        (true, Some(_), Some(yaml::Data::Sequence(items))) => Some(items),
        _ => None,
    }
}

/// `former`: what the file held before; of several with one name the first.
fn entry(path: &Path, place: Place, node: &Node, former: &HashMap<&ObjectRef, &Entry>) -> Entry {
    let mut value = node.to_json();
    let reference = reference(&value);
    let module = match &reference {
        Some(reference) if reference.kind == Kind::Plugin => make_module_absolute(path, &mut value),
        _ => None,
    };
    let fingerprint: [u8; 32] = Sha256::digest(value.to_string()).into();
    let former = reference.as_ref().and_then(|reference| former.get(reference).copied());
    if let Some(former) = former.filter(|f| f.fingerprint == fingerprint) {
        let problems = former.problems.iter().cloned().map(|p| located(p, path, node)).collect();
        return Entry { place, line: node.line, problems, ..former.clone() };
    }
    let stranger = name(&value);
    let parsed = parse(value);
    Entry {
        stranger: if reference.is_none() { stranger } else { None },
        reference: parsed.object.as_ref().map(Object::reference).or(reference),
        place,
        line: node.line,
        fingerprint,
        object: parsed.object.or_else(|| former.and_then(|f| f.object.clone())),
        unreadable: parsed.unreadable,
        module,
        problems: parsed.problems.into_iter().map(|p| located(p, path, node)).collect(),
    }
}

fn located(problem: Problem, path: &Path, node: &Node) -> Problem {
    let location = Location { file: path.to_string_lossy().into(), line: node.line_of(&problem.field) };
    Problem { location: Some(location), ..problem }
}

/// The name of an object, even where the rest of it cannot be read.
fn reference(value: &Value) -> Option<ObjectRef> {
    let text = |pointer| value.pointer(pointer).and_then(Value::as_str);
    let group = text("/apiVersion")?.rsplit_once('/').map_or("", |(group, _)| group);
    let kind = Kind::from_group_kind(group, text("/kind")?)?;
    let name = name(value)?;
    Some(ObjectRef::new(kind, name.namespace, name.name))
}

fn name(value: &Value) -> Option<NamespacedName> {
    let text = |pointer| value.pointer(pointer).and_then(Value::as_str);
    let namespace = text("/metadata/namespace").filter(|namespace| !namespace.is_empty()).unwrap_or("default");
    Some(NamespacedName::new(namespace, text("/metadata/name")?))
}

/// A plugin's file is named relative to the file that names it.
fn make_module_absolute(path: &Path, value: &mut Value) -> Option<Arc<str>> {
    let field = value.pointer_mut("/spec/source/file/path")?;
    let named = Path::new(field.as_str()?);
    let absolute = std::path::absolute(path.parent().unwrap_or(Path::new("")).join(named)).ok()?;
    let absolute = absolute.to_str()?.to_owned();
    *field = Value::String(absolute.clone());
    Some(absolute.into())
}
