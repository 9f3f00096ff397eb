//! A control plane that only issues certificates, and those who ask it for them.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyper_util::rt::TokioIo;
use outrigger_config::spiffe::TrustDomain;
use outrigger_control::ca::{
    Authority, Clock as _, Event, IdentityService, Issuing, JoinTokens, ManualClock, MaterialFiles, MemoryAudit,
    MemoryRegistrations, MemoryTokens, Outcome, Registered, ServiceAccounts, Serving, ServingNames, Settings,
};
use outrigger_control::peer::WorkloadKey;
use outrigger_control::tls::{self, Door, Mode, Speaks};
use outrigger_xds::control::identity_client::IdentityClient;
use outrigger_xds::control::issue_request::Proof;
use outrigger_xds::control::{IssueRequest, IssueResponse};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, SanType};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Code, Status};

pub const HOUR: Duration = Duration::from_secs(3600);
pub const DAY: Duration = Duration::from_secs(86_400);
pub const ID: &str = "spiffe://mesh.local/ns/shop/sa/payments";

/// A control plane.
pub struct Plane {
    pub folder: TempDir,
    pub clock: Arc<ManualClock>,
    pub authority: Arc<Authority>,
    pub serving: Arc<Serving>,
    pub registrations: Arc<MemoryRegistrations>,
    pub audit: Arc<MemoryAudit>,
    pub tokens: JoinTokens,
    pub address: SocketAddr,
    server: JoinHandle<()>,
}

/// A certificate and its key.
pub struct Credential {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: KeyPair,
}

pub fn start() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

pub fn key(text: &str) -> WorkloadKey {
    WorkloadKey::parse(text).expect("a workload")
}

impl Plane {
    /// With the workload `shop/payments-1`, which runs as `payments`.
    pub async fn new() -> Self {
        Self::with_accounts(None).await
    }

    /// And with a cluster's key set in a file.
    pub async fn with_accounts(keys: Option<(&Path, &str)>) -> Self {
        Self::build(keys, None).await
    }

    /// With an authority made elsewhere.
    pub async fn with_material(material: MaterialFiles) -> Self {
        Self::build(None, Some(material)).await
    }

    async fn build(keys: Option<(&Path, &str)>, material: Option<MaterialFiles>) -> Self {
        let folder = TempDir::new().expect("a folder");
        let clock = Arc::new(ManualClock::at(start()));
        let audit = Arc::new(MemoryAudit::default());
        let domain = TrustDomain::parse("mesh.local").expect("a trust domain");
        let settings = Settings { material, ..Settings::new(domain, folder.path().join("ca")) };
        let authority = Authority::open(settings, clock.clone(), audit.clone()).expect("an authority");
        let authority = Arc::new(authority);
        let names = ServingNames { dns: vec!["localhost".into()], addresses: vec![Ipv4Addr::LOCALHOST.into()] };
        let serving = Arc::new(Serving::new(Arc::clone(&authority), names).expect("a certificate"));
        let registrations = Arc::new(MemoryRegistrations::default());
        let store = Arc::new(MemoryTokens::default());
        let tokens = JoinTokens::new(store.clone(), registrations.clone(), audit.clone(), clock.clone());
        let mut issuing = Issuing::new(Arc::clone(&authority), registrations.clone(), store, audit.clone());
        if let Some((path, issuer)) = keys {
            issuing = issuing.with_accounts(Arc::new(ServiceAccounts::open(path, issuer).expect("a key set")));
        }
        let door = Door::open(
            SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            Mode::Tls(Arc::clone(&serving)),
            Speaks::Grpc,
            tls::limits::CONNECTIONS,
        );
        let door = door.await.expect("a door");
        let address = door.address();
        let service = IdentityService::new(Arc::new(issuing)).into_server();
        let server = tokio::spawn(async move {
            Server::builder().add_service(service).serve_with_incoming(door).await.expect("served");
        });
        let plane = Self { folder, clock, authority, serving, registrations, audit, tokens, address, server };
        plane.register("payments-1", "payments");
        plane
    }

    /// Registers a workload in `shop`.
    pub fn register(&self, name: &str, account: &str) {
        let (namespace, name) = ("shop".to_owned(), name.to_owned());
        self.registrations.insert(Registered { namespace, name, service_account: account.to_owned() });
    }

