//! The files themselves: what is refused and leaves the old in effect, how they may be replaced, and what metrics,
//! log and admin server say of them.

use std::time::{Duration, Instant, SystemTime};

use super::serial_of;
use crate::support::pki::{Credential, HOUR, Leaf};
use crate::support::{Config, H1Backend, Mesh, PATIENCE, Proxy, TlsClient, TlsServer, h1_client, ms, openssl};

struct Mounted {
    mesh: Mesh,
    caller: TlsClient,
    proxy: Proxy,
    serial: u64,
    _backend: H1Backend,
}

/// A strict proxy whose certificate, key and bundle lie in one mounted Secret, so that they change at one instant.
async fn mounted() -> Mounted {
    let mesh = Mesh::new();
    let first = mesh.svid("shop/web");
    mesh.files.mount("secret", &pieces(&first, &mesh.root.pem));
    let identity = format!(
        "identity: {{ certificate: {}, privateKey: {}, trustBundle: {} }}",
        mesh.files.quoted("secret/tls.crt"),
        mesh.files.quoted("secret/tls.key"),
        mesh.files.quoted("secret/ca.crt"),
    );
    let backend = H1Backend::ok().await;
    let config = Config::to("http1", &[backend.addr]).top(&identity).listener("tls: { mode: strict }");
    let proxy = Proxy::start(&config).await;
    let caller = TlsClient::with(&mesh.svid("shop/cart"));
    Mounted { mesh, caller, proxy, serial: first.serial, _backend: backend }
}

fn pieces<'a>(credential: &'a Credential, bundle: &'a str) -> [(&'static str, &'a str); 3] {
    [("tls.crt", &credential.chain), ("tls.key", &credential.key), ("ca.crt", bundle)]
}

impl Mounted {
    async fn rotations(&self, result: &str) -> f64 {
        self.proxy.metric("outrigger_certificate_rotations_total", &[&format!("result=\"{result}\"")]).await
    }

    async fn until_rotations(&self, result: &str, count: f64) {
        let start = Instant::now();
        while self.rotations(result).await < count {
            assert!(start.elapsed() < PATIENCE, "{count} rotations {result}:\n{}", self.proxy.stderr());
            tokio::time::sleep(ms(2)).await;
        }
    }

    /// Replaces everything with something good and waits until it is shown.
    async fn renew(&mut self) {
        let next = self.mesh.svid("shop/web");
        self.mesh.files.mount("secret", &pieces(&next, &self.mesh.root.pem));
        super::shows(&self.proxy, &self.caller, next.serial).await;
        self.serial = next.serial;
    }
}

#[tokio::test]
async fn a_mounted_secret_is_followed_through_many_swaps() {
    let mut mounted = mounted().await;
    for _ in 0..10 {
        mounted.renew().await;
        mounted.caller.served(mounted.proxy.addr()).await;
    }
    assert_eq!(mounted.rotations("refused").await, 0.0, "all three change at one instant");
    assert_eq!(mounted.rotations("applied").await, 10.0);
}

