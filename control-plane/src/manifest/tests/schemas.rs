use crate::manifest::{Kind, crds, json_schema, json_schemas};

#[test]
fn every_kind_has_a_schema_that_names_it_and_refuses_unknown_fields() {
    assert_eq!(json_schemas().len(), Kind::ALL.len());
    for kind in Kind::ALL {
        let schema = json_schema(kind);
        assert_eq!(schema.pointer("/properties/kind/const").and_then(|v| v.as_str()), Some(kind.as_str()));
        assert_eq!(schema.get("additionalProperties").and_then(serde_json::Value::as_bool), Some(false), "{kind}");
    }
}

#[test]
fn our_own_kinds_are_crds_without_references() {
    let text = crds();
    assert_eq!(text.matches("CustomResourceDefinition").count(), 5);
    assert!(!text.contains("$ref") && !text.contains("anyOf"));
    for name in ["workloads", "meshpolicies", "trafficpolicies", "authorizationpolicies", "jwtpolicies"] {
        assert!(text.contains(&format!("\"{name}.outrigger.dev\"")), "{name}");
    }
    // JSON is YAML: our own reader takes it apart.
    assert_eq!(outrigger_config::language::parts(&text).len(), 5);
}