    /// A join token for a workload in `shop`.
    pub fn token(&self, name: &str) -> String {
        let made = self.tokens.create(&key(&format!("shop/{name}")), HOUR, "test").expect("a token");
        made.0.reveal().to_owned()
    }

    /// Asks on a connection of its own.
    pub async fn ask(&self, credential: Option<&Credential>, request: IssueRequest) -> Result<IssueResponse, Status> {
        let mut client = IdentityClient::new(self.channel(credential).await?);
        client.issue(request).await.map(tonic::Response::into_inner)
    }

    /// A connection; with a certificate or without. That a server does not believe it comes out with the first call.
    pub async fn channel(&self, credential: Option<&Credential>) -> Result<Channel, Status> {
        let (config, address) = (self.client(credential), self.address);
        let connect = tower::service_fn(move |_| {
            let connector = TlsConnector::from(Arc::clone(&config));
            async move {
                let tcp = TcpStream::connect(address).await?;
                let name = ServerName::try_from("localhost").expect("a name");
                connector.connect(name, tcp).await.map(TokioIo::new)
            }
        });
        let endpoint = Endpoint::from_static("http://localhost").timeout(Duration::from_secs(20));
        endpoint.connect_with_connector(connect).await.map_err(|error| Status::unavailable(error.to_string()))
    }

    /// How a client speaks TLS that knows the roots.
    pub fn client(&self, credential: Option<&Credential>) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        for root in self.authority.bundle().certificates() {
            roots.add(root.clone()).expect("a root");
        }
        let builder = ClientConfig::builder_with_details(tls::provider(), Arc::new(Time(Arc::clone(&self.clock))))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots);
        let mut config = match credential {
            None => builder.with_no_client_auth(),
            Some(Credential { chain, key }) => {
                let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
                builder.with_client_auth_cert(chain.clone(), key).expect("a credential")
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Arc::new(config)
    }

    /// Joins with a new token.
    pub async fn join(&self, name: &str) -> Credential {
        let key = new_key();
        let response = self.ask(None, with_token(&key, &self.token(name))).await.expect("a certificate");
        Credential { chain: chain(&response), key }
    }

    /// The last event about a certificate.
    pub fn last_event(&self) -> Event {
        let events = self.audit.events();
        events.into_iter().rfind(|event| event.action == "certificate.issue").expect("an event")
    }

    /// Expects a refusal with a status and a word in the record, which must hold no secret.
    pub fn check_refused(
        &self,
        result: Result<IssueResponse, Status>,
        (code, word): (Code, &'static str),
        secret: &str,
    ) {
        let status = result.expect_err("refused");
        assert_eq!((status.code(), status.details()), (code, &[][..]), "{status:?}");
        let event = self.last_event();
        assert_eq!(event.outcome, Outcome::Refused(word), "{event:?}");
        assert_eq!(event.address.map(|address| address.ip()), Some(Ipv4Addr::LOCALHOST.into()));
        assert!(secret.is_empty() || !format!("{event:?} {status:?}").contains(secret), "{event:?}");
    }

    pub fn now(&self) -> SystemTime {
        self.clock.now()
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        self.server.abort();
    }
}

pub fn new_key() -> KeyPair {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key")
}

/// A signing request that asks for these names.
pub fn request_for(key: &KeyPair, names: &[&str]) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = names.iter().map(|name| SanType::URI((*name).try_into().expect("a URI"))).collect();
    params.serialize_request(key).expect("a request").der().to_vec()
}

pub fn with_token(key: &KeyPair, token: &str) -> IssueRequest {
    IssueRequest {
        certificate_signing_request: request_for(key, &[]),
        proof: Some(Proof::JoinToken(token.to_owned())),
        workload: String::new(),
    }
}

pub fn without_proof(key: &KeyPair) -> IssueRequest {
    IssueRequest { certificate_signing_request: request_for(key, &[]), proof: None, workload: String::new() }
}

pub fn chain(response: &IssueResponse) -> Vec<CertificateDer<'static>> {
    response.certificate_chain.iter().map(|der| CertificateDer::from(der.clone())).collect()
}

/// A clock for a TLS library.
pub struct Time(pub Arc<ManualClock>);

impl TimeProvider for Time {
    fn current_time(&self) -> Option<UnixTime> {
        self.0.now().duration_since(UNIX_EPOCH).ok().map(UnixTime::since_unix_epoch)
    }
}

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Time")
    }
}
