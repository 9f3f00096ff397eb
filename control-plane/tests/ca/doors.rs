//! The TLS front: whom it lets in, whom it names, and what it does not wait for.

use std::fs;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::routing::get;
use outrigger_control::ca::{Confirmations, Force, MaterialFiles, Step};
use outrigger_control::peer::{Peer, WorkloadKey};
use outrigger_control::tls::{self, Door, DoorError, Mode, Speaks};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::pki_types::ServerName;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_stream::StreamExt as _;

use crate::support::*;

/// How long something may take that takes no time.
const PATIENCE: Duration = Duration::from_secs(5);

/// Nobody is behind.
struct All;

impl Confirmations for All {
    fn unconfirmed(&self, _bundle: &str) -> Vec<WorkloadKey> {
        Vec::new()
    }
}

fn loopback() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

/// A REST server that says who its caller is.
async fn rest(mode: Mode, connections: usize) -> (SocketAddr, JoinHandle<()>) {
    let door = Door::open(loopback(), mode, Speaks::Rest, connections).await.expect("a door");
    let address = door.address();
    let who = get(|ConnectInfo(peer): ConnectInfo<Peer>| async move {
        let id = peer.id.map_or("nobody".to_owned(), |id| id.to_string());
        let workload = peer.workload.map_or("none".to_owned(), |workload| workload.to_string());
        format!("{id} {workload}")
    });
    let service = Router::new().route("/", who).into_make_service_with_connect_info::<Peer>();
    let server = tokio::spawn(async move { axum::serve(door, service).await.expect("served") });
    (address, server)
}

async fn connect(
    plane: &Plane,
    address: SocketAddr,
    credential: Option<&Credential>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut config = (*plane.client(credential)).clone();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let tcp = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").expect("a name");
    TlsConnector::from(Arc::new(config)).connect(name, tcp).await
}

async fn ask(mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin) -> std::io::Result<String> {
    stream.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer.rsplit("\r\n").next().unwrap_or_default().to_owned())
}

async fn who(plane: &Plane, address: SocketAddr, credential: Option<&Credential>) -> std::io::Result<String> {
    ask(connect(plane, address, credential).await?).await
}

#[tokio::test]
async fn the_caller_is_who_its_certificate_says_and_nobody_without() {
    let plane = Plane::new().await;
    let (address, _server) = rest(Mode::Tls(Arc::clone(&plane.serving)), 8).await;
    assert_eq!(who(&plane, address, None).await.expect("an answer"), "nobody none");
    let credential = plane.join("payments-1").await;
    let named = who(&plane, address, Some(&credential)).await.expect("an answer");
    assert_eq!(named, format!("{ID} shop/payments-1"));
}

#[tokio::test]
async fn who_proves_nothing_does_not_keep_a_place_at_the_grpc_door() {
    let plane = Plane::new().await;
    let mut door =
        Door::open(loopback(), Mode::Tls(Arc::clone(&plane.serving)), Speaks::Grpc, 8).await.expect("a door");
    let mut config = (*plane.client(None)).clone();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let tcp = TcpStream::connect(door.address()).await.expect("connected");
    let name = ServerName::try_from("localhost").expect("a name");
    let _client = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.expect("hands are shaken");
    let mut conn = door.next().await.expect("it comes in").expect("without an error");
    tokio::time::pause();
    tokio::time::advance(tls::limits::ANONYMOUS_GRPC).await;
    let ended = conn.read(&mut [0; 1]).await.expect_err("it is over");
    assert_eq!(ended.kind(), std::io::ErrorKind::TimedOut);
}

/// An authority whose key is at hand, so that it issues what ours never would.
struct Loose {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Loose {
    fn new() -> Self {
        let key = new_key();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).expect("signed").pem();
        Self { folder: TempDir::new().expect("a folder"), issuer: Issuer::new(params, key), pem }
    }

    fn files(&self) -> MaterialFiles {
        let files = MaterialFiles {
            certificates: self.folder.path().join("root.pem"),
            key: self.folder.path().join("root.key"),
        };
        fs::write(&files.certificates, &self.pem).expect("written");
        fs::write(&files.key, self.issuer.key().serialize_pem()).expect("written");
        fs::set_permissions(&files.key, fs::Permissions::from_mode(0o600)).expect("permissions");
        files
    }

    /// A good certificate, but for a change.
    fn issue(&self, change: impl FnOnce(&mut CertificateParams)) -> Credential {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "shop");
        params.distinguished_name.push(DnType::CommonName, "payments-1");
        params.subject_alt_names = vec![uri(ID)];
        change(&mut params);
        let key = new_key();
        let leaf = params.signed_by(&key, &self.issuer).expect("signed");
        Credential { chain: vec![leaf.der().clone()], key }
    }
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().expect("a URI"))
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused() {
    let plane = Plane::new().await;
    let (address, _server) = rest(Mode::Tls(Arc::clone(&plane.serving)), 8).await;
    let error = who(&plane, address, Some(&Loose::new().issue(|_| {}))).await.expect_err("refused");
    assert!(error.to_string().contains("UnknownCA"), "{error}");
}

