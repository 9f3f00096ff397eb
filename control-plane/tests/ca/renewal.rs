//! The next certificates, for the one that there is.

use std::time::Duration;

use outrigger_control::ca::{Confirmations, Force, Outcome, Step};
use outrigger_control::peer::WorkloadKey;
use outrigger_xds::control::IssueRequest;
use rustls::pki_types::CertificateDer;
use tonic::Code;

use crate::support::*;

/// Nobody is behind.
struct All;

impl Confirmations for All {
    fn unconfirmed(&self, _bundle: &str) -> Vec<WorkloadKey> {
        Vec::new()
    }
}

#[tokio::test]
async fn for_a_week_a_workload_renews_at_half_life_through_a_rotation() {
    let plane = Plane::new().await;
    let mut credential = plane.join("payments-1").await;
    let end = start() + 7 * DAY;
    let (mut renewals, mut signed_by) = (0, Vec::new());
    while plane.now() < end {
        let key = new_key();
        let response = plane.ask(Some(&credential), without_proof(&key)).await.expect("renewed");
        assert_eq!(response.workload, "shop/payments-1");
        credential = Credential { chain: chain(&response), key };
        let renew_after = u64::try_from(response.renew_after.expect("a time").seconds).expect("later");
        renewals += 1;
        let step = match renewals {
            4 => Some(Step::Introduce),
            5 => Some(Step::Sign),
            8 => Some(Step::Retire),
            _ => None,
        };
        if let Some(step) = step {
            plane.authority.rotate(step, Force::No, "test", &All).expect("a step");
        }
        signed_by.push(issuer(&credential.chain[0]));
        plane.clock.advance(Duration::from_secs(renew_after));
    }
    assert!((13..=16).contains(&renewals), "{renewals}");
    signed_by.dedup();
    assert_eq!(signed_by.len(), 2, "one root took over from the other: {signed_by:?}");
    let event = plane.last_event();
    assert_eq!((event.outcome, event.by.as_deref()), (Outcome::Done, Some(ID)));
}

fn issuer(certificate: &CertificateDer<'_>) -> String {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).expect("a certificate");
    certificate.issuer().to_string()
}

#[tokio::test]
async fn who_is_not_registered_any_more_does_not_renew() {
    let plane = Plane::new().await;
    let credential = plane.join("payments-1").await;
    plane.ask(Some(&credential), without_proof(&new_key())).await.expect("renewed");
    plane.registrations.remove(&key("shop/payments-1"));
    let result = plane.ask(Some(&credential), without_proof(&new_key())).await;
    plane.check_refused(result, (Code::PermissionDenied, "unregistered"), "");
    let event = plane.last_event();
    assert_eq!((event.by.as_deref(), event.subject.as_deref()), (Some(ID), Some("shop/payments-1")));
}

#[tokio::test]
async fn a_workload_that_runs_as_somebody_else_now_has_to_join_again() {
    let plane = Plane::new().await;
    let credential = plane.join("payments-1").await;
    plane.register("payments-1", "admin");
    let result = plane.ask(Some(&credential), without_proof(&new_key())).await;
    plane.check_refused(result, (Code::PermissionDenied, "wrong-account"), "");
}

#[tokio::test]
async fn a_certificate_renews_nobody_else() {
    let plane = Plane::new().await;
    plane.register("payments-2", "payments");
    let credential = plane.join("payments-1").await;
    let named = IssueRequest { workload: "shop/payments-2".into(), ..without_proof(&new_key()) };
    let result = plane.ask(Some(&credential), named).await;
    plane.check_refused(result, (Code::PermissionDenied, "other-identity"), "");
    let names = ["spiffe://mesh.local/ns/shop/sa/cart"];
    let request =
        IssueRequest { certificate_signing_request: request_for(&new_key(), &names), ..without_proof(&new_key()) };
    let result = plane.ask(Some(&credential), request).await;
    plane.check_refused(result, (Code::PermissionDenied, "other-identity"), "");
}

#[tokio::test]
async fn a_certificate_that_has_run_out_renews_nothing() {
    let plane = Plane::new().await;
    let credential = plane.join("payments-1").await;
    plane.clock.advance(DAY + Duration::from_secs(1));
    let result = plane.ask(Some(&credential), without_proof(&new_key())).await;
    let status = result.expect_err("refused");
    assert!(matches!(status.code(), Code::Unavailable | Code::Unknown), "the handshake failed: {status:?}");
    let issued = plane.audit.events().into_iter().filter(|event| event.action == "certificate.issue").count();
    assert_eq!(issued, 1, "nothing was even asked");
}
