//! The same with programs that are not ours: `openssl s_client` and `curl`.

use super::refusals::all;
use super::{Inbound, refused};
use crate::support::pki::Credential;
use crate::support::{Config, H1Backend, Mesh, Proxy, TlsClient, TlsServer, openssl, process};

/// curl as a caller with this certificate and key, not judging the proxy's.
async fn curl(proxy: &Proxy, credential: Option<&(String, String)>, more: &[&str]) -> (bool, String) {
    let url = format!("https://{}/", proxy.addr());
    let mut arguments = vec!["--insecure", "--write-out", " %{http_code} %{http_version}", &url];
    if let Some((certificate, key)) = credential {
        arguments.extend(["--cert", certificate, "--key", key]);
    }
    arguments.extend(more);
    let output = process::curl(&arguments).await;
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[tokio::test]
async fn openssl_and_curl_are_served_as_workloads() {
    let inbound = Inbound::with("mode: strict").await;
    let pair = inbound.mesh.files.give("cart", &inbound.mesh.svid("shop/cart"));
    let bundle = inbound.mesh.files.path("bundle.pem").display().to_string();
    let common = ["-cert", &pair.0, "-cert_chain", &pair.0, "-key", &pair.1, "-CAfile", &bundle];

    let said = openssl::s_client(inbound.proxy.addr(), &common).await;
    assert!(said.served(), "{}", said.text);
    assert_eq!(said.line("Verify return code"), Some("0 (ok)"), "the proxy's chain is complete: {}", said.text);
    assert!(said.text.contains("New, TLSv1.3"), "{}", said.text);
    assert!(said.text.contains("Early data was not sent") || said.text.contains("No early data"), "{}", said.text);

    let mut with_alpn = common.to_vec();
    with_alpn.extend(["-alpn", "h2,http/1.1"]);
    let said =
        openssl::run(&[&["s_client", "-connect", &inbound.proxy.addr().to_string()], &with_alpn[..]].concat(), "")
            .await;
    assert!(said.text.contains("ALPN protocol: h2"), "{}", said.text);

    assert_eq!(curl(&inbound.proxy, Some(&pair), &["--http1.1"]).await, (true, "ok 200 1.1".to_owned()));
    assert_eq!(curl(&inbound.proxy, Some(&pair), &["--http2"]).await, (true, "ok 200 2".to_owned()));
    assert!(!curl(&inbound.proxy, Some(&pair), &["--tls-max", "1.2"]).await.0, "TLS 1.2 was not asked for");
    let plain = process::curl(&[&format!("http://{}/", inbound.proxy.addr())]).await;
    assert!(!plain.status.success(), "no plaintext: {plain:?}");
    assert_eq!(inbound.backend.requests().len(), 3);
}

#[tokio::test]
async fn openssl_is_refused_with_each_wrong_certificate() {
    let (mesh, identity, wrong) = all().await;
    let inbound = Inbound::of(mesh, &identity, "mode: strict").await;
    let mut counts = std::collections::BTreeMap::new();
    for case in &wrong {
        println!("{}", case.name);
        let pair = case.credential.as_ref().map(|credential| inbound.mesh.files.give("caller", credential));
        let mut arguments = vec!["-cipher", "DEFAULT@SECLEVEL=0"];
        if let Some((certificate, key)) = &pair {
            arguments.extend(["-cert", certificate, "-cert_chain", certificate, "-key", key]);
        }
        let said = openssl::s_client(inbound.proxy.addr(), &arguments).await;
        assert!(!said.served(), "{}: {}", case.name, said.text);
        let count = counts.entry(case.reason).or_insert(0.0);
        *count += 1.0;
        inbound.refused(case.reason, *count).await;
    }
    assert_eq!(counts.len(), 13, "{counts:?}");
    assert!(inbound.backend.requests().is_empty(), "nothing was passed on");
}

#[tokio::test]
async fn curl_is_refused_with_each_wrong_certificate() {
    let (mesh, identity, wrong) = all().await;
    let inbound = Inbound::of(mesh, &identity, "mode: strict").await;
    let mut counts = std::collections::BTreeMap::new();
    for case in &wrong {
        let pair = case.credential.as_ref().map(|credential| inbound.mesh.files.give("caller", credential));
        let (served, said) = curl(&inbound.proxy, pair.as_ref(), &["--ciphers", "DEFAULT@SECLEVEL=0"]).await;
        assert!(!served, "{}: {said}", case.name);
        // curl itself will not load so weak a key; `openssl` above shows it to the proxy.
        if case.reason == "weak-key" {
            continue;
        }
        let count = counts.entry(case.reason).or_insert(0.0);
        *count += 1.0;
        inbound.refused(case.reason, *count).await;
    }
    assert!(inbound.backend.requests().is_empty(), "nothing was passed on");
}

/// Callers learn from the alert what is wrong with what they showed, as far as TLS has a word for it.
#[tokio::test]
async fn openssl_is_told_by_an_alert_what_is_wrong() {
    let (mesh, identity, wrong) = all().await;
    let inbound = Inbound::of(mesh, &identity, "mode: strict").await;
    for (name, alert) in [
        ("no certificate", "certificate required"),
        ("expired", "certificate expired"),
        ("revoked", "certificate revoked"),
        ("a foreign authority of the same name", "unknown ca"),
    ] {
        let case = wrong.iter().find(|case| case.name == name).expect("it is there");
        let pair = case.credential.as_ref().map(|credential| inbound.mesh.files.give("caller", credential));
        let mut arguments = Vec::new();
        if let Some((certificate, key)) = &pair {
            arguments.extend(["-cert", certificate, "-cert_chain", certificate, "-key", key]);
        }
        // Without a request, nothing of ours is on its way when the alert comes.
        let addr = inbound.proxy.addr().to_string();
        let said = openssl::run(&[&["s_client", "-connect", &addr, "-ign_eof"], &arguments[..]].concat(), "").await;
        assert!(said.text.to_lowercase().contains(alert), "{name}: {}", said.text);
    }
}

#[tokio::test]
async fn openssl_cannot_renegotiate() {
    let inbound = Inbound::with("mode: strict, minVersion: \"1.2\"").await;
    let pair = inbound.mesh.files.give("cart", &inbound.mesh.svid("shop/cart"));
    let addr = inbound.proxy.addr().to_string();
    let arguments = ["s_client", "-connect", &addr, "-tls1_2", "-legacy_renegotiation", "-cert", &pair.0];
    let arguments = [&arguments[..], &["-cert_chain", &pair.0, "-key", &pair.1]].concat();
    // `R` at the beginning of a line asks for a new handshake.
    let said = openssl::run_commanded(&arguments, "R\n").await;
    assert!(said.text.contains("RENEGOTIATING"), "it tried: {}", said.text);
    assert!(!said.success, "and the connection ended there: {}", said.text);
    assert!(inbound.backend.requests().is_empty());
}

/// An edge: ordinary certificates, ordinary callers.
#[tokio::test]
async fn curl_believes_the_edge_by_its_authority_and_its_name() {
    let mesh = Mesh::new();
    let leaf = crate::support::pki::Leaf::new().dns("shop.example");
    let (certificate, key) = mesh.files.give("edge", &mesh.issuing.issue(&leaf));
    let backend = H1Backend::ok().await;
    let tls = format!("tls: {{ mode: strict, certificates: [{{ certificate: {certificate}, privateKey: {key} }}] }}");
    let proxy = Proxy::start(&Config::to("http1", &[backend.addr]).listener(&tls)).await;
    let port = proxy.addr().port();
    let bundle = mesh.files.path("bundle.pem").display().to_string();
    let ask = async |name: &str, more: &[&str]| {
        let (resolve, url) = (format!("{name}:{port}:127.0.0.1"), format!("https://{name}:{port}/"));
        let output = process::curl(&[&["--resolve", &resolve, &url], more].concat()).await;
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    assert_eq!(ask("shop.example", &["--cacert", &bundle, "--http2"]).await, (Some(0), "ok".to_owned()));
    assert_eq!(ask("shop.example", &["--cacert", &bundle, "--http1.1"]).await, (Some(0), "ok".to_owned()));
    assert_eq!(ask("shop.example", &[]).await.0, Some(60), "curl itself knows no such authority");
    assert_eq!(ask("other.example", &["--cacert", &bundle]).await.0, Some(60), "nor a certificate of that name");
    assert_eq!(backend.requests().len(), 2);
    refused(&proxy, "no-certificate", 0.0).await;
}

/// `openssl s_server` is the endpoint: TLS by somebody else on the way out, too.
#[tokio::test]
async fn openssl_is_an_endpoint() {
    let mesh = Mesh::new();
    let (certificate, key) = mesh.files.give("payments", &mesh.svid("shop/payments"));
    let bundle = mesh.files.path("bundle.pem").display().to_string();
    let addr = crate::support::proxy::free_port();
    let accept = addr.to_string();
    let mut server = tokio::process::Command::new("openssl")
        .args(["s_server", "-accept", &accept, "-cert", &certificate, "-cert_chain", &certificate, "-key", &key])
        .args(["-CAfile", &bundle, "-Verify", "3", "-verify_return_error", "-www"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::inherit())
        .kill_on_drop(true)
        .spawn()
        .expect("start openssl");
    let mut lines = tokio::io::AsyncBufReadExt::lines(tokio::io::BufReader::new(server.stdout.take().expect("piped")));
    crate::support::within(crate::support::PATIENCE, "openssl listening", async {
        while let Ok(Some(line)) = lines.next_line().await {
            if line.contains("ACCEPT") {
                return;
            }
        }
        panic!("openssl ended");
    })
    .await;
    let endpoint = ([127, 0, 0, 1], addr).into();
    let config = Config::to("http1", &[endpoint])
        .top(&mesh.identity("shop/web"))
        .upstream(&format!("tls: {{ mode: mutual, peerIdentities: [\"{}\"] }}", mesh.id("shop/payments")));
    let proxy = Proxy::start(&config).await;
    // It answers in HTTP/1.0 with a page about the session, of which each one can be asked about.
    let reply = crate::support::h1_client::get(proxy.addr(), "/").await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert!(reply.text().contains("TLSv1.3"), "{}", reply.text());
    server.kill().await.expect("stop openssl");
}

/// The tests' own authority and server, judged by `openssl` and `curl` without a proxy: what is refused elsewhere is
/// then refused by the proxy.
#[tokio::test]
async fn the_tests_themselves_make_sound_certificates_and_servers() {
    let (mesh, _, wrong) = all().await;
    let backend = H1Backend::after_request(|conn| async move {
        conn.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok").await.ok();
    })
    .await;
    let web = mesh.issuing.issue(&mesh.leaf("shop/web").dns("web.example"));
    let front = TlsServer::asking(&web).front(backend.addr).await;
    let bundle = mesh.files.path("bundle.pem").display().to_string();
    let (resolve, url) =
        (format!("web.example:{}:127.0.0.1", front.addr.port()), format!("https://web.example:{}/", front.addr.port()));
    let output = process::curl(&["--http1.1", "--resolve", &resolve, "--cacert", &bundle, &url]).await;
    assert_eq!(String::from_utf8_lossy(&output.stdout), "ok", "{output:?}");
    let (_, reply) = TlsClient::anonymous().served(front.addr).await;
    assert_eq!(reply.text(), "ok");

    let verified = |name: &'static str, credential: &Credential, list: bool| {
        let (chain, _) = mesh.files.give("judged", credential);
        let lists = mesh.files.path("issuing.crl").display().to_string();
        let bundle = bundle.clone();
        async move {
            let mut arguments = vec!["verify", "-CAfile", &bundle, "-untrusted", &chain];
            if list {
                arguments.extend(["-crl_check", "-CRLfile", &lists]);
            }
            arguments.push(&chain);
            let said = openssl::run(&arguments, "").await;
            println!("{name}: {}", said.text);
            said
        }
    };
    assert!(verified("right", &mesh.svid("shop/cart"), true).await.success);
    for (name, complaint) in [
        ("expired", "certificate has expired"),
        ("not yet valid", "certificate is not yet valid"),
        ("revoked", "certificate revoked"),
        ("a foreign authority of the same name", "error 20"),
    ] {
        let case = wrong.iter().find(|case| case.name == name).expect("it is there");
        let credential = case.credential.as_ref().expect("a certificate");
        let said = verified(name, credential, case.reason == "revoked").await;
        assert!(!said.success && said.text.contains(complaint), "{name}: {}", said.text);
    }
}