#[tokio::test]
async fn a_certificate_that_is_no_svid_of_the_domain_is_refused() {
    let loose = Loose::new();
    let plane = Plane::with_material(loose.files()).await;
    let (address, _server) = rest(Mode::Tls(Arc::clone(&plane.serving)), 8).await;
    let named = who(&plane, address, Some(&loose.issue(|_| {}))).await.expect("an answer");
    assert_eq!(named, format!("{ID} shop/payments-1"), "nothing is wrong but what follows");
    let names = |names: &[&str]| {
        let names = names.iter().map(|name| uri(name)).collect();
        loose.issue(|params| params.subject_alt_names = names)
    };
    let bad = [
        names(&[]),
        names(&[ID, "spiffe://mesh.local/ns/shop/sa/cart"]),
        names(&[ID, "https://mesh.local"]),
        names(&["spiffe://other.local/ns/shop/sa/payments"]),
        names(&["spiffe://mesh.local"]),
        names(&["spiffe://mesh.local/ns//sa/payments"]),
        loose.issue(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
        loose.issue(|params| params.key_usages = vec![KeyUsagePurpose::KeyEncipherment]),
        loose.issue(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]),
    ];
    for (n, credential) in bad.iter().enumerate() {
        assert!(who(&plane, address, Some(credential)).await.is_err(), "the {n}th");
    }
}

#[tokio::test]
async fn a_subject_that_is_not_the_workloads_names_none() {
    let loose = Loose::new();
    let plane = Plane::with_material(loose.files()).await;
    let (address, _server) = rest(Mode::Tls(Arc::clone(&plane.serving)), 8).await;
    let subject = |names: &[(DnType, &str)]| {
        let mut name = DistinguishedName::new();
        names.iter().for_each(|(kind, text)| name.push(kind.clone(), *text));
        loose.issue(|params| params.distinguished_name = name)
    };
    let (organization, common) = (|| DnType::OrganizationName, || DnType::CommonName);
    for credential in [
        subject(&[]),
        subject(&[(common(), "payments-1")]),
        subject(&[(organization(), "billing"), (common(), "payments-1")]),
        subject(&[(organization(), "shop"), (common(), "../payments")]),
    ] {
        assert_eq!(who(&plane, address, Some(&credential)).await.expect("an answer"), format!("{ID} none"));
    }
}

#[tokio::test]
async fn who_proves_nothing_cannot_take_every_place() {
    let plane = Plane::new().await;
    let (address, _server) = rest(Mode::Tls(Arc::clone(&plane.serving)), 4).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = connect(&plane, address, None).await.expect("connected");
        stream.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await.expect("sent");
        stream.read_exact(&mut [0; 12]).await.expect("an answer");
        held.push(stream);
    }
    assert!(!matches!(who(&plane, address, None).await.as_deref(), Ok("nobody none")), "there is a third");
    let credential = plane.join("payments-1").await;
    assert!(who(&plane, address, Some(&credential)).await.is_ok());
    drop(held);
}

#[tokio::test]
async fn a_certificate_is_good_until_it_runs_out() {
    let plane = Plane::new().await;
    let (address, _server) = rest(Mode::Tls(Arc::clone(&plane.serving)), 8).await;
    let credential = plane.join("payments-1").await;
    plane.clock.advance(DAY + Duration::from_secs(1));
    let error = who(&plane, address, Some(&credential)).await.expect_err("refused");
    assert!(error.to_string().contains("CertificateExpired"), "{error}");
    assert_eq!(who(&plane, address, None).await.expect("an answer"), "nobody none");
}

#[tokio::test]
async fn a_connection_ends_with_the_certificate_that_it_was_made_with() {
    let plane = Plane::new().await;
    let (address, _server) = rest(Mode::Tls(Arc::clone(&plane.serving)), 8).await;
    let credential = plane.join("payments-1").await;
    plane.clock.advance(DAY - Duration::from_secs(30));
    let mut stream = connect(&plane, address, Some(&credential)).await.expect("connected");
    stream.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await.expect("sent");
    let mut answer = [0; 15];
    stream.read_exact(&mut answer).await.expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 200 OK");
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(31)).await;
    tokio::time::resume();
    let mut rest = Vec::new();
    let ended = timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "it goes on");
}

