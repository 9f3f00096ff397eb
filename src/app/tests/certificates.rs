//! Certificates that are there, change, are broken, and run out.

use std::collections::BTreeMap;

use rcgen::string::Ia5String;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose, SanType};

use super::*;

/// A certificate authority, and what it issued last.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("signed"))
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate and its key.
    fn issue(&self) -> (String, String) {
        let mut params = CertificateParams::default();
        let id = Ia5String::try_from("spiffe://mesh.local/ns/shop/sa/web").expect("text");
        params.subject_alt_names = vec![SanType::URI(id)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.0).expect("signed");
        (certificate.pem(), key.serialize_pem())
    }
}

struct Scene {
    folder: tempfile::TempDir,
    authority: Authority,
}

impl Scene {
    fn new() -> Self {
        let scene = Self { folder: tempfile::tempdir().expect("a folder"), authority: Authority::new("first") };
        scene.write("bundle.pem", &scene.authority.pem());
        scene.renew();
        scene.write("c.yaml", &scene.config());
        scene
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        replace(&self.path(name), text);
    }

    /// Replaces certificate and key, one after the other.
    fn renew(&self) {
        let (certificate, key) = self.authority.issue();
        self.write("svid.pem", &certificate);
        self.write("svid.key", &key);
    }

    fn config(&self) -> String {
        let folder = self.folder.path().display();
        let tls = config("hello").replace("routes: r }", "routes: r, tls: { mode: strict } }");
        format!(
            "identity:\n  certificate: {folder}/svid.pem\n  privateKey: {folder}/svid.key\n  trustBundle: \
             {folder}/bundle.pem\n{tls}"
        )
    }

    fn options(&self) -> Options {
        options(&self.path("c.yaml"))
    }
}

async fn certs(app: &App) -> Value {
    let admin = app.admin().expect("an admin server");
    serde_json::from_str(&ask(admin, "GET /certs").await).expect("JSON")
}

async fn until_certs(app: &App, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let end = Instant::now() + LONG;
    loop {
        let shown = certs(app).await;
        if holds(&shown) {
            return shown;
        }
        assert!(Instant::now() < end, "{what} never comes: {shown}");
    }
}

async fn metric(app: &App, name: &'static str) -> String {
    let text = ask(app.admin().expect("an admin server"), "GET /metrics").await;
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name} in {text}"));
    line.trim().to_owned()
}

#[tokio::test]
async fn renewed_files_take_effect_and_broken_ones_change_nothing_until_they_are_mended() {
    let scene = Scene::new();
    let app = App::start(scene.options()).await.expect("it starts");
    let first = certs(&app).await;
    assert_eq!(first["identity"], "spiffe://mesh.local/ns/shop/sa/web");
    assert_eq!((first["rotations"].as_u64(), first["upToDate"].as_bool()), (Some(0), Some(true)), "{first}");
    assert_eq!(first["roots"][0]["subject"], "CN=first");

    scene.renew();
    let second = until_certs(&app, "the new certificate", |shown| shown["rotations"] == 1).await;
    assert_ne!(second["certificates"][0]["sha256"], first["certificates"][0]["sha256"]);
    assert!(second["lastRotation"]["files"][0].as_str().is_some_and(|file| file.ends_with("svid.pem")), "{second}");

    scene.write("svid.key", "-----BEGIN PRIVATE KEY-----\nAAAA");
    let third = until_certs(&app, "the refusal", |shown| !shown["lastRefusal"].is_null()).await;
    assert_eq!(third["certificates"], second["certificates"], "what was there stays");
    assert_eq!(third["lastRefusal"]["problems"][0]["reason"], "malformed", "{third}");
    assert_eq!(third["lastRefusal"]["problems"][0]["place"]["line"], 3, "{third}");
    assert_eq!(metric(&app, "outrigger_certificate_rotations_total{result=\"refused\"}").await, "1");
    assert_eq!(metric(&app, "outrigger_certificate_last_rotation_successful").await, "0");
    assert_eq!(ask(app.admin().expect("an admin server"), "GET /ready").await, "ready\n");

    scene.renew();
    let fourth = until_certs(&app, "the mended pair", |shown| shown["rotations"] == 2).await;
    assert!(fourth["lastRefusal"].is_null() && fourth["upToDate"] == true, "{fourth}");
    assert_eq!(metric(&app, "outrigger_certificate_last_rotation_successful").await, "1");
    let config = report(&app).await;
    assert_eq!(config["generation"], 1, "the configuration is the same");
}

#[tokio::test]
async fn a_key_is_shown_nowhere() {
    let scene = Scene::new();
    let app = App::start(scene.options()).await.expect("it starts");
    scene.write("svid.key", &KeyPair::generate().expect("a key").serialize_pem());
    until_certs(&app, "the refusal", |shown| !shown["lastRefusal"].is_null()).await;
    let admin = app.admin().expect("an admin server");
    let lines = [scene.path("svid.key"), scene.path("svid.pem")].map(|path| {
        let text = std::fs::read_to_string(path).expect("read");
        text.lines().nth(1).expect("a line of base64").to_owned()
    });
    for path in ["GET /certs", "GET /config", "GET /metrics", "GET /listeners", "GET /clusters", "GET /rehearsal"] {
        let shown = ask(admin, path).await;
        assert!(!lines.iter().any(|line| shown.contains(line)) && !shown.contains("PRIVATE"), "{path}");
    }
}

