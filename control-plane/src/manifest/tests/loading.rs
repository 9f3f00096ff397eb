//! Many documents: what is taken, what is kept, whose a problem is.

use super::{SERVICE, read, route, said};
use crate::manifest::{Changed, Document, Kind, Mesh, ObjectId, apply, load, remove};

fn service(name: &str, namespace: &str) -> String {
    SERVICE.replace("name: b, namespace: shop", &format!("name: {name}, namespace: {namespace}"))
}

#[test]
fn a_broken_object_of_one_team_does_not_hold_back_the_others() {
    let documents = [
        Document::new("team-a.yaml", &service("a", "team-a").replace("port: 80", "prt: 80")),
        Document::new("team-b.yaml", &service("b", "team-b")),
        Document::new("team-c.yaml", &(service("c", "team-c") + "---\n[broken\n---\n" + &service("d", "team-c"))),
    ];
    let outcome = load(&documents, None);
    assert!(outcome.has_errors());
    let names: Vec<String> = outcome.mesh.objects().map(|object| object.id.to_string()).collect();
    assert_eq!(names, ["Service team-b/b", "Service team-c/c", "Service team-c/d"]);
    let first = &outcome.problems[0];
    assert_eq!(first.object.as_ref().map(ObjectId::namespace), Some("team-a"));
    assert_eq!(&*first.document, "team-a.yaml");
    assert_eq!(&*outcome.problems.last().expect("one").document, "team-c.yaml");
}

#[test]
fn what_cannot_be_read_stays_as_it_was() {
    let good = service("a", "shop") + "---\n" + &service("b", "shop");
    let before = read(&good).mesh;
    // One is broken; then one is not even an object, and nobody knows which; then both are gone.
    for (text, left) in [
        (good.replace("name: b", "nme: b"), 2),
        (good.replacen("kind: Service", "kind: Service\n  - [", 1), 2),
        (service("a", "shop"), 1),
        (String::new(), 0),
    ] {
        let outcome = load(&[Document::new("m.yaml", &text)], Some(&before));
        assert_eq!(outcome.mesh.len(), left, "{text}");
    }
}

/// What is refused, by policy and whether that is for some workloads only.
fn refused(name: &str, text: &str, before: Option<&Mesh>) -> Vec<(String, bool)> {
    let mesh = load(&[Document::new(name, text)], before).mesh;
    mesh.closed().iter().map(|closed| (closed.id.to_string(), closed.selector.is_some())).collect()
}

const DENY: &str = "apiVersion: outrigger.dev/v1
kind: AuthorizationPolicy
metadata: { name: deny, namespace: shop }
spec:
  selector: { matchLabels: { app: pay } }
  default: deny
";

#[test]
fn a_policy_that_cannot_be_read_refuses_what_it_may_be_for() {
    let of = |id: &str, some: bool| vec![(format!("AuthorizationPolicy {id}"), some)];
    assert_eq!(refused("m.yaml", &DENY.replace("default: deny", "default: dny"), None), of("shop/deny", true));
    // No workload has such a label: its namespace is meant.
    for label in ["\"*\"", "pay/v1"] {
        let text = DENY.replace("app: pay", &format!("app: {label}"));
        assert_eq!(refused("m.yaml", &text, None), of("shop/deny", false), "{label}");
    }
    assert_eq!(refused("m.yaml", &DENY.replace("name: deny", "nme: deny"), None), of("shop/?", false));
    let json = r#"{"apiVersion": "outrigger.dev/v1", "kind": "AuthorizationPolicy", "metadata": {"name": "deny", "namespace": "shop"}, "spec": {"#;
    assert_eq!(refused("m.json", json, None), of("shop/deny", false));
}

