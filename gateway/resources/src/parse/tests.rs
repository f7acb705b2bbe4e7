use super::*;
use serde_json::json;

fn route(spec: Value) -> Value {
    json!({ "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": { "name": "web", "namespace": "shop" }, "spec": spec })
}

#[test]
fn an_object_without_namespace_is_in_default() {
    let parsed = parse(json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "web" } }));
    assert_eq!(parsed.problems, []);
    assert_eq!(parsed.object.unwrap().reference(), ObjectRef::new(Kind::Service, "default", "web"));
}

#[test]
fn a_cluster_scoped_object_has_no_namespace_whatever_it_says() {
    let parsed = parse(json!({ "apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass",
        "metadata": { "name": "sluice", "namespace": "x" },
        "spec": { "controllerName": "sluice.dev/gateway-controller" } }));
    let object = parsed.object.unwrap();
    assert_eq!(object.reference().to_string(), "GatewayClass sluice");
    assert_eq!(object.metadata().namespace, None);
}

#[test]
fn an_unknown_field_is_a_warning_with_its_path_and_the_object_is_read() {
    let parsed =
        parse(route(json!({ "rules": [{ "backendRefs": [{ "name": "web", "prot": 80 }] }], "hostname": "x" })));
    assert!(parsed.object.is_some());
    let fields: Vec<_> = parsed.problems.iter().map(|p| (p.code, p.severity, p.field.as_str())).collect();
    assert_eq!(
        fields,
        [
            (Code::UnknownField, Severity::Warning, "spec.rules[0].backendRefs[0].prot"),
            (Code::UnknownField, Severity::Warning, "spec.hostname"),
        ]
    );
}

#[test]
fn a_guard_that_cannot_be_read_has_a_stand_in_with_its_targets() {
    let policy = |spec: Value| {
        parse(json!({ "apiVersion": "sluice.dev/v1alpha1", "kind": "TrafficPolicy",
            "metadata": { "name": "guard", "namespace": "shop" }, "spec": spec }))
    };
    let target = json!([{ "group": "", "kind": "Service", "name": "web" }]);
    let broken = policy(json!({ "targetRefs": target, "plugins": "key-auth" }));
    assert_eq!(broken.object, None);
    let Some(Object::TrafficPolicy(stand_in)) = broken.unreadable.and_then(|unreadable| unreadable.stand_in.clone())
    else {
        panic!("there is no stand-in")
    };
    assert!(stand_in.spec.unreadable);
    assert_eq!(stand_in.spec.target_refs.as_ref().unwrap()[0].name, "web");
    assert_eq!(stand_in.metadata.namespace.as_deref(), Some("shop"));
    // One that guards nothing shuts nothing, and takes no target from another.
    let broken = policy(json!({ "targetRefs": target, "backend": 1 })).unreadable.unwrap();
    let Some(Object::TrafficPolicy(open)) = &broken.stand_in else { panic!("there is no stand-in") };
    assert!(!open.spec.unreadable && open.metadata.creation_timestamp.is_some());
    assert!(!Unreadable::is_stand_in(broken.stand_in.as_ref().unwrap()));
    // What says which target is meant is enough, and a name.
    let vague = parse(json!({ "apiVersion": "sluice.dev/v1alpha1", "kind": "TrafficPolicy",
        "metadata": { "name": "guard", "namespace": "shop", "labels": { "version": 2 } },
        "spec": { "targetRefs": [{ "name": "web" }, { "kind": "HTTPRoute", "name": "r", "sectionName": 1 }, 7], "client": {} } }));
    let Some(Object::TrafficPolicy(stand_in)) = &vague.unreadable.unwrap().stand_in.clone() else { panic!("none") };
    assert!(stand_in.spec.unreadable);
    let targets = stand_in.spec.target_refs.as_ref().unwrap();
    let targets: Vec<_> = targets.iter().map(|target| (&*target.group, &*target.kind, &*target.name)).collect();
    assert_eq!(targets, [("", "Service", "web"), ("gateway.networking.k8s.io", "HTTPRoute", "r")]);
    assert_eq!(policy(json!({ "targetRefs": target, "plugins": [] })).unreadable, None, "it can be read");
}

#[test]
fn an_unknown_field_of_a_core_object_is_a_warning_too() {
    let parsed = parse(json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "web" },
        "spec": { "ports": [{ "port": 80, "targetport": 8080 }] } }));
    assert!(parsed.object.is_some());
    assert_eq!(parsed.problems.len(), 1);
    assert_eq!(parsed.problems[0].field, "spec.ports[0].targetport");
}

