//! The control plane as one process: everything is made here and put together.
//!
//! Two ports: gRPC (ADS and `Identity`), always with TLS, because who a proxy is stands in its certificate; and REST,
//! which may go without on loopback. What is stored is loaded and compiled first, then the watched directory is read,
//! and only then are the ports opened, so that no proxy is told of an empty mesh.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use outrigger_config::spiffe::TrustDomain;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::api::{self, Api, Roles, Server};
use crate::ca::{
    AccountsError, Authority, AuthorityError, Confirmations, IdentityService, Issuing, JoinTokens, MaterialFiles,
    ServiceAccounts, Serving, ServingNames, Settings, SystemClock,
};
use crate::engine::{Directory, Engine, Publisher};
use crate::fleet::{Fleet, Lost};
use crate::store::{Sqlite, Store, StoreError};
use crate::tls::{Door, DoorError, Mode, Speaks, limits};
use crate::xds::{self, Ads};

mod adapters;
mod config;
mod first_token;
mod recorder;

pub use config::{AccountFiles, ConfigError, FileConfig, duration, read as read_config};

use self::adapters::{AuditStore, Confirmed, JoinTokenStore};
use self::recorder::{Recording, StoreRecorder};

/// The gRPC port when nobody says.
pub const GRPC_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 15010);
/// The REST port when nobody says.
pub const API_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 15014);
/// How often a rotation of roots is looked at.
const ROTATION_INTERVAL: Duration = Duration::from_secs(60);
/// Streams and requests get this long to end when the process stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// What is stored is compiled within this, or the ports are opened without.
const FIRST_COMPILE: Duration = Duration::from_secs(60);

/// How a control plane is to be.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where everything is kept that outlives the process. Made when it is not there, owner only.
    pub data: PathBuf,
    /// A directory of manifests that is watched.
    pub directory: Option<PathBuf>,
    /// Where proxies connect.
    pub grpc: SocketAddr,
    /// Where people and pipelines connect.
    pub api: SocketAddr,
    /// Whether the API has TLS on loopback too; elsewhere it always has.
    pub api_tls: bool,
    /// Whose identities are issued.
    pub trust_domain: TrustDomain,
    /// Names in the certificate of the control plane, beside its SPIFFE ID, `localhost` and the loopback addresses.
    pub names: ServingNames,
    /// An authority that was made elsewhere.
    pub material: Option<MaterialFiles>,
    /// A cluster whose service account tokens are believed, beside join tokens.
    pub accounts: Option<AccountFiles>,
    /// How long certificates are valid (default: 24 hours).
    pub certificate_lifetime: Option<Duration>,
    /// How long a new root is known at least before it signs (default: five minutes).
    pub settle: Option<Duration>,
    /// Roles of client certificates of the API, by SPIFFE ID.
    pub roles: Roles,
}

impl Options {
    /// The defaults, with everything kept in `data`.
    ///
    /// # Panics
    /// Never: the default trust domain is one.
    #[must_use]
    pub fn new(data: PathBuf) -> Self {
        Self {
            data,
            directory: None,
            grpc: GRPC_ADDRESS,
            api: API_ADDRESS,
            api_tls: false,
            trust_domain: TrustDomain::parse(crate::manifest::DEFAULT_TRUST_DOMAIN)
                .expect("the default trust domain is one"),
            names: ServingNames::default(),
            material: None,
            accounts: None,
            certificate_lifetime: None,
            settle: None,
            roles: Roles::new(),
        }
    }
}