#[tokio::test]
async fn roots_are_those_of_the_moment() {
    let plane = Plane::new().await;
    let (address, _server) = rest(Mode::Tls(Arc::clone(&plane.serving)), 8).await;
    let old = plane.join("payments-1").await;
    let step = |step: Step| plane.authority.rotate(step, Force::Yes, "test", &All).expect("a step");
    step(Step::Introduce);
    step(Step::Sign);
    let new = plane.join("payments-1").await;
    for credential in [&old, &new] {
        who(&plane, address, Some(credential)).await.expect("both are believed");
    }
    step(Step::Retire);
    who(&plane, address, Some(&new)).await.expect("the new one is");
    let error = who(&plane, address, Some(&old)).await.expect_err("the old one is not any more");
    assert!(error.to_string().contains("UnknownCA"), "{error}");
}

#[tokio::test]
async fn sessions_are_not_resumed() {
    let plane = Plane::new().await;
    let (address, _server) = rest(Mode::Tls(Arc::clone(&plane.serving)), 8).await;
    let credential = plane.join("payments-1").await;
    let config = plane.client(Some(&credential));
    let mut config = (*config).clone();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let connector = TlsConnector::from(Arc::new(config));
    for _ in 0..3 {
        let tcp = TcpStream::connect(address).await.expect("connected");
        let stream = connector.connect(ServerName::try_from("localhost").expect("a name"), tcp).await.expect("TLS");
        let kind = stream.get_ref().1.handshake_kind();
        assert_ne!(kind, Some(rustls::HandshakeKind::Resumed));
        ask(stream).await.expect("an answer");
    }
}

#[tokio::test]
async fn who_does_not_shake_hands_holds_up_nobody_and_is_thrown_out() {
    let plane = Plane::new().await;
    let (address, _server) = rest(Mode::Tls(Arc::clone(&plane.serving)), 64).await;
    let mut silent = Vec::new();
    for _ in 0..10 {
        silent.push(TcpStream::connect(address).await.expect("connected"));
    }
    assert_eq!(who(&plane, address, None).await.expect("an answer"), "nobody none");
    let mut nonsense = TcpStream::connect(address).await.expect("connected");
    nonsense.write_all(b"GET / HTTP/1.1\r\n\r\n").await.expect("sent");
    let mut answer = Vec::new();
    let _ = nonsense.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    tokio::time::pause();
    tokio::time::advance(tls::limits::HANDSHAKE + Duration::from_secs(1)).await;
    tokio::time::resume();
    for mut stream in silent {
        let ended = timeout(PATIENCE, stream.read(&mut [0; 16])).await;
        assert!(matches!(ended, Ok(Ok(0) | Err(_))), "{ended:?}");
    }
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_until_there_is_a_place() {
    let plane = Plane::new().await;
    let (address, _server) = rest(Mode::Tls(Arc::clone(&plane.serving)), 1).await;
    let first = connect(&plane, address, None).await.expect("connected");
    let second = who(&plane, address, None);
    tokio::pin!(second);
    let early = timeout(Duration::from_millis(100), &mut second).await;
    assert!(early.is_err(), "there is no place: {early:?}");
    drop(first);
    assert_eq!(second.await.expect("an answer"), "nobody none");
}

#[tokio::test]
async fn plaintext_is_for_loopback_and_proves_nothing() {
    let everywhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let refused = Door::open(everywhere, Mode::Plaintext, Speaks::Rest, 1).await;
    assert!(matches!(refused, Err(DoorError::PlaintextBeyondLoopback(_))));
    let (address, _server) = rest(Mode::Plaintext, 8).await;
    let stream = TcpStream::connect(address).await.expect("connected");
    assert_eq!(ask(stream).await.expect("an answer"), "nobody none");
}

#[tokio::test]
async fn openssl_verifies_the_control_plane_and_speaks_only_tls_1_3() {
    let plane = Plane::new().await;
    // A program that is not ours goes by the real time.
    plane.clock.advance(std::time::SystemTime::now().duration_since(start()).unwrap_or_default());
    let now = plane.now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs().to_string();
    let roots = plane.folder.path().join("roots.pem");
    fs::write(&roots, plane.authority.bundle_pem()).expect("written");
    let address = plane.address.to_string();
    let roots = roots.to_str().expect("text").to_owned();
    let s_client = move |version: &'static str| {
        let (address, roots, now) = (address.clone(), roots.clone(), now.clone());
        tokio::task::spawn_blocking(move || {
            let mut openssl = Command::new("openssl");
            openssl.args(["s_client", "-connect", &address, "-CAfile", &roots, "-verify_return_error"]);
            openssl.args(["-verify_hostname", "localhost", "-attime", &now, "-alpn", "h2", version]);
            openssl.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut child = openssl.spawn().expect("openssl runs (tests/tools/install)");
            child.stdin.take().expect("a pipe").write_all(b"Q\n").expect("sent");
            let output = child.wait_with_output().expect("ends");
            String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
        })
    };
    let said = s_client("-tls1_3").await.expect("ends");
    assert!(said.contains("Verify return code: 0 (ok)") && said.contains("ALPN protocol: h2"), "{said}");
    let said = s_client("-tls1_2").await.expect("ends");
    assert!(said.contains("alert protocol version"), "{said}");
}