#[test]
fn a_value_of_the_wrong_type_is_an_error_with_its_path_and_there_is_no_object() {
    let parsed = parse(route(json!({ "rules": [{}, { "backendRefs": [{ "name": "web", "port": "eighty" }] }] })));
    assert_eq!(parsed.object, None);
    assert_eq!(parsed.reference, Some(ObjectRef::new(Kind::HTTPRoute, "shop", "web")));
    assert_eq!(parsed.problems.len(), 1);
    assert_eq!(parsed.problems[0].code, Code::WrongType);
    assert_eq!(parsed.problems[0].field, "spec.rules[1].backendRefs[0].port");
}

#[test]
fn an_unknown_enum_value_is_an_error_that_names_the_known_ones() {
    let parsed = parse(route(json!({ "rules": [{ "matches": [{ "path": { "type": "Glob", "value": "/*" } }] }] })));
    assert_eq!(parsed.object, None);
    assert_eq!(parsed.problems[0].field, "spec.rules[0].matches[0].path.type");
    assert!(parsed.problems[0].message.contains("PathPrefix"), "{}", parsed.problems[0].message);
}

#[test]
fn a_missing_required_field_is_an_error() {
    let parsed = parse(route(json!({ "rules": [{ "backendRefs": [{ "port": 80 }] }] })));
    assert_eq!(parsed.object, None);
    assert!(parsed.problems[0].message.contains("`name`"), "{}", parsed.problems[0].message);
}

#[test]
fn a_document_that_is_no_object_says_what_is_missing() {
    for (document, field) in [
        (json!({}), "apiVersion"),
        (json!({ "apiVersion": "v1" }), "kind"),
        (json!({ "apiVersion": "v1", "kind": "Service" }), "metadata.name"),
        (json!("text"), "apiVersion"),
        (json!(null), "apiVersion"),
    ] {
        let parsed = parse(document);
        assert_eq!(parsed.object, None);
        assert_eq!((parsed.problems[0].code, parsed.problems[0].field.as_str()), (Code::NotAnObject, field));
    }
}

#[test]
fn a_kind_that_is_not_read_is_a_warning() {
    let parsed = parse(json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "web" } }));
    assert_eq!(parsed.problems[0].code, Code::UnknownKind);
    assert_eq!(parsed.problems[0].severity, Severity::Warning);
}

#[test]
fn an_older_served_version_of_the_same_schema_is_read_and_another_is_not() {
    let grant = |version: &str| {
        json!({ "apiVersion": format!("gateway.networking.k8s.io/{version}"), "kind": "ReferenceGrant",
            "metadata": { "name": "g" }, "spec": { "from": [], "to": [] } })
    };
    assert!(parse(grant("v1beta1")).object.is_some());
    assert_eq!(parse(grant("v1beta1")).object, parse(grant("v1")).object);
    assert_eq!(parse(grant("v1alpha2")).problems[0].code, Code::UnknownKind);
}

#[test]
fn a_list_is_its_items() {
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": [{ "kind": "A" }, { "kind": "B" }] });
    assert_eq!(expand_list(list), [json!({ "kind": "A" }), json!({ "kind": "B" })]);
    assert_eq!(expand_list(json!({ "kind": "Service" })), [json!({ "kind": "Service" })]);
    assert_eq!(expand_list(json!({ "kind": "List" })), [] as [Value; 0]);
}

#[test]
fn string_data_of_a_secret_wins_over_data() {
    let parsed = parse(json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "s" },
        "data": { "a": "b2xk", "b": "b2xk" }, "stringData": { "a": "new" } }));
    let Some(Object::Secret(secret)) = parsed.object else { panic!("{:?}", parsed.problems) };
    let data = secret.data.as_ref().unwrap();
    assert_eq!((data["a"].0.as_slice(), data["b"].0.as_slice()), (b"new".as_slice(), b"old".as_slice()));
}

#[test]
fn status_and_what_a_server_keeps_for_itself_are_not_read() {
    let with = json!({ "apiVersion": "v1", "kind": "Namespace", "status": { "phase": 7 },
        "metadata": { "name": "n", "resourceVersion": "12", "managedFields": [] } });
    let without = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "n" } });
    assert_eq!(parse(with), parse(without));
}
