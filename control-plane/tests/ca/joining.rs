//! The first certificate, for a join token.

use std::fs;
use std::process::Command;

use data_encoding::BASE64;
use outrigger_control::ca::{Outcome, TokenError, limits};
use outrigger_xds::control::issue_request::Proof;
use outrigger_xds::control::{IssueRequest, IssueResponse};
use tonic::Code;

use crate::support::*;

#[tokio::test]
async fn a_join_token_is_good_for_the_certificate_of_its_workload() {
    let plane = Plane::new().await;
    let key = new_key();
    let request = IssueRequest {
        certificate_signing_request: request_for(&key, &[ID]),
        workload: "shop/payments-1".into(),
        ..with_token(&key, &plane.token("payments-1"))
    };
    let response = plane.ask(None, request).await.expect("a certificate");
    assert_eq!((response.workload.as_str(), response.certificate_chain.len()), ("shop/payments-1", 1));
    let roots: Vec<Vec<u8>> = plane.authority.bundle().certificates().map(|root| root.to_vec()).collect();
    assert_eq!(response.trust_bundle, roots);
    let renew_after = response.renew_after.expect("a time").seconds;
    assert!((10 * 3600..14 * 3600).contains(&renew_after), "{renew_after}");
    let event = plane.last_event();
    assert_eq!((event.outcome, event.subject.as_deref(), event.by), (Outcome::Done, Some("shop/payments-1"), None));
    assert_eq!(event.detail, format!("{ID} by join token, for 86400 s"));
}