#[tokio::test]
async fn wrong_material_is_refused_and_the_old_goes_on() {
    let mut mounted = mounted().await;
    let mesh = Mesh::named("mesh.local");
    // Issued by the authority of the mounted mesh, wrong in one way each.
    let right = mounted.mesh.leaf("shop/web");
    let good = mounted.mesh.svid("shop/web");
    let issue = |leaf: &Leaf| mounted.mesh.issuing.issue(leaf);
    let other_key = mounted.mesh.svid("shop/web").key;
    let swap = |chain: &str, key: &str| Credential { chain: chain.to_owned(), key: key.to_owned(), serial: 0 };
    let bundle = mounted.mesh.root.pem.clone();
    let weak = openssl::rsa_credential(1024, &mounted.mesh.issuing, &mounted.mesh.id("shop/web")).await;
    let cut = &good.chain[..good.chain.len() / 3];
    let cases: Vec<(&str, Credential, String, &str)> = vec![
        ("a key of another certificate", swap(&good.chain, &other_key), bundle.clone(), "key-mismatch"),
        ("expired", issue(&right.clone().expired()), bundle.clone(), "expired"),
        ("not yet valid", issue(&right.clone().future()), bundle.clone(), "not-yet-valid"),
        ("two identities", issue(&right.clone().uri("spiffe://mesh.local/x")), bundle.clone(), "no-identity"),
        ("no identity", issue(&Leaf::new().dns("web.shop.svc")), bundle.clone(), "no-identity"),
        ("an invalid identity", issue(&Leaf::new().uri("spiffe://mesh.local//x")), bundle.clone(), "no-identity"),
        ("an authority", issue(&right.clone().authority()), bundle.clone(), "wrong-kind"),
        ("a weak key", weak, bundle.clone(), "unusable-key"),
        ("an empty certificate file", swap("", &good.key), bundle.clone(), ""),
        ("garbage for a certificate", swap("garbage", &good.key), bundle.clone(), ""),
        ("half a certificate", swap(cut, &good.key), bundle.clone(), ""),
        ("garbage for a key", swap(&good.chain, "garbage"), bundle.clone(), ""),
        ("an empty key file", swap(&good.chain, ""), bundle.clone(), ""),
        ("the key in the certificate's place", swap(&good.key, &good.key), bundle.clone(), ""),
        ("an empty bundle", good.clone(), String::new(), ""),
        ("garbage for a bundle", good.clone(), "garbage".to_owned(), ""),
        ("a leaf for a bundle", good.clone(), mounted.mesh.svid("shop/x").chain, ""),
        (
            "an expired bundle and leaf of another mesh",
            mesh.issuing.issue(&right.clone().expired()),
            mesh.root.pem.clone(),
            "expired",
        ),
    ];
    let mut live = mounted.caller.h1(mounted.proxy.addr()).await;
    let mut refused = 0.0;
    for (name, credential, bundle, reason) in cases {
        println!("{name}");
        mounted.mesh.files.mount("secret", &pieces(&credential, &bundle));
        refused += 1.0;
        mounted.until_rotations("refused", refused).await;
        if !reason.is_empty() {
            let label = format!("reason=\"{reason}\"");
            let count = mounted.proxy.metric("outrigger_certificate_rotation_problems_total", &[&label]).await;
            assert!(count >= 1.0, "{name}: {reason}\n{}", mounted.proxy.stderr());
        }
        assert_eq!(mounted.proxy.metric("outrigger_certificate_last_rotation_successful", &[]).await, 0.0, "{name}");
        assert_eq!(serial_of(&mounted.proxy, &mounted.caller).await, Some(mounted.serial), "{name}: the old is shown");
        mounted.caller.served(mounted.proxy.addr()).await;
        assert_eq!(live.get("/").await.status, 200, "{name}");
        // What makes the key is nowhere to be read.
        let secret = credential.key.lines().nth(1).unwrap_or("nothing of a key");
        let (status, certificates) = mounted.proxy.admin("/certs").await;
        assert_eq!(status, 200);
        assert!(!certificates.contains(secret) && !mounted.proxy.stderr().contains(secret), "{name}");
        // What is right again counts again.
        if (refused as u32).is_multiple_of(6) {
            mounted.renew().await;
            assert_eq!(mounted.proxy.metric("outrigger_certificate_last_rotation_successful", &[]).await, 1.0);
        }
    }
    mounted.renew().await;
}

#[tokio::test]
async fn a_file_that_goes_missing_leaves_the_old_in_effect() {
    let mesh = Mesh::new();
    let backend = H1Backend::ok().await;
    let config = Config::to("http1", &[backend.addr]).top(&mesh.identity("shop/web")).listener("tls: { mode: strict }");
    let proxy = Proxy::start(&config).await;
    let caller = TlsClient::with(&mesh.svid("shop/cart"));
    let serial = serial_of(&proxy, &caller).await;
    for name in ["shop-web.key", "shop-web.pem", "bundle.pem"] {
        let path = mesh.files.path(name);
        let content = std::fs::read(&path).unwrap();
        let label = ["result=\"refused\""];
        let before = proxy.metric("outrigger_certificate_rotations_total", &label).await;
        std::fs::remove_file(&path).unwrap();
        let start = Instant::now();
        while proxy.metric("outrigger_certificate_rotations_total", &label).await <= before {
            assert!(start.elapsed() < PATIENCE, "{name}: its absence is noticed:\n{}", proxy.stderr());
            tokio::time::sleep(ms(2)).await;
        }
        assert_eq!(serial_of(&proxy, &caller).await, serial, "{name}");
        caller.served(proxy.addr()).await;
        mesh.files.write(name, &content);
        let start = Instant::now();
        while proxy.metric("outrigger_certificate_last_rotation_successful", &[]).await < 1.0 {
            assert!(start.elapsed() < PATIENCE, "{name}: it is back:\n{}", proxy.stderr());
            tokio::time::sleep(ms(2)).await;
        }
    }
}

