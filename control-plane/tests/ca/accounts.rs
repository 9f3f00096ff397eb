//! The first certificate, for the token of a Kubernetes service account.

use std::fs;
use std::path::PathBuf;

use outrigger_xds::control::IssueRequest;
use outrigger_xds::control::issue_request::Proof;
use serde_json::{Value, json};
use tempfile::TempDir;
use tonic::Code;

use crate::support::*;

#[path = "../../../tests/it/support/signer.rs"]
#[allow(dead_code, unreachable_pub, missing_docs, reason = "shared with the tests of the proxy, which use more of it")]
mod signer;

use signer::{Signer, jwks};

const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
const NOW: u64 = 1_800_000_000;

/// A cluster that signs tokens.
struct Cluster {
    signer: Signer,
    path: PathBuf,
    _folder: TempDir,
}

impl Cluster {
    fn new() -> Self {
        let folder = TempDir::new().expect("a folder");
        let signer = Signer::new("RS256", "cluster");
        let path = folder.path().join("jwks.json");
        fs::write(&path, jwks(&[&signer])).expect("written");
        Self { signer, path, _folder: folder }
    }

    async fn plane(&self) -> Plane {
        Plane::with_accounts(Some((&self.path, ISSUER))).await
    }
}

fn claims(namespace: &str, account: &str) -> Value {
    json!({
        "iss": ISSUER,
        "aud": ["outrigger-control"],
        "iat": NOW - 10,
        "nbf": NOW - 10,
        "exp": NOW + 3600,
        "sub": format!("system:serviceaccount:{namespace}:{account}"),
        "kubernetes.io": {
            "namespace": namespace,
            "serviceaccount": { "name": account, "uid": "5c3d" },
            "pod": { "name": "payments-7d9f", "uid": "11aa" },
        },
    })
}

fn request(token: &str, workload: &str) -> IssueRequest {
    IssueRequest {
        proof: Some(Proof::ServiceAccountToken(token.to_owned())),
        workload: workload.to_owned(),
        ..without_proof(&new_key())
    }
}

#[tokio::test]
async fn a_service_account_token_is_good_for_every_workload_that_runs_as_it() {
    let cluster = Cluster::new();
    let plane = cluster.plane().await;
    plane.register("payments-2", "payments");
    let token = cluster.signer.token(&claims("shop", "payments"));
    for workload in ["shop/payments-1", "shop/payments-2", "shop/payments-1"] {
        let response = plane.ask(None, request(&token, workload)).await.expect("a certificate");
        assert_eq!(response.workload, workload);
    }
    assert!(plane.last_event().detail.contains("by service account token"));
}

#[tokio::test]
async fn a_token_that_is_not_believed_gets_nothing() {
    let cluster = Cluster::new();
    let plane = cluster.plane().await;
    let good = claims("shop", "payments");
    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        cluster.signer.token(&claims)
    };
    let split = |name: &str, value: Value| {
        let mut kubernetes = good["kubernetes.io"].clone();
        kubernetes[name] = value;
        with("kubernetes.io", kubernetes)
    };
    let cases = [
        (with("aud", json!(["https://kubernetes.default.svc"])), "audience"),
        (with("aud", json!("outrigger")), "audience"),
        (with("exp", json!(NOW - 60)), "expired"),
        (with("nbf", json!(NOW + 60)), "not-yet-valid"),
        (with("iss", json!("https://other.cluster")), "unknown-issuer"),
        (Signer::new("RS256", "cluster").token(&good), "bad-signature"),
        (Signer::new("RS256", "other").token(&good), "unknown-key"),
        (with("sub", json!("system:serviceaccount:shop:admin")), "malformed"),
        (with("sub", json!(null)), "malformed"),
        (with("kubernetes.io", json!({})), "malformed"),
        (split("namespace", json!("billing")), "malformed"),
        (split("serviceaccount", json!({ "name": "admin" })), "malformed"),
        ("a.b.c".to_owned(), "malformed"),
    ];
    for (token, word) in cases {
        let result = plane.ask(None, request(&token, "shop/payments-1")).await;
        plane.check_refused(result, (Code::Unauthenticated, word), &token);
    }
}

#[tokio::test]
async fn a_service_account_gets_no_certificate_of_another() {
    let cluster = Cluster::new();
    let plane = cluster.plane().await;
    plane.register("cart-1", "cart");
    let token = cluster.signer.token(&claims("shop", "payments"));
    let cases = [
        ("shop/cart-1", Code::PermissionDenied, "wrong-account"),
        ("billing/payments-1", Code::PermissionDenied, "wrong-account"),
        ("shop/none", Code::PermissionDenied, "unregistered"),
        ("", Code::InvalidArgument, "no-workload-named"),
        ("shop", Code::InvalidArgument, "workload-malformed"),
    ];
    for (workload, code, word) in cases {
        let result = plane.ask(None, request(&token, workload)).await;
        plane.check_refused(result, (code, word), &token);
    }
    let other = cluster.signer.token(&claims("billing", "payments"));
    let result = plane.ask(None, request(&other, "shop/payments-1")).await;
    plane.check_refused(result, (Code::PermissionDenied, "wrong-account"), &other);
}

#[tokio::test]
async fn without_a_cluster_there_are_no_service_accounts() {
    let plane = Plane::new().await;
    let token = Cluster::new().signer.token(&claims("shop", "payments"));
    let result = plane.ask(None, request(&token, "shop/payments-1")).await;
    plane.check_refused(result, (Code::Unauthenticated, "no-accounts"), &token);
}

#[tokio::test]
async fn keys_that_a_cluster_replaces_are_taken_up_and_damaged_ones_are_not() {
    let cluster = Cluster::new();
    let plane = cluster.plane().await;
    let second = Signer::new("ES256", "second");
    let token = second.token(&claims("shop", "payments"));
    let result = plane.ask(None, request(&token, "shop/payments-1")).await;
    plane.check_refused(result, (Code::Unauthenticated, "unknown-key"), &token);
    fs::write(&cluster.path, jwks(&[&cluster.signer, &second])).expect("written");
    plane.ask(None, request(&token, "shop/payments-1")).await.expect("the new key is known");
    fs::write(&cluster.path, "{").expect("written");
    plane.ask(None, request(&token, "shop/payments-1")).await.expect("the keys stay");
    fs::remove_file(&cluster.path).expect("removed");
    plane.ask(None, request(&token, "shop/payments-1")).await.expect("the keys stay");
}