#[tokio::test]
async fn openssl_believes_what_was_issued() {
    let plane = Plane::new().await;
    let credential = plane.join("payments-1").await;
    let (leaf, roots) = (plane.folder.path().join("leaf.pem"), plane.folder.path().join("roots.pem"));
    let body = BASE64.encode(&credential.chain[0]);
    fs::write(&leaf, format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")).expect("written");
    fs::write(&roots, plane.authority.bundle_pem()).expect("written");
    for purpose in ["sslclient", "sslserver"] {
        let mut openssl = Command::new("openssl");
        openssl.args(["verify", "-x509_strict", "-check_ss_sig", "-attime", "1800000000", "-purpose", purpose]);
        let output =
            openssl.arg("-CAfile").arg(&roots).arg(&leaf).output().expect("openssl runs (tests/tools/install)");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[tokio::test]
async fn without_a_proof_there_is_nothing() {
    let plane = Plane::new().await;
    let result = plane.ask(None, without_proof(&new_key())).await;
    plane.check_refused(result, (Code::Unauthenticated, "no-proof"), "");
}

#[tokio::test]
async fn a_token_is_good_once() {
    let plane = Plane::new().await;
    let token = plane.token("payments-1");
    plane.ask(None, with_token(&new_key(), &token)).await.expect("the first time");
    let again = plane.ask(None, with_token(&new_key(), &token)).await;
    plane.check_refused(again, (Code::Unauthenticated, "token-spent"), &token);
    assert_eq!(plane.last_event().subject.as_deref(), Some("shop/payments-1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_who_use_one_token_at_once_exactly_one_gets_a_certificate() {
    let plane = Plane::new().await;
    for _ in 0..5 {
        let token = plane.token("payments-1");
        let (plane, token) = (&plane, &token);
        let channels = [(); 3].map(|()| plane.channel(None));
        let [one, two, three] = channels;
        let channels = tokio::try_join!(one, two, three).expect("connections");
        let ask = |channel| async move {
            let mut client = outrigger_xds::control::identity_client::IdentityClient::new(channel);
            client.issue(with_token(&new_key(), token)).await
        };
        let results = tokio::join!(ask(channels.0), ask(channels.1), ask(channels.2));
        let results = [results.0, results.1, results.2];
        assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1, "{results:?}");
        let refused = results.iter().filter_map(|result| result.as_ref().err());
        assert!(refused.into_iter().all(|status| status.code() == Code::Unauthenticated));
    }
}

#[tokio::test]
async fn a_token_expires() {
    let plane = Plane::new().await;
    let token = plane.token("payments-1");
    plane.clock.advance(HOUR);
    let late = plane.ask(None, with_token(&new_key(), &token)).await;
    plane.check_refused(late, (Code::Unauthenticated, "token-expired"), &token);
}

#[tokio::test]
async fn what_was_never_given_out_is_no_token() {
    let plane = Plane::new().await;
    let other = Plane::new().await.token("payments-1");
    let result = plane.ask(None, with_token(&new_key(), &other)).await;
    plane.check_refused(result, (Code::Unauthenticated, "token-unknown"), &other);
    for text in ["", "x", "outrigger-join-", &other[..other.len() - 1], &format!("{other}A"), &other.to_uppercase()] {
        let result = plane.ask(None, with_token(&new_key(), text)).await;
        plane.check_refused(result, (Code::Unauthenticated, "token-malformed"), "");
    }
}

#[tokio::test]
async fn a_token_is_for_one_workload() {
    let plane = Plane::new().await;
    plane.register("payments-2", "payments");
    plane.register("cart-1", "cart");
    let token = plane.token("payments-1");
    for other in ["shop/payments-2", "shop/cart-1", "shop/none"] {
        let request = IssueRequest { workload: other.into(), ..with_token(&new_key(), &token) };
        let result = plane.ask(None, request).await;
        plane.check_refused(result, (Code::PermissionDenied, "token-workload"), &token);
    }
    let malformed = IssueRequest { workload: "../shop".into(), ..with_token(&new_key(), &token) };
    plane.check_refused(plane.ask(None, malformed).await, (Code::InvalidArgument, "workload-malformed"), &token);
    plane.ask(None, with_token(&new_key(), &token)).await.expect("none of that used it up");
}

#[tokio::test]
async fn a_request_for_another_identity_is_refused_and_does_not_cost_the_token() {
    let plane = Plane::new().await;
    plane.register("cart-1", "cart");
    let (key, token) = (new_key(), plane.token("payments-1"));
    let own = with_token(&key, &token);
    for names in [&["spiffe://mesh.local/ns/shop/sa/cart"][..], &[ID, "spiffe://mesh.local/ns/outrigger/sa/control"]] {
        let request = IssueRequest { certificate_signing_request: request_for(&key, names), ..own.clone() };
        let result = plane.ask(None, request).await;
        plane.check_refused(result, (Code::PermissionDenied, "other-identity"), &token);
    }
    plane.ask(None, own).await.expect("the token is still good");
}

#[tokio::test]
async fn a_request_that_cannot_be_used_is_refused_and_does_not_cost_the_token() {
    let plane = Plane::new().await;
    let (key, token) = (new_key(), plane.token("payments-1"));
    let mut weak = Command::new("openssl");
    weak.args([
        "req",
        "-new",
        "-nodes",
        "-newkey",
        "rsa:1024",
        "-keyout",
        "/dev/null",
        "-subj",
        "/",
        "-outform",
        "DER",
    ]);
    let weak = weak.output().expect("openssl runs (tests/tools/install)").stdout;
    let mut forged = request_for(&key, &[]);
    *forged.last_mut().expect("bytes") ^= 1;
    let cases = [
        (weak, "weak-key"),
        (forged, "bad-request-signature"),
        (b"not a request".to_vec(), "malformed-request"),
        (Vec::new(), "malformed-request"),
        (vec![0x30; limits::REQUEST_BYTES + 1], "request-too-large"),
    ];
    for (certificate_signing_request, word) in cases {
        let request = IssueRequest { certificate_signing_request, ..with_token(&key, &token) };
        let result = plane.ask(None, request).await;
        plane.check_refused(result, (Code::InvalidArgument, word), &token);
    }
    plane.ask(None, with_token(&key, &token)).await.expect("the token is still good");
}

#[tokio::test]
async fn a_message_that_is_too_large_is_not_read() {
    let plane = Plane::new().await;
    let request =
        IssueRequest { proof: Some(Proof::JoinToken("x".repeat(limits::MESSAGE_BYTES))), ..without_proof(&new_key()) };
    plane.check_refused(plane.ask(None, request).await, (Code::OutOfRange, "unreadable"), "xxx");
}

#[tokio::test]
async fn a_message_that_is_none_is_refused_and_on_the_record() {
    let plane = Plane::new().await;
    let channel = plane.channel(None).await.expect("a connection");
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.expect("ready");
    let path = http::uri::PathAndQuery::from_static("/outrigger.control.v1.Identity/Issue");
    // A duration where a request is expected: field 1 is a number there and bytes here.
    let codec = tonic_prost::ProstCodec::<prost_types::Duration, IssueResponse>::default();
    let message = prost_types::Duration { seconds: 7, nanos: 0 };
    let result = client.unary(tonic::Request::new(message), path, codec).await;
    plane.check_refused(result.map(tonic::Response::into_inner), (Code::Internal, "unreadable"), "");
}

#[tokio::test]
async fn a_workload_that_is_not_registered_gets_nothing() {
    let plane = Plane::new().await;
    let token = plane.token("payments-1");
    plane.registrations.remove(&key("shop/payments-1"));
    let result = plane.ask(None, with_token(&new_key(), &token)).await;
    plane.check_refused(result, (Code::PermissionDenied, "unregistered"), &token);
    let made = plane.tokens.create(&key("shop/payments-1"), HOUR, "test");
    assert!(matches!(made, Err(TokenError::Unregistered(_))));
    let forever = plane.tokens.create(&key("shop/payments-1"), 365 * DAY, "test");
    assert!(matches!(forever, Err(TokenError::Lifetime(_))));
}

#[tokio::test]
async fn whoever_is_refused_too_often_has_to_wait() {
    let plane = Plane::new().await;
    let other = Plane::new().await.token("payments-1");
    for _ in 0..limits::REFUSALS {
        let result = plane.ask(None, with_token(&new_key(), &other)).await;
        plane.check_refused(result, (Code::Unauthenticated, "token-unknown"), &other);
    }
    let token = plane.token("payments-1");
    let result = plane.ask(None, with_token(&new_key(), &token)).await;
    plane.check_refused(result, (Code::ResourceExhausted, "too-many-refusals"), &token);
    plane.clock.advance(limits::REFUSAL_EVERY);
    plane.ask(None, with_token(&new_key(), &token)).await.expect("after a while");
}

#[tokio::test]
async fn a_token_is_not_kept_nor_shown() {
    let plane = Plane::new().await;
    let (token, record) = plane.tokens.create(&key("shop/payments-1"), HOUR, "ann").expect("a token");
    let body = token.reveal().strip_prefix("outrigger-join-").expect("the prefix");
    assert_eq!(body.len(), 43, "256 bits");
    let shown = format!("{record:?} {:?} {:?}", plane.audit.events(), plane.tokens);
    assert!(!shown.contains(body), "{shown}");
    let event = plane.audit.events().pop().expect("an event");
    assert_eq!((event.action, event.by.as_deref()), ("token.create", Some("ann")));
    assert!(record.digest != plane.tokens.create(&key("shop/payments-1"), HOUR, "ann").expect("another").1.digest);
}
