//! One proxy, wired together. Nothing here is global, so several can live in one process.

#[cfg(feature = "dev")]
pub mod dev;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use outrigger_config::{Diagnostics, model};
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::json;
use thiserror::Error;
use tokio::runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::admin::{self, BreakerName, BreakerState, Readiness};
use crate::base::task;
use crate::cli::args::{LogArgs, RunArgs};
use crate::cli::{self, Report, logging};
use crate::discovery::apply::{COMMAND_LINE, Start};
use crate::discovery::material::watch_expiry;
use crate::discovery::xds::{self, StateError, StateFolder};
use crate::discovery::{Applier, LastGood, Parts, Status, Watch, jwks};
use crate::policy::breaker::Force;
use crate::proxy::Proxy;
use crate::server::shutdown::{self, Outcome, shutdown};
use crate::server::{ListenerSet, ListenerStatus, Workers, cpu, files, overload};
use crate::snapshot::{Snapshot, SnapshotCell};
use crate::telemetry::metrics::OverloadMetrics;
use crate::telemetry::{AccessLog, Metrics, metrics};
use crate::upstream::Registry;
use crate::upstream::breakers::BreakerOrder;
use crate::upstream::dns::SystemResolver;

/// What a proxy is started with.
#[derive(Debug, Clone)]
pub struct Options {
    /// Its configuration.
    pub config: Source,
    /// Where a copy of the last good configuration is kept, and with a control plane also the certificate.
    pub state_dir: Option<PathBuf>,
    /// How the log filter is shown and changed.
    pub log_filter: Arc<dyn LogFilter>,
}

/// Where a configuration is.
#[derive(Debug, Clone)]
pub enum Source {
    /// In a file, which is watched.
    File(PathBuf),
    /// Here: the text of a file that there is none of.
    Told(String),
}

/// The filter of the process's log.
pub trait LogFilter: std::fmt::Debug + Send + Sync + 'static {
    /// The filter in effect.
    fn get(&self) -> String;
    /// Changes it.
    ///
    /// # Errors
    /// What is wrong with it, in a sentence.
    fn set(&self, filter: &str) -> Result<(), String>;
}

