//! Mutual TLS, authorization and tokens of inbound listeners.

use outrigger_config::model::{Access, TlsMode};

use super::{TWO, checked, compile, listener, proxy, with};
use crate::compile::Compiler;
use crate::manifest::{Document, load};

fn policy(name: &str, namespace: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: outrigger.dev/v1\nkind: AuthorizationPolicy\nmetadata: {{ name: {name}, namespace: {namespace} }}\nspec: {spec}\n"
    )
}

fn mode(text: &str, workload: &str) -> TlsMode {
    let compiled = compile(text);
    let config = checked(&compiled, workload);
    listener(&config, "inbound:8080").tls.as_ref().expect("TLS").mode
}

#[test]
fn the_most_particular_policy_says_the_mode_of_mutual_tls() {
    let mesh_policy = |name: &str, namespace: &str, spec: &str| {
        format!(
            "---\napiVersion: outrigger.dev/v1\nkind: MeshPolicy\nmetadata: {{ name: {name}, namespace: {namespace} }}\nspec: {spec}\n"
        )
    };
    assert_eq!(mode(&with(""), "shop/a-1"), TlsMode::Permissive);
    let strict = mesh_policy("all", "outrigger-system", "{ mtls: { mode: strict } }");
    assert_eq!(mode(&with(&strict), "shop/a-1"), TlsMode::Strict);
    let namespace = mesh_policy("ns", "shop", "{ mtls: { mode: permissive } }");
    assert_eq!(mode(&with(&(strict.clone() + &namespace)), "shop/a-1"), TlsMode::Permissive);
    let one = mesh_policy("one", "shop", "{ selector: { matchLabels: { app: a } }, mtls: { mode: strict } }");
    let all = with(&(strict + &namespace + &one));
    assert_eq!(mode(&all, "shop/a-1"), TlsMode::Strict);
    assert_eq!(mode(&all, "shop/b-1"), TlsMode::Permissive);
    // Of another namespace: not for these.
    let other = mesh_policy("ns", "other", "{ mtls: { mode: strict } }");
    assert_eq!(mode(&with(&other), "shop/a-1"), TlsMode::Permissive);
}

#[test]
fn policies_for_a_workload_add_up() {
    let text = with(
        &(policy(
            "wide",
            "outrigger-system",
            "{ default: allow, rules: [{ name: r, action: deny, from: [{ namespaces: [evil] }] }] }",
        ) + &policy(
            "near",
            "shop",
            "{ selector: { matchLabels: { app: a } }, default: deny, rules: [{ name: r, action: allow, shadow: true, from: [{ namespaces: [shop] }] }, { name: s, action: allow, from: [{ namespaces: [shop] }] }] }",
        )),
    );
    let compiled = compile(&text);
    let config = checked(&compiled, "shop/a-1");
    let whole = &config.authorization["inbound"];
    assert_eq!(whole.default, Access::Deny, "the stricter default");
    let names: Vec<&str> = whole.rules.iter().map(|rule| &*rule.name).collect();
    assert_eq!(names, ["outrigger-system/wide/r", "shop/near/r", "shop/near/s"]);
    assert!(whole.rules[1].shadow);
    let config = checked(&compiled, "shop/b-1");
    assert_eq!(config.authorization["inbound"].default, Access::Allow);
    assert_eq!(config.authorization["inbound"].rules.len(), 1);
}

#[test]
fn without_a_policy_there_is_none() {
    let compiled = compile(&with(""));
    assert!(checked(&compiled, "shop/a-1").authorization.is_empty());
}

