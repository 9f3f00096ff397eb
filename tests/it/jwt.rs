//! JSON Web Tokens: which are believed, what becomes of them, where their keys come from, and that they are never
//! written anywhere.

mod keys;

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use http::Request as H2Request;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::frames::{END_HEADERS, END_STREAM, RawH2};
use crate::support::http1::Response;
use crate::support::proxy::Launch;
use crate::support::signer::{Signer, hs256, jwks, unsigned};
use crate::support::{Config, H1Backend, H1Client, H2Backend, H2Client, PATIENCE, Proxy, eventually, h1_client};

const ISSUER: &str = "https://id.corp.example";

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

fn claims() -> Value {
    json!({ "iss": ISSUER, "aud": "payments", "exp": now() + 600, "sub": "ann" })
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

/// A key set in a file.
struct Keys {
    folder: TempDir,
}

impl Keys {
    fn of(signers: &[&Signer]) -> Self {
        let keys = Self { folder: tempfile::tempdir().expect("a folder") };
        keys.replace(signers);
        keys
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("jwks.json")
    }

    fn replace(&self, signers: &[&Signer]) {
        let fresh = self.folder.path().join("fresh");
        std::fs::write(&fresh, jwks(signers)).expect("written");
        std::fs::rename(fresh, self.path()).expect("replaced");
    }
}

/// A provider `corp` and more settings of it.
fn provider(keys: &Path, settings: &str) -> String {
    provider_at(&format!("{{ file: {} }}", keys.display()), settings)
}

fn provider_at(keys: &str, settings: &str) -> String {
    let mut yaml =
        format!("jwtProviders:\n  corp:\n    issuer: {ISSUER}\n    audiences: [payments]\n    jwks: {keys}\n");
    for line in settings.lines() {
        yaml += &format!("    {}\n", line.trim());
    }
    yaml
}

fn config(backend: &H1Backend, providers: &str, listener: &str) -> Config {
    Config::to("http1", &[backend.addr]).top(providers).top("accessLog: stdout").listener(&format!("jwt: {listener}"))
}

async fn get(proxy: &Proxy, path: &str, fields: &str) -> Response {
    h1_client::exchange(proxy.addr(), format!("GET {path} HTTP/1.1\r\nhost: a.example\r\n{fields}\r\n")).await
}

async fn bearer(proxy: &Proxy, token: &str) -> Response {
    get(proxy, "/", &format!("authorization: Bearer {token}\r\n")).await
}

async fn judged(proxy: &Proxy, result: &str) -> f64 {
    proxy.metric("outrigger_jwt_total", &[r#"listener="in""#, &format!("result=\"{result}\"")]).await
}

#[tokio::test]
async fn a_token_is_believed_and_goes_no_further() {
    let signer = Signer::new("ES256", "one");
    let (backend, keys) = (H1Backend::ok().await, Keys::of(&[&signer]));
    let headers = "claimsToHeaders: [{ claim: sub, header: x-user }, { claim: realm_access.roles, header: x-roles }, \
                   { claim: evil, header: x-evil }]";
    let proxy = Proxy::start(&config(&backend, &provider(&keys.path(), headers), "{ providers: [corp] }")).await;
    let mut content = with("realm_access", json!({ "roles": ["a", "b,c"] }));
    content["evil"] = "x\r\nx-admin: 1".into();
    let token = signer.token(&content);
    let mut client = H1Client::connect(proxy.addr()).await;
    for _ in 0..2 {
        let told = client
            .exchange(format!(
                "GET /?a=1 HTTP/1.1\r\nhost: a.example\r\nX-User: root\r\nx-user: root\r\nx-roles: all\r\nx-evil: 1\r\n\
                 x-other: 1\r\nauthorization: bEaReR {token}\r\n\r\n"
            ))
            .await;
        assert_eq!(told.status, 200);
    }
    for request in backend.requests() {
        let head = &request.head;
        assert_eq!(request.target, "/?a=1");
        assert_eq!(head.all("x-user"), ["ann"]);
        assert_eq!(head.all("x-roles"), [r#"["a","b,c"]"#]);
        assert_eq!(head.all("x-other"), ["1"]);
        assert!(!head.has("authorization") && !head.has("x-evil") && !head.has("x-admin"), "{head:?}");
    }
    assert_eq!(judged(&proxy, "valid").await, 2.0);
}

#[tokio::test]
async fn every_bad_token_is_refused_with_its_own_reason() {
    let (rsa, ec, stranger) = (Signer::new("RS256", "rsa"), Signer::new("ES256", "ec"), Signer::new("RS256", "rsa"));
    let (backend, keys) = (H1Backend::ok().await, Keys::of(&[&rsa, &ec]));
    let proxy = Proxy::start(&config(&backend, &provider(&keys.path(), ""), "{ providers: [corp] }")).await;
    let good = rsa.token(&claims());
    assert_eq!(bearer(&proxy, &good).await.status, 200);
    let (signed, signature) = good.rsplit_once('.').expect("three parts");
    let header = |alg: &str| json!({ "alg": alg, "kid": "rsa" });
    let edited = unsigned(&rsa.header(), &with("sub", json!("root")));
    let renamed = json!({ "alg": "RS256", "kid": "other" });
    let cases = [
        (format!("{signed}."), "bad-signature"),
        (format!("{edited}.{signature}"), "bad-signature"),
        (stranger.token(&claims()), "bad-signature"),
        (signed.to_owned(), "malformed"),
        ("opaque".to_owned(), "malformed"),
        (format!("{good} {good}"), "malformed"),
        (format!("{}.", unsigned(&header("none"), &claims())), "algorithm"),
        (hs256(rsa.public_pem().as_bytes(), &header("HS256"), &claims()), "algorithm"),
        (hs256(rsa.jwk()["n"].to_string().as_bytes(), &header("HS256"), &claims()), "algorithm"),
        (rsa.token_with(&header("ES256"), &claims()), "algorithm"),
        (rsa.token_with(&renamed, &claims()), "unknown-key"),
        (rsa.token(&with("iss", json!("https://evil.example"))), "unknown-issuer"),
        (rsa.token(&with("aud", json!("refunds"))), "audience"),
        (rsa.token(&with("exp", json!(now() - 61))), "expired"),
        (rsa.token(&with("nbf", json!(now() + 120))), "not-yet-valid"),
        (rsa.token(&with("iat", json!(now() + 120))), "not-yet-valid"),
    ];
    for (token, code) in &cases {
        let before = judged(&proxy, code).await;
        let told = bearer(&proxy, token).await;
        assert_eq!((told.status, told.reason()), (401, Some("JWT")), "{code}: {token}");
        let challenge = told.head.get("www-authenticate").expect("a challenge");
        assert!(challenge.starts_with(r#"Bearer realm="a.example", error="invalid_token""#), "{challenge}");
        assert_eq!(judged(&proxy, code).await, before + 1.0, "{code}: {token}");
        let details = format!("\"response_flags\":\"JWT\",\"response_code_details\":\"{code}\"");
        eventually(PATIENCE, code, || proxy.stdout().contains(&details)).await;
    }
    let none = get(&proxy, "/", "").await;
    assert_eq!((none.status, none.reason()), (401, Some("JWT")));
    assert_eq!(none.head.get("www-authenticate"), Some(r#"Bearer realm="a.example""#));
    for no_token in ["Basic eDp5", "Bearer", "Bearer "] {
        assert_eq!(get(&proxy, "/", &format!("authorization: {no_token}\r\n")).await.status, 401, "{no_token}");
    }
    assert_eq!(judged(&proxy, "missing").await, 4.0);
    assert_eq!(backend.requests().len(), 1, "only the good one");
}

#[tokio::test]
async fn where_no_token_is_required_one_that_is_there_must_be_valid() {
    let signer = Signer::new("EdDSA", "one");
    let (backend, keys) = (H1Backend::ok().await, Keys::of(&[&signer]));
    let providers = provider(&keys.path(), "claimsToHeaders: [{ claim: sub, header: x-user }]");
    let proxy = Proxy::start(&config(&backend, &providers, "{ providers: [corp], required: false }")).await;
    assert_eq!(get(&proxy, "/", "x-user: root\r\n").await.status, 200);
    assert!(!backend.only_request().head.has("x-user"), "nobody says who it is but the token");
    assert_eq!(get(&proxy, "/", "authorization: Basic eDp5\r\n").await.status, 200);
    assert_eq!(backend.requests()[1].head.get("authorization"), Some("Basic eDp5"));
    assert_eq!(bearer(&proxy, &signer.token(&with("exp", json!(1)))).await.status, 401);
    assert_eq!(bearer(&proxy, "opaque").await.status, 401);
    assert_eq!(bearer(&proxy, &signer.token(&claims())).await.status, 200);
    assert_eq!(backend.requests()[2].head.get("x-user"), Some("ann"));
}

#[tokio::test]
async fn a_token_in_the_query_is_cut_out() {
    let signer = Signer::new("EdDSA", "one");
    let (backend, keys) = (H1Backend::ok().await, Keys::of(&[&signer]));
    let providers = provider(&keys.path(), "from: [{ header: x-token }, { query: access_token }]");
    let proxy = Proxy::start(&config(&backend, &providers, "{ providers: [corp] }")).await;
    let token = signer.token(&claims());
    for (query, forwarded) in [
        (format!("?access_token={token}"), "/p"),
        (format!("?a=1&access_token={token}&b=2"), "/p?a=1&b=2"),
        (format!("?%61ccess_token={}&a=1", token.replace('.', "%2E")), "/p?a=1"),
        (format!("?access_token={token}&access_token={token}"), "/p"),
    ] {
        assert_eq!(get(&proxy, &format!("/p{query}"), "").await.status, 200, "{forwarded}");
        assert_eq!(backend.requests().last().expect("forwarded").target, forwarded);
    }
    let both = get(&proxy, &format!("/p?access_token={token}"), &format!("x-token: {token}\r\n")).await;
    assert_eq!(both.status, 200);
    assert!(!backend.requests().last().expect("forwarded").head.has("x-token"));
    let forwarded = backend.requests().len();
    for query in [format!("access_token={token}&access_token=x"), "access_token=".to_owned()] {
        assert_eq!(get(&proxy, &format!("/p?{query}"), "").await.status, 401, "all must be valid");
    }
    assert_eq!(backend.requests().len(), forwarded);
}

#[tokio::test]
async fn a_token_is_sent_on_where_its_provider_says_so() {
    let signer = Signer::new("EdDSA", "one");
    let (backend, keys) = (H1Backend::ok().await, Keys::of(&[&signer]));
    let providers = provider(&keys.path(), "forward: true\nfrom: [{ header: authorization }, { query: t }]");
    let proxy = Proxy::start(&config(&backend, &providers, "{ providers: [corp] }")).await;
    let token = signer.token(&claims());
    assert_eq!(get(&proxy, &format!("/?t={token}"), "").await.status, 200);
    assert_eq!(bearer(&proxy, &token).await.status, 200);
    let requests = backend.requests();
    assert_eq!(requests[0].target, format!("/?t={token}"));
    assert_eq!(requests[1].head.get("authorization"), Some(&*format!("Bearer {token}")));
}

#[tokio::test]
async fn each_provider_believes_its_own_tokens_in_its_own_places() {
    let (corp, partner) = (Signer::new("ES256", "k"), Signer::new("EdDSA", "k"));
    let (backend, corps, partners) = (H1Backend::ok().await, Keys::of(&[&corp]), Keys::of(&[&partner]));
    let providers = format!(
        "{}  partner:\n    issuer: https://partner.example\n    audiences: [payments]\n    jwks: {{ file: {} }}\n    \
         from: [{{ header: x-partner }}]\n    claimsToHeaders: [{{ claim: sub, header: x-partner-user }}]\n",
        provider(&corps.path(), "claimsToHeaders: [{ claim: sub, header: x-user }]"),
        partners.path().display()
    );
    let proxy = Proxy::start(&config(&backend, &providers, "{ providers: [corp, partner] }")).await;
    let theirs = json!({ "iss": "https://partner.example", "aud": "payments", "exp": now() + 600, "sub": "pat" });
    let (ours, theirs, forged) = (corp.token(&claims()), partner.token(&theirs), partner.token(&claims()));

    assert_eq!(bearer(&proxy, &ours).await.status, 200);
    assert_eq!(get(&proxy, "/", &format!("x-partner: {theirs}\r\n")).await.status, 200);
    assert_eq!(backend.requests()[1].head.get("x-partner-user"), Some("pat"));
    let both = format!("x-partner: {theirs}\r\nauthorization: Bearer {ours}\r\n");
    assert_eq!(get(&proxy, "/", &both).await.status, 200);
    let head = &backend.requests()[2].head;
    assert_eq!((head.get("x-user"), head.get("x-partner-user")), (Some("ann"), Some("pat")));

    for (fields, code) in [
        (format!("authorization: Bearer {theirs}\r\n"), "unknown-issuer"),
        (format!("x-partner: {ours}\r\n"), "unknown-issuer"),
        (format!("authorization: Bearer {forged}\r\n"), "algorithm"),
        (format!("x-partner: {forged}\r\n"), "unknown-issuer"),
        (format!("x-partner: {theirs}\r\nauthorization: Bearer {forged}\r\n"), "algorithm"),
        (format!("x-partner: x\r\nauthorization: Bearer {ours}\r\n"), "malformed"),
    ] {
        let before = judged(&proxy, code).await;
        assert_eq!(get(&proxy, "/", &fields).await.status, 401, "{code}");
        assert_eq!(judged(&proxy, code).await, before + 1.0, "{code}");
    }
    assert_eq!(backend.requests().len(), 3);
}

#[tokio::test]
async fn a_grpc_caller_is_told_in_its_own_way() {
    let signer = Signer::new("EdDSA", "one");
    let (backend, keys) = (H2Backend::grpc_echo().await, Keys::of(&[&signer]));
    let config =
        Config::to("http2", &[backend.addr]).top(&provider(&keys.path(), "")).listener("jwt: { providers: [corp] }");
    let proxy = Proxy::start(&config).await;
    let client = H2Client::connect(proxy.addr()).await;
    let call = |token: &str| {
        H2Request::post("http://a.example/a.B/C")
            .header("content-type", "application/grpc")
            .header("authorization", format!("Bearer {token}"))
            .body(())
            .expect("a request")
    };
    let told = client.fetch(call("x.y.z")).await.expect("an answer");
    assert_eq!((told.status, told.grpc_status(), told.reason()), (200, Some("16"), Some("JWT")));
    assert_eq!(told.header("grpc-message"), Some("The token is malformed."));
    let told = client.send(call(&signer.token(&claims())), "\0\0\0\0\0", None).await.expect("an answer");
    assert_eq!((told.status, told.grpc_status()), (200, Some("0")));
}

#[tokio::test]
async fn claims_decide_who_may_do_what() {
    let signer = Signer::new("EdDSA", "one");
    let (backend, keys) = (H1Backend::ok().await, Keys::of(&[&signer]));
    let policy = "authorization:\n  p:\n    default: deny\n    rules:\n      - { name: admins, action: allow, \
                  claims: [{ provider: corp, claim: realm_access.roles, values: [admin] }] }";
    let config = config(&backend, &provider(&keys.path(), ""), "{ providers: [corp], required: false }")
        .top(policy)
        .listener("authorization: p");
    let proxy = Proxy::start(&config).await;
    let admin = signer.token(&with("realm_access", json!({ "roles": ["user", "admin"] })));
    let user = signer.token(&with("realm_access", json!({ "roles": ["user"] })));
    assert_eq!(bearer(&proxy, &admin).await.status, 200);
    for told in [bearer(&proxy, &user).await, get(&proxy, "/", "").await] {
        assert_eq!((told.status, told.reason()), (403, Some("RBAC")));
    }
    assert_eq!(bearer(&proxy, "x").await.status, 401, "who is unknown is asked who it is before what it may do");
}

#[tokio::test]
async fn a_preflight_needs_no_token_and_what_it_announces_does() {
    let signer = Signer::new("EdDSA", "one");
    let (backend, keys) = (H1Backend::ok().await, Keys::of(&[&signer]));
    let cors = "filters: [{ cors: { allowOrigins: [\"https://shop.example\"], allowMethods: [GET], \
                allowHeaders: [authorization] } }]";
    let config = config(&backend, &provider(&keys.path(), ""), "{ providers: [corp] }").rule(cors);
    let proxy = Proxy::start(&config).await;
    let told = h1_client::exchange(
        proxy.addr(),
        "OPTIONS / HTTP/1.1\r\nhost: a\r\norigin: https://shop.example\r\naccess-control-request-method: GET\r\n\
         access-control-request-headers: authorization\r\n\r\n",
    )
    .await;
    assert_eq!((told.status, told.head.get("access-control-allow-headers")), (204, Some("authorization")));
    assert_eq!(get(&proxy, "/", "origin: https://shop.example\r\n").await.status, 401);
    assert_eq!(h1_client::exchange(proxy.addr(), "OPTIONS / HTTP/1.1\r\nhost: a\r\n\r\n").await.status, 401);
    assert_eq!(backend.requests().len(), 0);
}

/// Everything that a proxy writes or shows.
async fn outputs(proxy: &Proxy) -> String {
    let mut all = format!("{}\n{}\n", proxy.stderr(), proxy.stdout());
    for page in ["/metrics", "/config", "/clusters", "/listeners"] {
        all += &proxy.admin(page).await.1;
    }
    all
}

#[tokio::test]
async fn no_token_is_ever_written() {
    let (signer, stranger) = (Signer::new("ES256", "one"), Signer::new("ES256", "one"));
    let (backend, keys) = (H1Backend::ok().await, Keys::of(&[&signer]));
    let settings = "from: [{ header: authorization }, { query: access_token }]\n\
                    claimsToHeaders: [{ claim: sub, header: x-user }]";
    let config = config(&backend, &provider(&keys.path(), settings), "{ providers: [corp] }");
    let launch =
        Launch { arguments: ["--log-level", "trace,notify=off"].map(str::to_owned).into(), ..Launch::default() };
    let proxy = Proxy::start_as(&config, &launch).await;

    let subject = |name: &str| with("sub", json!(format!("subject-{name}-of-a-token")));
    let good = signer.token(&subject("good"));
    let tokens = [
        good.clone(),
        stranger.token(&subject("forged")),
        signer.token(&with("exp", json!(1))),
        format!("{}.", unsigned(&json!({ "alg": "none" }), &subject("none"))),
        format!("{good}%00"),
        good.replace('.', "%2E"),
        format!("{}!{}", &good[..20], &good[20..]),
        format!("malformed-{}", &good[..40]),
    ];
    let h2 = H2Client::connect(proxy.addr()).await;
    for token in &tokens {
        let header = format!("authorization: Bearer {token}\r\n");
        get(&proxy, "/", &header).await;
        get(&proxy, &format!("/a?access_token={token}&b=1"), "").await;
        get(&proxy, &format!("/a?x=1&%61ccess_token={token}"), "").await;
        // Requests that are refused for other reasons.
        get(&proxy, &format!("/%zz?access_token={token}"), "").await;
        get(&proxy, &format!("/../..?access_token={token}"), "").await;
        get(&proxy, &format!("/#x?access_token={token}"), "").await;
        get(&proxy, "/", &format!("{header}bad name: 1\r\n")).await;
        get(&proxy, "/", &format!("{header}host: b.example\r\n")).await;
        let uri = format!("http://a.example/h2?access_token={token}");
        if let Ok(request) = H2Request::get(&uri).header("authorization", format!("Bearer {token}")).body(()) {
            h2.fetch(request).await.expect("an answer");
        }
        let path = format!("/with space?access_token={token}");
        let bearer = format!("Bearer {token}");
        let mut raw = RawH2::connect(proxy.addr()).await;
        let fields: [(&[u8], &[u8]); 5] = [
            (b":method", b"GET"),
            (b":scheme", b"http"),
            (b":authority", b"a.example"),
            (b":path", path.as_bytes()),
            (b"authorization", bearer.as_bytes()),
        ];
        raw.headers(1, &fields, END_HEADERS | END_STREAM).await;
        raw.answer(1).await;
    }
    assert!(backend.requests().iter().any(|request| request.head.get("x-user") == Some("subject-good-of-a-token")));
    let lines = tokens.len() * 3;
    eventually(PATIENCE, "the access log", || proxy.stdout().lines().count() >= lines).await;

    let all = outputs(&proxy).await;
    assert!(all.contains("HEADERS") || all.contains("Headers"), "the log is as loud as it gets");
    let parts = tokens.iter().flat_map(|token| token.split(['.', '%', '!', '-'])).filter(|part| part.len() > 15);
    for part in parts.chain(["subject-", "eyJ"]) {
        let written: Vec<&str> = all.lines().filter(|line| line.contains(part)).collect();
        assert!(written.is_empty(), "{part} in {written:#?}");
    }
}