/// Why a proxy did not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The configuration cannot be put into effect.
    #[error("{0}")]
    Config(Diagnostics),
    /// The admin server's address cannot be bound.
    #[error("the admin server cannot listen on {address}: {source}")]
    Admin {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// No worker threads.
    #[error("the worker threads cannot be started: {0}")]
    Workers(io::Error),
    /// No folder for what has to survive a restart.
    #[error("{0}")]
    State(#[from] StateError),
}

/// A running proxy. It belongs to the runtime it was started on, its control thread. Dropping it stops it at
/// once; [`App::shutdown`] does so gracefully.
#[derive(Debug)]
pub struct App {
    shared: Arc<Shared>,
    admin: Option<SocketAddr>,
    reload: mpsc::Sender<()>,
    /// Follows the configuration; ended before the listeners are closed.
    following: Mutex<Option<JoinHandle<()>>>,
    tasks: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    metrics: Arc<Metrics>,
    registry: Arc<Registry>,
    status: Arc<Status>,
    log: Arc<AccessLog>,
    log_filter: Arc<dyn LogFilter>,
    /// Set once, before the first configuration is in effect.
    listeners: Mutex<Option<Arc<ListenerSet<Proxy>>>>,
    readiness: watch::Sender<Readiness>,
}

/// How often what nobody uses any more is looked for.
const SWEEP: Duration = Duration::from_secs(10);
/// How long nothing must be heard of the configuration file before it is read.
const QUIET: Duration = Duration::from_millis(10);
/// The same of certificates and keys, which are replaced one after another.
const MATERIAL_QUIET: Duration = Duration::from_millis(100);
/// How long the end waits for the access log to be written.
const FLUSH: Duration = Duration::from_secs(1);

impl App {
    /// Starts a proxy on the current runtime. Its listeners are bound when this returns.
    ///
    /// # Errors
    /// See [`StartError`]; nothing is left running then.
    pub async fn start(options: Options) -> Result<Self, StartError> {
        let Options { config: source, state_dir, log_filter } = options;
        let last_good = state_dir.clone().map(LastGood::new);
        let (start, path) = match source {
            Source::File(path) => (Start::read(&path, last_good.as_ref()), Some(path)),
            Source::Told(text) => (Start::told(COMMAND_LINE, text), None),
        };
        let start = start.map_err(StartError::Config)?;
        let (loaded, tls) = (Arc::clone(start.loaded()), Arc::clone(start.tls()));
        let config = &loaded.config;
        // Before anything else is started: without it nothing would survive.
        let state = match &loaded.control_plane {
            Some(_) => Some(Arc::new(StateFolder::open(state_dir)?)),
            None => None,
        };

        let workers = config.workers.map_or_else(cpu::default_workers, usize::from);
        let workers = Workers::start(workers).map_err(StartError::Workers)?;
        let metrics = Metrics::new();
        let registry = Registry::new(workers.count(), Arc::clone(&metrics), Box::new(SystemResolver::default()));
        let log = AccessLog::off(&metrics);
        let (readiness, _) = watch::channel(Readiness::Starting);
        let shared = Arc::new(Shared {
            metrics: Arc::clone(&metrics),
            registry: Arc::clone(&registry),
            status: Arc::default(),
            log: Arc::clone(&log),
            log_filter,
            listeners: Mutex::default(),
            readiness,
        });
        let mut app = Self {
            shared: Arc::clone(&shared),
            admin: None,
            reload: mpsc::channel(1).0,
            following: Mutex::default(),
            tasks: Vec::new(),
        };
        // First of all, so that probes hear "not yet" instead of nothing.
        app.start_admin(config.admin.address).await?;

        registry.warm(config).await;
        jwks::prime(config, &registry);
        let first = Snapshot::compile((&loaded, &tls), &registry, &metrics, start.generation());
        let cell = Arc::new(SnapshotCell::new(first));
        let proxy = Arc::new(Proxy::new(Arc::clone(&cell), Arc::clone(&log)));
        let pressure = Arc::clone(proxy.pressure());
        overload::limit_connections(&pressure, &config.overload);
        let listeners = Arc::new(ListenerSet::new(workers, proxy, Arc::clone(&metrics)));
        *shared.listeners.lock() = Some(Arc::clone(&listeners));
        let control = state.zip(loaded.control_plane.clone()).map(|(state, plane)| {
            let (registry, metrics, status) = (Arc::clone(&registry), Arc::clone(&metrics), Arc::clone(&shared.status));
            let parts = xds::Parts { registry, metrics, status, state };
            (plane, parts)
        });
        let parts = Parts { registry, metrics, cell: Arc::clone(&cell), listeners, log };
        let mut watch = Watch::new("configuration", QUIET);
        watch.set(path.iter().cloned().collect());
        let applier =
            Applier::start(parts, start, (path, last_good), Arc::clone(&shared.status)).map_err(StartError::Config)?;
        let client = control.map(|(plane, parts)| {
            let (client, tasks) = xds::start(plane, &loaded, parts);
            app.tasks.extend(tasks);
            client
        });
        if client.is_none() {
            shared.begin_serving();
        }

        let (reload, asked) = mpsc::channel(1);
        app.reload = reload;
        let following = Following { applier, client, shared: Arc::clone(&shared) };
        *app.following.lock() = Some(task::spawn("follow-configuration", following.run(watch, asked)));
        let registry = Arc::clone(&shared.registry);
        app.tasks.push(task::spawn("keep-keys", jwks::keep(Arc::clone(&registry))));
        let checked = Arc::clone(&registry);
        app.tasks.push(task::spawn("keep-health", async move { checked.keep_health().await }));
        app.tasks.push(task::spawn("resolve-names", async move { registry.run().await }));
        app.tasks.push(task::spawn("watch-expiry", watch_expiry(Arc::clone(&shared.status.material))));
        app.tasks.push(task::spawn("watch-overload", overload::watch(pressure, Arc::clone(&shared))));
        app.tasks.push(task::spawn("sweep", sweep(Arc::clone(&shared), cell)));
        Ok(app)
    }

    async fn start_admin(&mut self, address: Option<SocketAddr>) -> Result<(), StartError> {
        let Some(address) = address else { return Ok(()) };
        let server = admin::Server::bind(address).await.map_err(|source| StartError::Admin { address, source })?;
        self.admin = Some(server.address());
        tracing::info!(address = %server.address(), "admin server");
        self.tasks.push(server.start(Arc::clone(&self.shared)));
        Ok(())
    }

    /// Reads the configuration and the certificates that it names again, and opens the access log again (as after
    /// SIGHUP).
    pub fn reload(&self) {
        self.shared.log.reopen();
        // One that is waiting is enough for both.
        let _ = self.reload.try_send(());
    }

    /// The listeners as they are now.
    #[must_use]
    pub fn listeners(&self) -> Vec<ListenerStatus> {
        self.shared.listener_status()
    }

    /// Where the admin server listens.
    #[must_use]
    pub fn admin(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// Waits until its first configuration is in effect, or it is told to go down. Cancel safe.
    pub async fn serving(&self) {
        let mut readiness = self.shared.readiness.subscribe();
        // The sender is ours: this cannot end otherwise.
        let _ = readiness.wait_for(|readiness| *readiness != Readiness::Starting).await;
    }

    /// Waits until somebody asked for a drain over the admin server. Cancel safe.
    pub async fn drain_requested(&self) {
        let mut readiness = self.shared.readiness.subscribe();
        // The sender is ours: this cannot end otherwise.
        let _ = readiness.wait_for(|readiness| *readiness == Readiness::Draining).await;
    }

    /// Goes down gracefully, as the configuration in effect says. Not cancel safe.
    pub async fn shutdown(&self) -> Outcome {
        self.shared.begin_drain();
        // A change would open again what is being closed.
        if let Some(following) = self.following.lock().take() {
            following.abort();
        }
        let timing = self.shared.status.running().map(|running| running.loaded.config.drain.clone());
        let listeners = self.shared.listeners.lock().clone();
        let outcome = match (timing, listeners) {
            (Some(timing), Some(listeners)) => {
                let model::Drain { accept_for, deadline } = &timing;
                tracing::info!(?accept_for, ?deadline, "draining");
                shutdown(&listeners, &timing).await
            }
            _ => Outcome::Finished,
        };
        match outcome {
            Outcome::Finished => tracing::info!("drained"),
            Outcome::Deadline { open } => tracing::warn!(open, "the drain deadline ended connections"),
        }
        if !self.shared.log.flush(FLUSH) {
            tracing::warn!("the end of the access log could not be written in time");
        }
        outcome
    }

    /// Closes everything at once, without a drain. Not cancel safe.
    pub async fn end(&self) {
        let listeners = self.shared.listeners.lock().clone();
        if let Some(listeners) = listeners {
            shutdown::end(&listeners).await;
        }
    }
}

impl Drop for App {
    fn drop(&mut self) {
        if let Some(following) = self.following.get_mut().take() {
            following.abort();
        }
        for task in &self.tasks {
            task.abort();
        }
        // A connection to the admin server may outlive this; the listeners do not.
        self.shared.listeners.lock().take();
    }
}

impl Shared {
    /// The first configuration is in effect.
    fn begin_serving(&self) {
        self.readiness.send_if_modified(|readiness| {
            // A drain may have been asked for already.
            let starting = *readiness == Readiness::Starting;
            *readiness = if starting { Readiness::Ready } else { *readiness };
            starting
        });
    }

    fn begin_drain(&self) {
        self.metrics.proxy.draining();
        self.readiness.send_replace(Readiness::Draining);
    }

    fn listener_status(&self) -> Vec<ListenerStatus> {
        self.listeners.lock().as_ref().map(|listeners| listeners.status()).unwrap_or_default()
    }
}

impl overload::Shrink for Shared {
    fn settings(&self) -> Option<model::Overload> {
        Some(self.status.running()?.loaded.config.overload.clone())
    }

    fn metrics(&self) -> &OverloadMetrics {
        &self.metrics.overload
    }

    fn close_idle(&self) {
        self.registry.close_idle();
    }
}

impl admin::Subject for Shared {
    fn readiness(&self) -> Readiness {
        *self.readiness.borrow()
    }

    fn shortage(&self) -> Option<&'static str> {
        self.metrics.overload.shortage()
    }

    fn config(&self) -> impl Serialize {
        self.status.report(|cluster| self.registry.assigned(cluster))
    }

    fn clusters(&self) -> impl Serialize {
        self.registry.status(Instant::now())
    }

    fn breakers(&self) -> impl Serialize {
        self.registry.breakers(Instant::now())
    }

    fn order_breaker(&self, name: &BreakerName, state: BreakerState) -> Result<impl Serialize + use<>, String> {
        let order = match name {
            BreakerName::Cluster(cluster) => BreakerOrder::Cluster(cluster.clone()),
            BreakerName::Endpoint(cluster, address) => BreakerOrder::Endpoint(cluster.clone(), *address),
            BreakerName::Rule(table, rule) => BreakerOrder::Rule(table.clone(), rule.clone()),
        };
        let force = match state {
            BreakerState::Open => Force::Open,
            BreakerState::Closed => Force::Closed,
            BreakerState::Auto => Force::Auto,
        };
        self.registry.order_breaker(&order, force, Instant::now()).map_err(|problem| problem.to_string())
    }

    fn listeners(&self) -> impl Serialize {
        let one = |status: ListenerStatus| {
            let ListenerStatus { name, address, direction, connections } = status;
            let direction = match direction {
                model::Direction::Inbound => "inbound",
                model::Direction::Outbound => "outbound",
            };
            json!({ "name": name, "address": address, "direction": direction, "connections": connections })
        };
        self.listener_status().into_iter().map(one).collect::<Vec<_>>()
    }

    fn certificates(&self) -> impl Serialize {
        self.status.material.report(SystemTime::now())
    }

    fn rehearsal(&self) -> impl Serialize {
        self.metrics.rehearsals.report(Instant::now())
    }

    fn metrics(&self) -> (String, &'static str) {
        self.registry.count_endpoints();
        (self.metrics.encode(), metrics::CONTENT_TYPE)
    }

    fn drain(&self) {
        self.begin_drain();
    }

    fn log_filter(&self) -> String {
        self.log_filter.get()
    }

    fn set_log_filter(&self, filter: &str) -> Result<(), String> {
        self.log_filter.set(filter)?;
        tracing::info!(filter, "log filter changed");
        Ok(())
    }
}

/// Runs a proxy until it is told to end.
#[must_use]
pub fn run(args: RunArgs) -> ExitCode {
    let RunArgs { config, control, state_dir, log } = args;
    if config.is_some() && control.is_given() {
        let problem = "settings of a control plane are for a start without a file; write them under `controlPlane` and \
                       `node` of the file";
        return Report::failure(format!("error: {problem}\n")).print();
    }
    let Some(config) = config.map(Source::File).or_else(|| control.bootstrap().map(Source::Told)) else {
        return Report::failure(
            "error: name a configuration file (--config) or a control plane (--control-plane)\n".to_owned(),
        )
        .print();
    };
    on_control_thread(&log, async |log_filter| run_until_told(Options { config, state_dir, log_filter }).await)
}

fn on_control_thread(log: &LogArgs, program: impl AsyncFnOnce(Arc<dyn LogFilter>) -> ExitCode) -> ExitCode {
    let log_filter = match logging::start(log) {
        Ok(filter) => Arc::new(filter),
        Err(problem) => return Report::failure(format!("error: {problem}\n")).print(),
    };
    match runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(program(log_filter)),
        Err(error) => Report::failure(format!("error: the control thread cannot be started: {error}\n")).print(),
    }
}