/// Tools that renew write the certificate and the key one after the other: in between they do not fit.
#[tokio::test]
async fn a_pair_written_in_two_steps_takes_effect_once_it_fits() {
    let mesh = Mesh::new();
    let backend = H1Backend::ok().await;
    let config = Config::to("http1", &[backend.addr]).top(&mesh.identity("shop/web")).listener("tls: { mode: strict }");
    let proxy = Proxy::start(&config).await;
    let caller = TlsClient::with(&mesh.svid("shop/cart"));
    for key_first in [false, true] {
        let before = serial_of(&proxy, &caller).await;
        let refused = proxy.metric("outrigger_certificate_rotations_total", &["result=\"refused\""]).await;
        let next = mesh.svid("shop/web");
        let halves = [("shop-web.pem", &next.chain), ("shop-web.key", &next.key)];
        let [first, second] = if key_first { [halves[1], halves[0]] } else { halves };
        mesh.files.write(first.0, first.1);
        let start = Instant::now();
        while proxy.metric("outrigger_certificate_rotations_total", &["result=\"refused\""]).await <= refused {
            assert!(start.elapsed() < PATIENCE, "the half is refused:\n{}", proxy.stderr());
            tokio::time::sleep(ms(2)).await;
        }
        assert_eq!(serial_of(&proxy, &caller).await, before, "the old pair goes on");
        mesh.files.write(second.0, second.1);
        super::shows(&proxy, &caller, next.serial).await;
    }
    // A file written in place, without a rename.
    let next = mesh.svid("shop/web");
    std::fs::write(mesh.files.path("shop-web.pem"), &next.chain).unwrap();
    std::fs::write(mesh.files.path("shop-web.key"), &next.key).unwrap();
    super::shows(&proxy, &caller, next.serial).await;
}

#[tokio::test]
async fn edge_certificates_and_trust_of_clusters_are_rotated_too() {
    let mesh = Mesh::new();
    let edge = |serial: &mut u64| {
        let credential = mesh.issuing.issue(&Leaf::new().dns("shop.example"));
        *serial = credential.serial;
        mesh.files.write_credential("edge", &credential);
    };
    let mut serial = 0;
    edge(&mut serial);
    let old = crate::support::pki::Authority::root("web");
    let new = crate::support::pki::Authority::root("web");
    mesh.files.write("web.pem", &old.pem);
    let backend = H1Backend::ok().await;
    let front = TlsServer::with(&old.issue(&Leaf::new().dns("db.example"))).front(backend.addr).await;
    let config = Config::to("http1", &[front.addr])
        .listener(&format!(
            "tls: {{ mode: permissive, certificates: [{{ certificate: {}, privateKey: {} }}] }}",
            mesh.files.quoted("edge.pem"),
            mesh.files.quoted("edge.key")
        ))
        .upstream(&format!("tls: {{ mode: simple, trustBundle: {}, sni: db.example }}", mesh.files.quoted("web.pem")));
    let proxy = Proxy::start(&config).await;
    let caller = TlsClient::anonymous();
    assert_eq!(caller.served(proxy.addr()).await.0.peer_serial(), serial);
    edge(&mut serial);
    super::shows(&proxy, &caller, serial).await;

    front.change(TlsServer::with(&new.issue(&Leaf::new().dns("db.example"))));
    mesh.files.write("web.pem", &new.pem);
    let start = Instant::now();
    while front.sessions().len() < 2 {
        h1_client::get(proxy.addr(), "/").await;
        assert!(start.elapsed() < PATIENCE, "the new root is believed:\n{}", proxy.stderr());
        tokio::time::sleep(ms(2)).await;
    }
    assert_eq!(h1_client::get(proxy.addr(), "/").await.status, 200);
}

