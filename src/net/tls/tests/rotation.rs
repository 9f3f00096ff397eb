//! Certificates and roots change while connections come and go.

use super::*;
use outrigger_config::spiffe::SpiffeId;

#[tokio::test]
async fn roots_overlap() {
    let clock = Arc::new(TestClock::default());
    let (old, new) = (Authority::root("Mesh CA"), Authority::root("Mesh CA"));
    let both = format!("{}{}", old.pem, new.pem);
    let (mut server, mut client) = (Side::server(&clock, &old), Side::client(&clock, &old));
    let (mut server_set, mut client_set) = (server.build(), client.build());
    // The order that operators follow: the new root everywhere, then new certificates, then the old root goes.
    for step in 0..6 {
        match step {
            0 => drop(server.put("bundle.pem", &both)),
            1 => drop(client.put("bundle.pem", &both)),
            2 => drop(server.identity(&new.issue(&Leaf::svid(SERVER_ID)))),
            3 => drop(client.identity(&new.issue(&Leaf::svid(CLIENT_ID)))),
            4 => drop(server.put("bundle.pem", &new.pem)),
            _ => drop(client.put("bundle.pem", &new.pem)),
        }
        let (server_before, client_before) = (server_set, client_set);
        (server_set, client_set) = (server.rebuild(&server_before), client.rebuild(&client_before));
        for _ in 0..2 {
            agree(&server_set, &client_set).await;
        }
    }
    assert_eq!(
        stranger(&server_set, Some(&old.issue(&Leaf::svid(CLIENT_ID)))).await.expect_err("refused").code(),
        "unknown-issuer"
    );
}

#[test]
fn the_key_of_a_pool_changes_when_trust_shrinks_and_not_otherwise() {
    let clock = Arc::new(TestClock::default());
    let (old, new) = (Authority::root("Old CA"), Authority::root("New CA"));
    let mut side = Side::client(&clock, &old);
    side.put("crl.pem", &old.revocations(&[1]));
    side.change("trustBundle: /tls/bundle.pem", "trustBundle: /tls/bundle.pem\n  revocationLists: [/tls/crl.pem]");
    let key = |set: &TlsSet| Arc::clone(set.client("up").expect("a cluster").key());
    let first = side.build();
    let renewed = side.identity(&old.issue(&Leaf::svid(CLIENT_ID))).rebuild(&first);
    assert!(Arc::ptr_eq(&key(&first), &key(&renewed)), "our certificate was renewed");
    let added = side.put("bundle.pem", &format!("{}{}", old.pem, new.pem)).rebuild(&renewed);
    assert!(Arc::ptr_eq(&key(&first), &key(&added)), "a root was added");
    let failed = side.put("bundle.pem", "nonsense").try_build(Some(&added));
    failed.expect_err("refused");
    side.put("bundle.pem", &format!("{}{}", old.pem, new.pem));
    let revoked = side.put("crl.pem", &old.revocations(&[1, 2])).rebuild(&added);
    assert_ne!(key(&added), key(&revoked), "a certificate was revoked");
    side.put("bundle.pem", &new.pem).identity(&new.issue(&Leaf::svid(CLIENT_ID))).put("crl.pem", &new.revocations(&[]));
    let removed = side.rebuild(&revoked);
    assert_ne!(key(&revoked), key(&removed), "a root was removed");
    let same = side.rebuild(&removed);
    assert!(Arc::ptr_eq(&key(&removed), &key(&same)));
    let other = side.change("sa/server", "sa/other").rebuild(&same);
    assert_ne!(key(&same), key(&other), "somebody else is expected");
    let renamed = side.identity(&new.issue(&Leaf::svid("spiffe://mesh.local/renamed"))).rebuild(&other);
    assert_ne!(key(&other), key(&renamed), "we are somebody else");
}

#[tokio::test]
async fn a_handshake_that_began_under_removed_trust_is_refused() {
    let clock = Arc::new(TestClock::default());
    let (old, new) = (Authority::root("Old CA"), Authority::root("New CA"));
    let mut side = Side::server(&clock, &new);
    side.put("bundle.pem", &format!("{}{}", old.pem, new.pem));
    let before = side.build();
    before.activate();
    let shown = old.issue(&Leaf::svid(CLIENT_ID));
    stranger(&before, Some(&shown)).await.expect("accepted");
    let after =
        side.put("bundle.pem", &new.pem).try_build(Some(&before)).unwrap_or_else(|errors| panic!("{errors:#?}"));
    stranger(&before, Some(&shown)).await.expect("what is not published changes nothing");
    after.activate();
    assert_eq!(stranger(&before, Some(&shown)).await.expect_err("refused").code(), "unknown-issuer");
}

#[tokio::test]
async fn federated_domains_vouch_for_their_own_only() {
    let clock = Arc::new(TestClock::default());
    let (ours, theirs) = (Authority::root("Ours"), Authority::root("Theirs"));
    let mut side = Side::server(&clock, &ours);
    side.put("partner.pem", &theirs.pem);
    let partner = "spiffe://partner.example/ns/x/sa/y";
    let shown = theirs.issue(&Leaf::svid(partner));
    assert_eq!(stranger(&side.build(), Some(&shown)).await.expect_err("refused").code(), "unknown-trust-domain");
    side.change(
        "trustBundle: /tls/bundle.pem",
        "trustBundle: /tls/bundle.pem\n  federatedBundles: { partner.example: /tls/partner.pem }",
    );
    let federated = side.build();
    let peer = stranger(&federated, Some(&shown)).await.expect("accepted").1.peer.expect("a peer");
    assert_eq!(peer.identity.as_ref().map(SpiffeId::as_str), Some(partner));
    for liar in [theirs.issue(&Leaf::svid(CLIENT_ID)), ours.issue(&Leaf::svid(partner))] {
        assert_eq!(stranger(&federated, Some(&liar)).await.expect_err("refused").code(), "unknown-issuer");
    }
}

#[tokio::test]
async fn a_proposed_bundle_is_rehearsed_and_refuses_nobody() {
    let clock = Arc::new(TestClock::default());
    let (old, new) = (Authority::root("Old CA"), Authority::root("New CA"));
    let mut side = Side::server(&clock, &new);
    side.put("bundle.pem", &format!("{}{}", old.pem, new.pem)).put("next.pem", &new.pem);
    side.change("trustBundle: /tls/bundle.pem", "trustBundle: /tls/bundle.pem\n  proposedTrustBundle: /tls/next.pem");
    let set = side.build();
    let rehearsed = async |issuer: &Authority| {
        let settled = stranger(&set, Some(&issuer.issue(&Leaf::svid(CLIENT_ID)))).await;
        settled.expect("accepted").1.rehearsal.expect("rehearsed")
    };
    assert_eq!(rehearsed(&new).await, Ok(()));
    assert_eq!(rehearsed(&old).await.map_err(|refusal| refusal.reason), Err(RefusalReason::UnknownIssuer));
}

#[tokio::test]
async fn a_root_that_ends_while_it_is_in_use_is_no_longer_believed() {
    let clock = Arc::new(TestClock::default());
    let old = Authority::root_until("Old CA", super::pki::HOUR);
    let new = Authority::root("New CA");
    let mut side = Side::server(&clock, &new);
    side.put("bundle.pem", &format!("{}{}", old.pem, new.pem));
    let set = side.build();
    let shown = old.issue(&Leaf::svid(CLIENT_ID));
    stranger(&set, Some(&shown)).await.expect("accepted");
    clock.advance(2 * super::pki::HOUR);
    assert_eq!(stranger(&set, Some(&shown)).await.expect_err("refused").code(), "expired");
}