async fn run_until_told(options: Options) -> ExitCode {
    // Before anything is started, so that a signal in between is not the end of the process.
    let signals = signal(SignalKind::hangup())
        .and_then(|hup| Ok((hup, signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?)));
    let (mut hup, mut term, mut int) = match signals {
        Ok(signals) => signals,
        Err(error) => return Report::failure(format!("error: signals cannot be received: {error}\n")).print(),
    };
    let open_files = files::raise_limit();
    tracing::debug!(?open_files, "limit of open files");
    let app = match App::start(options).await {
        Ok(app) => app,
        Err(StartError::Config(problems)) => {
            let report = problems.render(cli::style(&io::stderr()));
            return Report::failure(format!("{report}\nerror: the configuration cannot be used\n")).print();
        }
        Err(error) => return Report::failure(format!("error: {error}\n")).print(),
    };
    loop {
        tokio::select! {
            Some(()) = hup.recv() => app.reload(),
            Some(()) = term.recv() => break,
            Some(()) = int.recv() => break,
            () = app.drain_requested() => break,
        }
    }
    tokio::select! {
        _ = app.shutdown() => ExitCode::SUCCESS,
        Some(()) = term.recv() => ended_at_once(&app).await,
        Some(()) = int.recv() => ended_at_once(&app).await,
    }
}

