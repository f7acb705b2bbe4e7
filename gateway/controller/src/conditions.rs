//! What is to be written of a status, given what stands there: conditions keep the time at which they last changed,
//! what other controllers wrote stays, and where nothing differs nothing is written.

use serde_json::{Map, Value, json};
use sluice_translate::{Condition, GATEWAY_CONTROLLER};

/// Characters of a condition's message, by the API's schema.
const MAX_MESSAGE: usize = 32 << 10;

/// The conditions to write over those that stand there. Types that are not ours stay.
pub(crate) fn merged(wanted: &[Condition], held: &Value, generation: i64, ours: &[&str], now: &str) -> Value {
    let none = Vec::new();
    let held = held.as_array().unwrap_or(&none);
    let kind_of = |condition: &Value| condition.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut result = Vec::new();
    for condition in wanted {
        let status = if condition.status { "True" } else { "False" };
        let former = held.iter().find(|former| kind_of(former) == condition.kind);
        let since = former
            .filter(|former| former.get("status").and_then(Value::as_str) == Some(status))
            .and_then(|former| former.get("lastTransitionTime"))
            .and_then(Value::as_str)
            .unwrap_or(now);
        result.push(json!({
            "type": condition.kind,
            "status": status,
            "reason": condition.reason,
            "message": condition.message.chars().take(MAX_MESSAGE).collect::<String>(),
            "observedGeneration": generation,
            "lastTransitionTime": since,
        }));
    }
    let foreign = held.iter().filter(|condition| {
        let kind = kind_of(condition);
        !ours.contains(&kind.as_str()) && wanted.iter().all(|wanted| wanted.kind != kind)
    });
    result.extend(foreign.cloned());
    Value::Array(result)
}

/// One entry of ours in a list of several controllers' (`parents` of a route, `ancestors` of a policy).
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) reference: Value,
    pub(crate) conditions: Vec<Condition>,
}

/// Such a list, by the API's schema.
pub(crate) struct Entries {
    /// The field that names what an entry is about.
    reference: &'static str,
    max: usize,
    /// Types of conditions of ours that come and go.
    ours: &'static [&'static str],
}

pub(crate) const PARENTS: Entries = Entries { reference: "parentRef", max: 32, ours: &["PartiallyInvalid"] };
pub(crate) const ANCESTORS: Entries = Entries { reference: "ancestorRef", max: 16, ours: &["ResolvedRefs"] };

impl Entries {
    /// The entries to write: those of other controllers as they are, then ours.
    pub(crate) fn merged(&self, wanted: &[Entry], held: &Value, generation: i64, now: &str) -> Value {
        let none = Vec::new();
        let held = held.as_array().unwrap_or(&none);
        let ours = |entry: &&Value| entry.get("controllerName").and_then(Value::as_str) == Some(GATEWAY_CONTROLLER);
        let mut result: Vec<Value> = held.iter().filter(|entry| !ours(entry)).cloned().collect();
        for wanted in wanted {
            let former = held.iter().filter(ours).find(|entry| entry.get(self.reference) == Some(&wanted.reference));
            let conditions = former.and_then(|entry| entry.get("conditions")).unwrap_or(&Value::Null);
            result.push(json!({
                self.reference: wanted.reference,
                "controllerName": GATEWAY_CONTROLLER,
                "conditions": merged(&wanted.conditions, conditions, generation, self.ours, now),
            }));
        }
        result.truncate(self.max);
        Value::Array(result)
    }
}

/// The fields of `wanted` that differ from those that stand there; `None`: nothing does. A field that is not there
/// counts as null, and as an empty list.
pub(crate) fn difference(wanted: Map<String, Value>, held: &Value) -> Option<Map<String, Value>> {
    let empty = Value::Array(Vec::new());
    let differs = |field: &str, value: &Value| match held.get(field) {
        Some(Value::Null) | None => *value != empty && !value.is_null(),
        Some(held) => held != value,
    };
    let patch: Map<_, _> = wanted.into_iter().filter(|(field, value)| differs(field, value)).collect();
    (!patch.is_empty()).then_some(patch)
}

