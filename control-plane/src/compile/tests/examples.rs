use outrigger_config::model::{Access, ClusterTlsMode, TlsMode};

use super::{checked, host, listener, names, weights};
use crate::compile::Compiler;
use crate::manifest::{Document, load};

fn documents() -> Vec<Document> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/examples/mesh");
    let mut out = Vec::new();
    for entry in std::fs::read_dir(folder).expect("the examples") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        out.push(Document::new(&name, &std::fs::read_to_string(&path).expect("a text")));
    }
    out
}

#[test]
fn the_examples_are_good_and_make_good_configurations() {
    let outcome = load(&documents(), None);
    let problems: Vec<String> = outcome.problems.iter().map(|problem| problem.diagnostic.to_string()).collect();
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    let compiled = Compiler::new().compile(&outcome.mesh);
    assert_eq!(compiled.workloads().len(), 2);

    let shop = checked(&compiled, "shop/shop-1");
    let payments = host(&shop, "payments.shop.svc.cluster.local");
    assert_eq!(
        names(&payments.rules),
        ["shop/payments/charges", "shop/payments/canary", "shop/payments/everything-else"]
    );
    let outrigger_config::model::Action::Forward(backends) = &payments.rules[0].action else { panic!("forwards") };
    assert_eq!(weights(backends), [("shop/payments-v1:80", 95), ("shop/payments-v2:80", 5)]);
    let place = payments.rules[0].timeouts.request.place.as_ref().expect("it is written");
    assert_eq!(&*place.file, "payments.yaml");
    let v1 = &shop.clusters["shop/payments-v1:80"];
    assert_eq!(v1.ceilings.max_requests, 512);
    let tls = v1.tls.as_ref().expect("in the mesh");
    let ClusterTlsMode::Mutual { peer_identities } = &tls.mode else { panic!("mutual") };
    assert_eq!(peer_identities[0].to_string(), "spiffe://mesh.local/ns/shop/sa/payments");
    assert!(shop.clusters["shop/payments-v2:80"].endpoints.is_empty(), "nothing of version 2 runs");

    let payments = checked(&compiled, "shop/payments-1");
    let inbound = listener(&payments, "inbound:8081");
    assert_eq!(inbound.bind.to_string(), "127.0.0.1:15106");
    let tls = inbound.tls.as_ref().expect("TLS");
    assert_eq!((tls.mode, tls.proposed_mode), (TlsMode::Permissive, Some(TlsMode::Strict)));
    assert_eq!(&*tls.place.file, "mesh.yaml");
    let limits = &payments.routes["inbound:8081"].hosts[0].rules[0].rate_limits;
    let limits: Vec<&str> = limits.iter().map(|limit| &*limit.name).collect();
    assert_eq!(limits, ["shop/payments:80/per-caller", "shop/payments:80/per-tenant"]);
    let policy = &payments.authorization["inbound"];
    assert_eq!((policy.default, policy.rules.len()), (Access::Deny, 2));
    assert_eq!(&*policy.rules[0].name, "shop/payments/shop-charges");
    assert!(payments.routes["outbound"].hosts.is_empty(), "it uses nothing");
}