async fn ended_at_once(app: &App) -> ExitCode {
    tracing::warn!("a second signal ended the drain");
    app.end().await;
    ExitCode::FAILURE
}

impl LogFilter for logging::Filter {
    fn get(&self) -> String {
        Self::get(self)
    }

    fn set(&self, filter: &str) -> Result<(), String> {
        Self::set(self, filter)
    }
}

/// Keeps in effect what the configuration says, and the files that it names.
struct Following {
    applier: Applier,
    client: Option<xds::Client>,
    shared: Arc<Shared>,
}

impl Following {
    async fn run(mut self, mut watch: Watch, mut asked: mpsc::Receiver<()>) {
        let mut material = Watch::new("certificates", MATERIAL_QUIET);
        let Self { applier, client, shared } = &mut self;
        loop {
            material.set(applier.files());
            let look_again = applier.look_again();
            // All are cancel safe; a change during another's turn is found at the next wait.
            tokio::select! {
                Some(()) = asked.recv() => {
                    applier.reload(true).await;
                    applier.renew(true);
                }
                () = watch.changed() => applier.reload(false).await,
                () = material.changed() => applier.files_changed().await,
                () = pause(look_again) => applier.files_changed().await,
                client = due(client) => {
                    client.apply(applier).await;
                    if client.is_ready() {
                        shared.begin_serving();
                    }
                }
            }
        }
    }
}

/// Waits until something of a control plane has to be put into effect; for ever where there is none.
async fn due(client: &mut Option<xds::Client>) -> &mut xds::Client {
    match client {
        Some(client) => {
            client.due().await;
            client
        }
        None => std::future::pending().await,
    }
}

/// Waits so long; for ever where there is nothing to wait for.
async fn pause(time: Option<Duration>) {
    match time {
        Some(time) => tokio::time::sleep(time).await,
        None => std::future::pending().await,
    }
}

/// Lets go of what nobody uses any more.
async fn sweep(shared: Arc<Shared>, cell: Arc<SnapshotCell>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        // Snapshots first: what they held is unused from then on.
        cell.sweep();
        shared.registry.sweep(Instant::now());
        shared.metrics.sweep(Instant::now());
    }
}

#[cfg(test)]
mod tests;