#[test]
fn a_policy_that_cannot_be_read_refuses_everything_that_it_is_for() {
    let good = policy(
        "p",
        "shop",
        "{ selector: { matchLabels: { app: a } }, default: allow, rules: [{ name: r, action: deny, from: [{ namespaces: [evil] }] }] }",
    );
    for (bad, a, b) in [
        // What it is for can still be read.
        (good.replace("action: deny", "action: dney"), true, false),
        // Not even that: its namespace.
        (good.replace("matchLabels", "matchLabls"), true, true),
        // Not even a manifest.
        (good.replace("{ name: r,", "{ name: r, ["), true, true),
    ] {
        let outcome = load(&[Document::new("m.yaml", &with(&bad))], None);
        assert!(outcome.has_errors());
        let compiled = Compiler::new().compile(&outcome.mesh);
        for (workload, refused) in [("shop/a-1", a), ("shop/b-1", b)] {
            let config = checked(&compiled, workload);
            let policy = config.authorization.get("inbound");
            assert_eq!(policy.is_some(), refused, "{workload}: {bad}");
            if let Some(policy) = policy {
                assert_eq!((policy.default, policy.rules.len()), (Access::Deny, 0));
            }
        }
        // With an earlier version, that stays.
        let before = load(&[Document::new("m.yaml", &with(&good))], None).mesh;
        let outcome = load(&[Document::new("m.yaml", &with(&bad))], Some(&before));
        let compiled = Compiler::new().compile(&outcome.mesh);
        assert_eq!(checked(&compiled, "shop/a-1").authorization["inbound"].rules.len(), 1);
    }
}

#[test]
fn a_mesh_policy_that_cannot_be_read_is_strict() {
    let bad = "apiVersion: outrigger.dev/v1\nkind: MeshPolicy\nmetadata: { name: m, namespace: shop }\nspec: { mtls: { mode: srict } }\n";
    let outcome = load(&[Document::new("m.yaml", &with(bad))], None);
    let compiled = Compiler::new().compile(&outcome.mesh);
    let config = checked(&compiled, "shop/a-1");
    assert_eq!(listener(&config, "inbound:8080").tls.as_ref().expect("TLS").mode, TlsMode::Strict);
}

#[test]
fn tokens_are_verified_where_a_policy_says_so() {
    let jwt = "apiVersion: outrigger.dev/v1\nkind: JwtPolicy\nmetadata: { name: users, namespace: shop }\nspec:\n  \
               selector: { matchLabels: { app: a } }\n  providers:\n    id: { issuer: \"https://id.example\", audiences: [shop], jwks: { url: \"https://id.example/jwks\" } }\n";
    let access = policy(
        "p",
        "shop",
        "{ default: deny, rules: [{ name: r, action: allow, claims: [{ provider: id, claim: role, values: [admin] }] }, { name: d, action: deny, claims: [{ provider: id, claim: role, values: [guest] }] }] }",
    );
    let compiled = compile(&with(&(jwt.to_owned() + &access)));
    let config = checked(&compiled, "shop/a-1");
    let jwt = listener(&config, "inbound:8080").jwt.as_ref().expect("tokens");
    assert!(jwt.required);
    assert_eq!(&*jwt.providers[0], "shop/users/id");
    let claim = &config.authorization["inbound"].rules[0].claims[0];
    assert_eq!(claim.provider.as_deref(), Some("shop/users/id"), "named in full");
    // Where the provider is not believed, nothing is allowed by its tokens, and what they deny is denied to everybody.
    let config = checked(&compiled, "shop/b-1");
    assert!(listener(&config, "inbound:8080").jwt.is_none());
    let [rule] = &config.authorization["inbound"].rules[..] else { panic!("one rule") };
    assert_eq!(&*rule.name, "shop/p/d");
    assert!(rule.claims.is_empty());
}

#[test]
fn a_workload_on_a_loopback_address_is_bound_there() {
    let text = with("").replace("10.0.0.1", "127.0.0.1");
    let compiled = compile(&text);
    let bind = |workload: &str| listener(&proxy(&compiled, workload).config(None), "inbound:8080").bind.to_string();
    assert_eq!(bind("shop/a-1"), "127.0.0.1:15006");
    assert_eq!(bind("shop/b-1"), "0.0.0.0:15006");
}

#[test]
fn the_application_is_told_who_calls() {
    let config = checked(&compile(TWO), "shop/a-1");
    let header = listener(&config, "inbound:8080").client_cert_header;
    assert_eq!(header, outrigger_config::model::ClientCertHeader::Set);
    let outbound = listener(&config, "outbound").client_cert_header;
    assert_eq!(outbound, outrigger_config::model::ClientCertHeader::Sanitize);
}
