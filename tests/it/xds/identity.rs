//! The certificate: asked for with a token, shown afterwards, renewed in time, kept for a start without a control plane.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::Duration;

use super::{Scene, keeps};
use crate::support::ads::{Ads, Issuer};
use crate::support::pki::HOUR;
use crate::support::proxy::Until;
use crate::support::{Mesh, PATIENCE, Proxy, eventually};

fn issuer(lifetime: Duration, renew_after: Duration) -> Issuer {
    let (account, token) = ("shop/one".to_owned(), "good-once".to_owned());
    Issuer { mesh: Arc::new(Mesh::new()), account, token, lifetime, renew_after }
}

/// What stands in the proxy's file; the token is in a file.
fn bootstrap(ads: &Ads, mesh: &Mesh, token: &str) -> String {
    mesh.files.write("token", format!("{token}\n"));
    format!(
        "node: {{ id: one }}\nadmin: {{ address: \"127.0.0.1:$ADMIN\" }}\naccessLog: off\nworkers: 2\n\
         controlPlane:\n  servers: [\"{}\"]\n  serverIdentity: {}\n  trustBundle: {}\n  joinToken: {{ file: {} }}\n  \
         workload: shop/one\n",
        ads.addr(),
        mesh.id("outrigger/control"),
        mesh.files.quoted("bundle.pem"),
        mesh.files.quoted("token"),
    )
}

async fn start(scene: &Scene, yaml: &str, until: Until) -> Proxy {
    Proxy::start_yaml(&BTreeMap::new(), yaml, &keeps(scene.state.path()), until).await
}

#[tokio::test]
async fn a_proxy_joins_with_a_token_and_its_stream_is_made_with_the_certificate() {
    let scene = Scene::new().await;
    let issuer = issuer(24 * HOUR, 12 * HOUR);
    let mesh = Arc::clone(&issuer.mesh);
    let mut ads = Ads::issuing(issuer);
    ads.set(scene.routed("one"));
    let yaml = bootstrap(&ads, &mesh, "good-once");
    let proxy = start(&scene, &yaml, Until::Ready).await;
    assert_eq!(scene.version().await.as_deref(), Some("one"));
    let told = ads.told();
    assert!(told.iter().all(|told| told.peer.as_deref() == Some(&*mesh.id("shop/one"))), "{told:?}");
    assert_eq!(ads.issued().len(), 1);

    let files = scene.state.path().join("identity/current");
    let mode = |name: &str| std::fs::metadata(files.join(name)).expect("there").permissions().mode() & 0o777;
    assert_eq!((mode("svid.key"), mode("svid.pem"), mode("bundle.pem")), (0o600, 0o600, 0o600));
    let shown = proxy.admin_json("/certificates").await;
    assert!(shown.to_string().contains(&mesh.id("shop/one")), "{shown:#}");
    let log = proxy.stderr();
    assert!(!log.contains("good-once"), "the token is not logged");
    drop(proxy);

    // The token is used up, and the control plane away: the certificate on disk will do.
    ads.kill();
    let proxy = start(&scene, &yaml, Until::Ready).await;
    assert_eq!(scene.version().await.as_deref(), Some("one"));
    ads.set(scene.routed("two"));
    ads.revive().await;
    scene.becomes("two").await;
    assert_eq!(ads.issued().len(), 1, "there was no need for another");
    drop(proxy);
}

#[tokio::test]
async fn a_certificate_is_renewed_with_itself_and_a_new_key_and_taken_up() {
    let scene = Scene::new().await;
    let issuer = issuer(HOUR, Duration::from_secs(1));
    let mesh = Arc::clone(&issuer.mesh);
    let ads = Ads::issuing(issuer);
    ads.set(scene.routed("one"));
    let proxy = start(&scene, &bootstrap(&ads, &mesh, "good-once"), Until::Ready).await;
    let key = || std::fs::read(scene.state.path().join("identity/current/svid.key")).expect("a key");
    let first = key();
    eventually(PATIENCE, "it is renewed twice", || ads.issued().len() >= 3).await;
    assert_ne!(key(), first, "every certificate has a key of its own");
    let issued = ads.issued();
    assert_eq!(issued[0].token.as_deref(), Some("good-once"));
    for renewal in &issued[1..] {
        assert_eq!((&renewal.token, renewal.peer.as_deref()), (&None, Some(&*mesh.id("shop/one"))));
    }
    let start = std::time::Instant::now();
    while proxy.metric("outrigger_certificate_rotations_total", &["result=\"applied\""]).await < 1.0 {
        assert!(start.elapsed() < PATIENCE, "it is taken up:\n{}", proxy.stderr());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(scene.version().await.as_deref(), Some("one"));
}

#[tokio::test]
async fn a_token_that_is_not_good_gives_no_configuration() {
    let scene = Scene::new().await;
    let issuer = issuer(HOUR, HOUR);
    let mesh = Arc::clone(&issuer.mesh);
    let ads = Ads::issuing(issuer);
    ads.set(scene.routed("one"));
    let proxy = start(&scene, &bootstrap(&ads, &mesh, "wrong"), Until::Up).await;
    proxy.logged("there is no proof").await;
    assert_eq!(proxy.admin("/ready").await.0, 503);
    assert_eq!(ads.streams(), 0, "nobody else asks");
    assert!(!proxy.stderr().contains("wrong\""), "the token is not logged");
}

#[tokio::test]
async fn a_server_that_is_somebody_else_is_told_nothing() {
    let scene = Scene::new().await;
    let issuer = issuer(HOUR, HOUR);
    let mesh = Arc::clone(&issuer.mesh);
    let ads = Ads::issuing(issuer);
    let yaml = bootstrap(&ads, &mesh, "good-once").replace("sa/control", "sa/other");
    let proxy = start(&scene, &yaml, Until::Up).await;
    proxy.logged("TLS with it failed").await;
    assert!(ads.issued().is_empty() && ads.told().is_empty());
}
