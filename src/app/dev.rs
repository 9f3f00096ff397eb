//! `outrigger dev` and `outrigger control`: the control plane in this process.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use outrigger_control::cli as control_cli;
use outrigger_control::fleet::Source as _;
use outrigger_control::peer::WorkloadKey;
use outrigger_control::serve::{self, Running};
use tokio::runtime;
use tokio::signal::unix::{SignalKind, signal};

use super::{App, LogFilter, Options, Source, on_control_thread};
use crate::cli::Report;
use crate::cli::args::DevArgs;
use crate::cli::dev::{self, Dev, Local, Requests};

/// How long a join token is good: its proxy starts at once.
const TOKEN_LIFETIME: Duration = Duration::from_secs(600);
/// Within this every proxy has its first configuration.
const START_LIMIT: Duration = Duration::from_secs(30);

/// Runs a mesh until it is told to end, or asks it once.
#[must_use]
pub fn run(args: DevArgs) -> ExitCode {
    on_control_thread(&args.log.clone(), async |log_filter| match mesh(args, log_filter).await {
        Ok(report) => report.print(),
        Err(problem) => Report::failure(format!("error: {problem}\n")).print(),
    })
}

/// Runs a command of the control plane.
#[must_use]
pub fn control(command: control_cli::args::Command) -> ExitCode {
    match runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(control_cli::run(control_cli::args::Cli { command })),
        Err(error) => Report::failure(format!("error: no threads can be started: {error}\n")).print(),
    }
}

async fn mesh(args: DevArgs, log_filter: Arc<dyn LogFilter>) -> Result<Report, String> {
    let DevArgs { directory, once, log: _ } = args;
    let requests = if once { Requests::Hidden } else { Requests::Shown };
    let shown = directory.as_ref().map(|path| format!("{}: ", path.display())).unwrap_or_default();
    let dev = Dev::prepare(directory, requests).map_err(|error| format!("{shown}it cannot be set up: {error}"))?;
    let control = serve::start(dev.control_plane()).await.map_err(|error| error.to_string())?;
    let outcome = Mesh { dev, control, log_filter, proxies: BTreeMap::new(), served: Vec::new() }.run(once).await;
    outcome.map_err(|error| format!("{shown}{error}"))
}

struct Mesh {
    dev: Dev,
    control: Running,
    log_filter: Arc<dyn LogFilter>,
    proxies: BTreeMap<WorkloadKey, (Local, App)>,
    served: Vec<SocketAddr>,
}

impl Mesh {
    async fn run(mut self, once: bool) -> Result<Report, String> {
        let mut changes = self.control.engine().publisher().changes();
        self.follow().await?;
        if self.proxies.is_empty() {
            let what = "no workload of these manifests is on this machine: none has a loopback `address`";
            return Err(what.to_owned());
        }
        let ready = async {
            for (_, app) in self.proxies.values() {
                app.serving().await;
            }
        };
        if tokio::time::timeout(START_LIMIT, ready).await.is_err() {
            return Err(format!("a proxy had no configuration within {START_LIMIT:?}; the log says more"));
        }
        if once {
            return Ok(self.dev.ask(&self.list()).await);
        }
        // Printed now; what is returned is printed at the end.
        let _ = Report::success(self.dev.intro(&self.list(), &self.served)).print();
        let say = |error: std::io::Error| format!("signals cannot be received: {error}");
        let mut term = signal(SignalKind::terminate()).map_err(say)?;
        loop {
            tokio::select! {
                interrupted = tokio::signal::ctrl_c() => { interrupted.map_err(say)?; break }
                _ = term.recv() => break,
                changed = changes.changed() => match changed {
                    // What runs goes on; the next change may bring what is missing.
                    Ok(()) => if let Err(problem) = self.follow().await {
                        tracing::error!(problem, "a workload of this machine cannot be started");
                    },
                    Err(_) => break,
                },
            }
        }
        self.proxies.clear();
        self.control.stop().await;
        Ok(Report::default())
    }

    /// Starts the proxies of workloads that are new, and ends those of workloads that are gone. Demo services are started
    /// where applications have moved to.
    async fn follow(&mut self) -> Result<(), String> {
        let locals = dev::locals(&self.control.engine().view().mesh);
        let gone: Vec<WorkloadKey> = self.proxies.keys().filter(|key| !locals.contains_key(key)).cloned().collect();
        for key in gone {
            tracing::info!(workload = %key, "its manifest is gone: the proxy ends");
            self.proxies.remove(&key);
        }
        for (key, local) in locals {
            if self.proxies.get(&key).is_some_and(|(known, _)| *known == local) {
                continue;
            }
            self.served.extend(dev::start_services(&local).map_err(|error| format!("a demo service: {error}"))?);
            let app = match self.proxies.remove(&key) {
                // It hears from the control plane what has changed.
                Some((_, app)) => app,
                None => self.start(&local).await.map_err(|error| format!("the proxy of {key}: {error}"))?,
            };
            self.proxies.insert(key, (local, app));
        }
        Ok(())
    }

    async fn start(&self, local: &Local) -> Result<App, String> {
        let (tokens, key) = (self.control.join_tokens().clone(), local.key.clone());
        let made = tokio::task::spawn_blocking(move || tokens.create(&key, TOKEN_LIFETIME, "outrigger dev"));
        let (token, _) = made.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        let bootstrap = self.dev.bootstrap(local, token.reveal(), self.control.bundle_file());
        let dev::Bootstrap { text, state } = bootstrap.map_err(|error| error.to_string())?;
        let log_filter = Arc::clone(&self.log_filter);
        let options = Options { config: Source::Told(text), state_dir: Some(state), log_filter };
        App::start(options).await.map_err(|error| error.to_string())
    }

    fn list(&self) -> Vec<(Local, Option<SocketAddr>)> {
        self.proxies.values().map(|(local, app)| (local.clone(), app.admin())).collect()
    }
}