fn seconds(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() as f64
}

#[tokio::test]
async fn metrics_and_admin_say_what_is_in_effect_and_when_it_ends() {
    let mesh = Mesh::new();
    let identity = mesh.identity("shop/web");
    let now = SystemTime::now();
    let credential = mesh.issuing.issue(&mesh.leaf("shop/web").valid(now - HOUR, now + 5 * HOUR));
    mesh.files.write_credential("shop-web", &credential);
    let backend = H1Backend::ok().await;
    let config = Config::to("http1", &[backend.addr]).top(&identity).listener("tls: { mode: strict }");
    let proxy = Proxy::start(&config).await;
    let name = "outrigger_certificate_expiry_timestamp_seconds";
    let file = mesh.files.path("shop-web.pem").display().to_string();
    let end = proxy.metric(name, &[&file]).await;
    assert!((end - seconds(now + 5 * HOUR)).abs() <= 1.0, "{end}");

    let text = proxy.admin("/certs").await.1;
    for part in [&mesh.id("shop/web"), &file, &format!("{:x}", credential.serial)] {
        assert!(text.to_lowercase().contains(&part.to_lowercase()), "{part} in {text}");
    }
    assert!(!text.contains(credential.key.lines().nth(1).unwrap()), "{text}");
    let _: serde_json::Value = serde_json::from_str(&text).expect("JSON");

    let next = mesh.issuing.issue(&mesh.leaf("shop/web").valid(now - HOUR, now + 9 * HOUR));
    mesh.files.write_credential("shop-web", &next);
    let start = Instant::now();
    while (proxy.metric(name, &[&file]).await - seconds(now + 9 * HOUR)).abs() > 1.0 {
        assert!(start.elapsed() < PATIENCE, "the gauge follows");
        tokio::time::sleep(ms(5)).await;
    }
}

/// A renewal that does not come is said in time: at half of a certificate's life, at a quarter and a tenth left.
#[tokio::test]
async fn the_log_warns_before_a_certificate_ends() {
    for (over, left) in [(Some(55), 45), (Some(80), 20), (Some(95), 5), (None, 60)] {
        let mesh = Mesh::new();
        let identity = mesh.identity("shop/web");
        let now = SystemTime::now();
        let minutes = |count: u64| Duration::from_secs(60 * count);
        let leaf = mesh.leaf("shop/web").valid(now - minutes(over.unwrap_or(40)), now + minutes(left));
        mesh.files.write_credential("shop-web", &mesh.issuing.issue(&leaf));
        let backend = H1Backend::ok().await;
        let config = Config::to("http1", &[backend.addr]).top(&identity).listener("tls: { mode: strict }");
        let proxy = Proxy::start(&config).await;
        let file = mesh.files.path("shop-web.pem").display().to_string();
        let warned = || proxy.stderr().lines().any(|line| line.contains("WARN") && line.contains(&file));
        if over.is_some() {
            crate::support::eventually(PATIENCE, &format!("a warning with {left} % left"), warned).await;
        } else {
            assert!(!warned(), "no warning in the first half:\n{}", proxy.stderr());
        }
    }
}

/// A start with material that is wrong does not come up half: it says what is wrong with which file.
#[tokio::test]
async fn a_start_with_wrong_material_is_refused_with_the_file_and_the_reason() {
    let mesh = Mesh::new();
    let identity = mesh.identity("shop/web");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("outrigger.yaml");
    let yaml = Config::new()
        .top(&identity)
        .listener("tls: { mode: strict }")
        .routes("- rules: [{ filters: [{ directResponse: { status: 200 } }] }]")
        .render()
        .replace("$ADMIN", "0")
        .replace("$PORT_in", "0");
    std::fs::write(&path, yaml).unwrap();
    mesh.files.write("shop-web.key", mesh.svid("shop/web").key);
    let run = tokio::process::Command::new(crate::support::proxy::binary())
        .args(["run", "--config"])
        .arg(&path)
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = crate::support::within(PATIENCE, "the proxy giving up", run).await.unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{text}");
    assert!(text.contains("shop-web.key") || text.contains("shop-web.pem"), "{text}");
}