#[test]
fn what_a_malformed_document_said_before_stays_whatever_it_seems_to_be_now() {
    let labelled = DENY.replace(
        "{ name: deny, namespace: shop }",
        "\n  labels: { app.kubernetes.io/name: other }\n  name: deny\n  namespace: shop",
    );
    for good in [DENY.to_owned(), labelled] {
        let before = load(&[Document::new("m.yaml", &good)], None).mesh;
        assert_eq!(before.len(), 1);
        for broken in [
            good.replace("app: pay }", "app: pay"),
            good.replace("name: deny", "nme: deny"),
            good.replace("kind", "- kind"),
        ] {
            let outcome = load(&[Document::new("m.yaml", &broken)], Some(&before));
            assert!(outcome.has_errors(), "{broken}");
            let left: Vec<_> = outcome.mesh.objects().map(|object| object.id.to_string()).collect();
            assert_eq!(left, ["AuthorizationPolicy shop/deny"], "{broken}");
            assert_eq!(refused("m.yaml", &broken, Some(&before)), [], "{broken}");
        }
    }
}

#[test]
fn a_policy_that_comes_malformed_beside_one_that_was_there_refuses_what_it_may_be_for() {
    let before = load(&[Document::new("m.yaml", DENY)], None).mesh;
    for broken in [DENY.replace("app: pay }", "app: pay"), DENY.replace("name: deny", "nme: other")] {
        let text = format!("{DENY}---\n{}", broken.replace("name: deny", "name: other"));
        assert_eq!(refused("m.yaml", &text, Some(&before)).len(), 1, "{text}");
        // The one that was there is malformed as well.
        let both = format!(
            "{}---\n{}",
            DENY.replace("name: deny", "nme: deny"),
            DENY.replace("app: pay }", "app: pay").replace("name: deny", "name: other")
        );
        assert!(!refused("m.yaml", &both, Some(&before)).is_empty(), "{both}");
    }
}

#[test]
fn an_object_that_is_written_twice_is_an_error_unless_it_is_the_same() {
    let outcome = read(&(service("a", "shop") + "---\n" + &service("a", "shop").replace("port: 80", "port: 81")));
    assert_eq!(said(&outcome), ["6:1 Service shop/a is written twice"]);
    assert_eq!(outcome.mesh.len(), 1);
}

#[test]
fn a_mesh_gives_documents_that_give_it_again_with_the_same_places() {
    let list = "---\napiVersion: v1\nkind: List\nitems:\n  - apiVersion: v1\n    kind: Service\n    metadata: { name: x, namespace: shop }\n    spec:\n      ports:\n        - port: 80\n  - { apiVersion: v1, kind: Service, metadata: { name: y, namespace: shop }, spec: { ports: [{ port: 81 }] } }\n";
    let json = r#"{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "j", "namespace": "shop"}, "spec": {"ports": [{"port": 80}]}}"#;
    let text = format!("# above\r\n{SERVICE}{}{list}---\n{json}", route("r", "  rules: []\n"));
    let outcome = read(&text);
    assert!(!outcome.has_errors(), "{:?}", said(&outcome));
    assert_eq!(outcome.mesh.len(), 5);
    let again = load(&outcome.mesh.documents(), None);
    assert!(!again.has_errors(), "{:?}", said(&again));
    for (one, other) in outcome.mesh.objects().zip(again.mesh.objects()) {
        assert_eq!((&one.id, &one.place, &one.spec), (&other.id, &other.place, &other.spec));
    }
}

#[test]
fn pushes_go_on_top_and_are_told_apart() {
    let before = read(&(service("a", "shop") + "---\n" + &service("b", "shop"))).mesh;
    let push = Document::new(
        "push.yaml",
        &(service("b", "shop").replace("port: 80", "port: 90") + "---\n" + &service("c", "shop")),
    );
    let outcome = apply(&before, &[push]);
    assert!(!outcome.has_errors());
    let changes: Vec<_> =
        outcome.changes.iter().map(|change| (change.object.name.name.to_string(), change.how)).collect();
    assert_eq!(changes, [("b".to_owned(), Changed::Changed), ("c".to_owned(), Changed::Added)]);
    let outcome = remove(&outcome.mesh, &[ObjectId::new(Kind::Service, "shop", "a")]);
    assert_eq!(outcome.changes[0].how, Changed::Removed);
    assert_eq!(outcome.mesh.len(), 2);
}

#[test]
fn every_prefix_of_a_text_is_survived() {
    let text = format!("{SERVICE}{}", route("r", "  rules: [{ backendRefs: [{ name: b, port: 80 }] }]\n"));
    for end in 0..text.len() {
        let _ = read(&text[..end]);
    }
}