/// Why there is no control plane.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data folder cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The authority cannot be used.
    #[error("the certificate authority: {0}")]
    Authority(#[from] AuthorityError),
    /// The key set of the cluster cannot be used.
    #[error("the keys of service accounts: {0}")]
    Accounts(#[from] AccountsError),
    /// A port cannot be opened.
    #[error(transparent)]
    Door(#[from] DoorError),
    /// Something of the system failed.
    #[error("{what}: {source}")]
    System {
        /// What was done.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// The system gave no random numbers.
    #[error("the system gave no random numbers")]
    Random,
}

/// A control plane that runs.
pub struct Running {
    store: Arc<dyn Store>,
    engine: Arc<Engine>,
    fleet: Fleet,
    authority: Arc<Authority>,
    join_tokens: JoinTokens,
    grpc: SocketAddr,
    api: SocketAddr,
    bundle: PathBuf,
    admin_token: Option<PathBuf>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
    recording: Recording,
}

/// Starts a control plane. When this returns, both ports are open, and what is stored and what stands in the directory is
/// compiled.
///
/// # Errors
/// See [`StartError`]; then nothing runs.
pub async fn start(options: Options) -> Result<Running, StartError> {
    let base = tokio::task::spawn_blocking({
        let options = options.clone();
        move || Base::open(&options)
    });
    let base = base.await.map_err(|error| system("starting", io::Error::other(error)))??;
    let Base { store, authority, accounts, serving, engine, admin_token, bundle } = base;
    let publisher = engine.publisher().clone();

    let (stop, stopped) = watch::channel(false);
    let mut tasks = JoinSet::new();
    if let Some(path) = &options.directory {
        let mut directory = Directory::new(Arc::clone(&engine), path.clone());
        directory.look().await;
        tasks.spawn(until(stopped.clone(), directory.follow()));
    }
    wait_until_compiled(&publisher).await;

    let lost = Arc::new(Lost::default());
    let recorder = StoreRecorder::start(Arc::clone(&store), Arc::clone(&lost));
    let (recorder, recording) = recorder.map_err(|error| system("starting a thread", error))?;
    let fleet = Fleet::new(Arc::new(recorder));
    let confirmations: Arc<dyn Confirmations> = Arc::new(Confirmed::new(fleet.clone(), publisher.clone()));
    let tokens = Arc::new(JoinTokenStore::new(Arc::clone(&store)));
    let audit = Arc::new(AuditStore::new(Arc::clone(&store)));
    let registrations = Arc::new(publisher.clone());
    let join_tokens = JoinTokens::new(tokens.clone(), registrations.clone(), audit.clone(), Arc::new(SystemClock));
    let mut issuing = Issuing::new(Arc::clone(&authority), registrations, tokens, audit);
    if let Some(accounts) = accounts {
        issuing = issuing.with_accounts(accounts);
    }

    let doors = open_doors(&options, &serving).await?;
    let (grpc, api) = (doors.grpc.address(), doors.api.address());
    let ads = Ads::new(Arc::new(publisher.clone()), fleet.clone()).until(stopped.clone());
    let router = tonic::service::Routes::new(ads.into_service())
        .add_service(IdentityService::new(Arc::new(issuing)).into_server());
    let server = xds::tune(tonic::transport::Server::builder()).add_routes(router);
    tasks.spawn(serve_grpc(server, doors.grpc, stopped.clone()));
    let parts = api::Parts {
        engine: Arc::clone(&engine),
        store: Arc::clone(&store),
        fleet: fleet.clone(),
        authority: Arc::clone(&authority),
        join_tokens: join_tokens.clone(),
        confirmations: Arc::clone(&confirmations),
        roles: options.roles,
        lost,
    };
    let server = Server::new(api::router(&Api::new(parts)));
    tasks.spawn(server.serve(doors.api, stopped.clone()));
    tasks.spawn(until(stopped.clone(), follow_bundle(Arc::clone(&authority), publisher, bundle.clone())));
    tasks.spawn(until(stopped, rotate(Arc::clone(&authority), confirmations)));
    tracing::info!(%grpc, %api, trust_domain = authority.trust_domain().as_str(), "the control plane runs");
    Ok(Running { store, engine, fleet, authority, join_tokens, grpc, api, bundle, admin_token, stop, tasks, recording })
}

impl Running {
    /// Where proxies connect, the port filled in.
    #[must_use]
    pub fn grpc(&self) -> SocketAddr {
        self.grpc
    }

    /// Where people and pipelines connect, the port filled in.
    #[must_use]
    pub fn api(&self) -> SocketAddr {
        self.api
    }

    /// What outlives the process.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Generations and what becomes of them.
    #[must_use]
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// Proxies.
    #[must_use]
    pub fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    /// The authority.
    #[must_use]
    pub fn authority(&self) -> &Arc<Authority> {
        &self.authority
    }

    /// Makes join tokens.
    #[must_use]
    pub fn join_tokens(&self) -> &JoinTokens {
        &self.join_tokens
    }

    /// The file with the roots of the mesh, PEM, kept up to date: by them the control plane is verified.
    #[must_use]
    pub fn bundle_file(&self) -> &Path {
        &self.bundle
    }

    /// The file with the first admin token, when it was made at this start.
    #[must_use]
    pub fn admin_token_file(&self) -> Option<&Path> {
        self.admin_token.as_deref()
    }

    /// Ends in order: no new connections, streams are closed, requests are answered.
    pub async fn stop(mut self) {
        let _ = self.stop.send(true);
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(STOP_TIMEOUT, ended).await.is_err() {
            tracing::warn!("some connections were cut off by the stop");
        }
        self.tasks.shutdown().await;
        let (publisher, recording) = (self.engine.publisher().clone(), self.recording);
        let ended = tokio::task::spawn_blocking(move || {
            publisher.stop();
            recording.end();
        });
        if let Err(error) = ended.await {
            tracing::error!(%error, "a thread could not be ended");
        }
        tracing::info!("the control plane has stopped");
    }
}

/// What is opened from the disk.
struct Base {
    store: Arc<dyn Store>,
    authority: Arc<Authority>,
    accounts: Option<Arc<ServiceAccounts>>,
    serving: Arc<Serving>,
    engine: Arc<Engine>,
    admin_token: Option<PathBuf>,
    bundle: PathBuf,
}

impl Base {
    fn open(options: &Options) -> Result<Self, StartError> {
        let store: Arc<dyn Store> = Arc::new(Sqlite::open(&options.data)?);
        let mut settings = Settings::new(options.trust_domain.clone(), options.data.join("ca"));
        settings.material.clone_from(&options.material);
        settings.lifetime = options.certificate_lifetime.unwrap_or(settings.lifetime);
        settings.settle = options.settle.unwrap_or(settings.settle);
        let audit = Arc::new(AuditStore::new(Arc::clone(&store)));
        let authority = Arc::new(Authority::open(settings, Arc::new(SystemClock), audit)?);
        let accounts = options.accounts.as_ref().map(|files| ServiceAccounts::open(&files.keys, &files.issuer));
        let accounts = accounts.transpose()?.map(Arc::new);
        let bundle = options.data.join("bundle.pem");
        first_token::write(&bundle, authority.bundle_pem().as_bytes())
            .map_err(|error| system(&format!("writing {}", bundle.display()), error))?;
        let serving = Arc::new(Serving::new(Arc::clone(&authority), names(options))?);
        let publisher = Publisher::start(authority.bundle()).map_err(|error| system("starting a thread", error))?;
        let engine = Arc::new(Engine::open(Arc::clone(&store), options.trust_domain.clone(), publisher)?);
        let admin_token = first_token::ensure(&*store, &options.data)?;
        Ok(Self { store, authority, accounts, serving, engine, admin_token, bundle })
    }
}

fn names(options: &Options) -> ServingNames {
    let mut names = options.names.clone();
    names.dns.push("localhost".to_owned());
    let own = [options.grpc.ip(), options.api.ip()].into_iter().filter(|ip| !ip.is_unspecified());
    let loopback = ["127.0.0.1", "::1"].into_iter().filter_map(|text| text.parse().ok());
    names.addresses.extend(own.chain(loopback));
    names.dns.sort();
    names.dns.dedup();
    names.addresses.sort();
    names.addresses.dedup();
    names
}

struct Doors {
    grpc: Door,
    api: Door,
}

async fn open_doors(options: &Options, serving: &Arc<Serving>) -> Result<Doors, StartError> {
    let tls = || Mode::Tls(Arc::clone(serving));
    let grpc = Door::open(options.grpc, tls(), Speaks::Grpc, limits::CONNECTIONS).await?;
    let plain = options.api.ip().is_loopback() && !options.api_tls;
    let mode = if plain { Mode::Plaintext } else { tls() };
    let api = Door::open(options.api, mode, Speaks::Rest, limits::CONNECTIONS).await?;
    Ok(Doors { grpc, api })
}

async fn serve_grpc(server: tonic::transport::server::Router, door: Door, mut stopped: watch::Receiver<bool>) {
    let stop = async move {
        // Without a sender nobody can stop us any more: the same as a stop.
        let _ = stopped.wait_for(|stop| *stop).await;
    };
    if let Err(error) = server.serve_with_incoming_shutdown(door, stop).await {
        tracing::error!(%error, "the gRPC server has ended");
    }
}

/// Does something until the process stops.
async fn until(mut stopped: watch::Receiver<bool>, work: impl Future<Output = ()>) {
    tokio::select! {
        () = work => {}
        _ = stopped.wait_for(|stop| *stop) => {}
    }
}

async fn wait_until_compiled(publisher: &Publisher) {
    if timeout(FIRST_COMPILE, publisher.settled()).await.is_err() {
        tracing::warn!("what is stored is still being compiled; the ports are opened nevertheless");
    }
}

/// Hands new roots on to proxies, and to the file.
async fn follow_bundle(authority: Arc<Authority>, publisher: Publisher, path: PathBuf) {
    let mut changes = authority.watch();
    while changes.changed().await.is_ok() {
        let roots = authority.bundle();
        let pem = roots.pem();
        publisher.publish_roots(roots);
        let file = path.clone();
        let written = tokio::task::spawn_blocking(move || first_token::write(&file, pem.as_bytes())).await;
        if let Ok(Err(error)) = written {
            tracing::error!(%error, path = %path.display(), "the new roots could not be written");
        }
    }
}

/// Goes on with a rotation of roots whenever that is safe.
async fn rotate(authority: Arc<Authority>, confirmations: Arc<dyn Confirmations>) {
    let mut ticks = interval(ROTATION_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let (authority, confirmations) = (Arc::clone(&authority), Arc::clone(&confirmations));
        let step = tokio::task::spawn_blocking(move || authority.advance(&*confirmations)).await;
        match step {
            Ok(Ok(Some(step))) => tracing::info!(?step, "the rotation of roots went on"),
            Ok(Ok(None)) => {}
            Ok(Err(error)) => tracing::error!(%error, "the rotation of roots could not go on"),
            Err(error) => tracing::error!(%error, "the rotation of roots has panicked"),
        }
    }
}

fn system(what: &str, source: io::Error) -> StartError {
    StartError::System { what: what.to_owned(), source }
}