#[tokio::test]
async fn roots_overlap_while_they_are_replaced() {
    let mut scene = Scene::new();
    let app = App::start(scene.options()).await.expect("it starts");
    let next = Authority::new("second");
    scene.write("bundle.pem", &next.pem());
    let shown = until_certs(&app, "the refusal", |shown| !shown["lastRefusal"].is_null()).await;
    assert_eq!(shown["lastRefusal"]["problems"][0]["reason"], "untrusted", "our own certificate comes first");

    scene.write("bundle.pem", &format!("{}{}", scene.authority.pem(), next.pem()));
    let shown = until_certs(&app, "the second root", |shown| shown["rotations"] == 1).await;
    assert_eq!(shown["roots"].as_array().map(Vec::len), Some(2));
    assert_eq!(metric(&app, "outrigger_trust_bundle_roots").await.rsplit(' ').next(), Some("2"));

    scene.authority = next;
    scene.renew();
    until_certs(&app, "the certificate of the second root", |shown| shown["rotations"] == 2).await;
    scene.write("bundle.pem", &scene.authority.pem());
    let shown = until_certs(&app, "the end of the first root", |shown| shown["rotations"] == 3).await;
    assert_eq!(shown["roots"].as_array().map(Vec::len), Some(1), "{shown}");
    assert_eq!(shown["roots"][0]["subject"], "CN=second");
}

#[tokio::test]
async fn a_configuration_is_refused_with_its_certificates_and_taken_as_soon_as_they_are_right() {
    let scene = Scene::new();
    let app = App::start(scene.options()).await.expect("it starts");
    let missing = scene.path("later.pem").display().to_string();
    scene.write("c.yaml", &scene.config().replace(&scene.path("svid.pem").display().to_string(), &missing));
    let end = Instant::now() + LONG;
    let shown = loop {
        let shown = report(&app).await;
        if !shown["lastRefusal"].is_null() {
            break shown;
        }
        assert!(Instant::now() < end, "the refusal is never shown");
    };
    let problem = &shown["lastRefusal"]["diagnostics"][0];
    assert!(problem["message"].as_str().is_some_and(|message| message.contains(&missing)), "{shown}");
    assert_eq!(problem["place"]["line"], 2);
    assert_eq!(certs(&app).await["rotations"], 0);

    // The file it waits for is watched, although nothing in effect names it.
    std::fs::copy(scene.path("svid.pem"), &missing).expect("copied");
    while report(&app).await["generation"] != 2 {
        assert!(Instant::now() < end, "it never takes effect");
    }
    let shown = certs(&app).await;
    assert_eq!(shown["certificates"][0]["file"], *missing);
}

#[tokio::test]
async fn a_start_with_broken_certificates_is_an_error_that_shows_the_line_and_its_copy_helps_if_it_names_others() {
    let scene = Scene::new();
    let options = Options { state_dir: Some(scene.path("state")), ..scene.options() };
    drop(App::start(options.clone()).await.expect("it starts"));

    let good = scene.config();
    let missing = good.replace("bundle.pem", "nothing.pem");
    scene.write("c.yaml", &missing);
    let app = App::start(options.clone()).await.expect("it starts with the copy");
    let shown = report(&app).await;
    assert!(shown["source"]["lastGood"].is_string() && shown["upToDate"] == false, "{shown}");
    drop(app);

    std::fs::remove_file(scene.path("bundle.pem")).expect("removed");
    for text in [&missing, &good] {
        scene.write("c.yaml", text);
        let error = App::start(options.clone()).await.expect_err("neither can be used").to_string();
        assert!(error.contains("it cannot be read") && error.contains("c.yaml:"), "{error}");
        assert!(error.contains("help: check the path and who may read it"), "{error}");
    }
}

#[tokio::test]
async fn twenty_rotations_under_a_thousand_rules_keep_the_listener() {
    const ROTATIONS: u64 = 20;
    let scene = Scene::new();
    let rule = |n: usize| {
        format!("{{ matches: [{{ path: {{ prefix: /p{n} }} }}], filters: [{{ directResponse: {{ status: 204 }} }}] }}")
    };
    let rules: Vec<String> = (0..1000).map(rule).collect();
    let text = scene.config().replace("rules: [{", &format!("rules: [{}, {{", rules.join(", ")));
    scene.write("c.yaml", &text);
    let app = App::start(scene.options()).await.expect("it starts");
    let before = app.listeners()[0].address;
    let mut seen = BTreeMap::new();
    for round in 1..=ROTATIONS {
        scene.renew();
        let shown = until_certs(&app, "the rotation", |shown| shown["rotations"] == round).await;
        seen.insert(shown["certificates"][0]["serial"].to_string(), round);
    }
    assert_eq!(seen.len() as u64, ROTATIONS, "each was another certificate");
    assert_eq!(app.listeners()[0].address, before);
}