#[cfg(test)]
mod tests {
    use super::*;

    const THEN: &str = "2026-01-01T00:00:00Z";
    const NOW: &str = "2026-02-02T00:00:00Z";

    fn held(kind: &str, status: &str, generation: i64) -> Value {
        json!({"type": kind, "status": status, "reason": "R", "message": "", "observedGeneration": generation,
               "lastTransitionTime": THEN})
    }

    #[test]
    fn a_condition_keeps_its_time_until_its_status_changes() {
        let wanted = [Condition::good("Accepted", "Accepted", ""), Condition::bad("Programmed", "Pending", "")];
        let merged = merged(
            &wanted,
            &json!([held("Accepted", "True", 1), held("Programmed", "True", 1)]),
            2,
            &["Accepted", "Programmed"],
            NOW,
        );
        assert_eq!(merged[0]["lastTransitionTime"], THEN);
        assert_eq!(merged[0]["observedGeneration"], 2);
        assert_eq!(merged[1]["lastTransitionTime"], NOW);
    }

    #[test]
    fn conditions_of_others_stay_and_ours_that_do_not_hold_any_more_go() {
        let there =
            json!([held("Accepted", "True", 1), held("example.com/Seen", "True", 1), held("ResolvedRefs", "False", 1)]);
        let merged =
            merged(&[Condition::good("Accepted", "Accepted", "")], &there, 1, &["Accepted", "ResolvedRefs"], NOW);
        let kinds: Vec<_> = merged.as_array().unwrap().iter().map(|c| c["type"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["Accepted", "example.com/Seen"]);
    }

    #[test]
    fn entries_of_other_controllers_stay_and_ours_of_parents_that_are_gone_go() {
        let parent = |name: &str| json!({"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": name});
        let entry = |name: &str, controller: &str| json!({"parentRef": parent(name), "controllerName": controller, "conditions": [held("Accepted", "True", 1)]});
        let there = json!([
            entry("old", GATEWAY_CONTROLLER),
            entry("edge", "example.com/x"),
            entry("edge", GATEWAY_CONTROLLER)
        ]);
        let wanted = [Entry { reference: parent("edge"), conditions: vec![Condition::good("Accepted", "R", "")] }];
        let merged = PARENTS.merged(&wanted, &there, 1, NOW);
        assert_eq!(merged, json!([entry("edge", "example.com/x"), entry("edge", GATEWAY_CONTROLLER)]));
        let fields = Map::from_iter([("parents".to_owned(), merged.clone())]);
        assert!(difference(fields.clone(), &json!({"parents": merged})).is_none());
        assert!(difference(fields, &json!({"parents": there})).is_some());
    }

    #[test]
    fn a_policy_has_at_most_16_ancestors_and_those_of_others_come_first() {
        let wanted: Vec<Entry> =
            (0..20).map(|n| Entry { reference: json!({"name": n}), conditions: Vec::new() }).collect();
        let others = json!([{"ancestorRef": {"name": "x"}, "controllerName": "example.com/x", "conditions": []}]);
        let merged = ANCESTORS.merged(&wanted, &others, 1, NOW);
        assert_eq!(merged.as_array().unwrap().len(), 16);
        assert_eq!((&merged[0], &merged[15]["ancestorRef"]), (&others[0], &json!({"name": 14})));
    }

    #[test]
    fn what_is_not_there_is_null_and_an_empty_list() {
        let gone = Map::from_iter([("lastError".to_owned(), Value::Null)]);
        assert!(difference(gone.clone(), &json!({})).is_none());
        assert!(difference(gone, &json!({"lastError": "x"})).is_some());
        let fields = Map::from_iter([("addresses".to_owned(), json!([]))]);
        assert!(difference(fields.clone(), &Value::Null).is_none());
        assert!(difference(fields, &json!({"addresses": [{"value": "1.2.3.4"}]})).is_some());
    }
}
