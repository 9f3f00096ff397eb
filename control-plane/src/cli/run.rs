//! `serve`: the control plane until a signal.

use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use outrigger_config::spiffe::TrustDomain;
use tokio::signal::unix::{SignalKind, signal};

use super::args::ServeArgs;
use super::{CommandError, logging};
use crate::ca::ServingNames;
use crate::serve::{self, AccountFiles, FileConfig, Options};

/// Where everything is kept when nobody says.
const DATA: &str = "outrigger-data";

pub(super) async fn serve(args: ServeArgs) -> ExitCode {
    match run(args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr().lock(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: ServeArgs) -> Result<(), CommandError> {
    let other = |error: &dyn std::fmt::Display| CommandError::Other(error.to_string());
    logging::start(&args.log_level, args.log_format).map_err(|error| other(&error))?;
    // Before anything is started: a signal from now on ends it in order.
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| other(&error))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| other(&error))?;
    let running = serve::start(options(args)?).await.map_err(|error| other(&error))?;
    let mut out = format!("gRPC {}\nAPI {}\n", running.grpc(), running.api());
    if let Some(path) = running.admin_token_file() {
        out.push_str(&format!("the first admin token is in {}\n", path.display()));
    }
    // Whoever started this may read where it listens, and need not.
    let _ = io::stdout().lock().write_all(out.as_bytes());
    let _ = io::stdout().lock().flush();
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    running.stop().await;
    Ok(())
}

/// Arguments go before the file, and the file before the defaults.
fn options(args: ServeArgs) -> Result<Options, CommandError> {
    let other = |error: &dyn std::fmt::Display| CommandError::Other(error.to_string());
    let ServeArgs {
        config,
        data,
        directory,
        grpc,
        api,
        api_tls,
        trust_domain,
        names,
        service_account_keys,
        service_account_issuer,
        log_level: _,
        log_format: _,
    } = args;
    let accounts = service_account_keys.zip(service_account_issuer);
    let accounts = accounts.map(|(keys, issuer)| AccountFiles { keys, issuer });
    let file = match config {
        Some(path) => {
            let shown = path.display().to_string();
            let text = fs::read_to_string(&path).map_err(|error| CommandError::Other(format!("{shown}: {error}")))?;
            serve::read_config(&shown, &text).map_err(|error| other(&error))?
        }
        None => FileConfig::default(),
    };
    let trust_domain = match trust_domain {
        Some(text) => Some(
            TrustDomain::parse(&text)
                .map_err(|error| CommandError::Other(format!("`{text}` is not a trust domain: {error}")))?,
        ),
        None => file.trust_domain,
    };
    let defaults = Options::new(data.or(file.data).unwrap_or_else(|| PathBuf::from(DATA)));
    let mut own = file.names;
    let more = ServingNames::default();
    let ServingNames { mut dns, mut addresses } = more;
    for name in names {
        match name.parse() {
            Ok(address) => addresses.push(address),
            Err(_) => dns.push(name),
        }
    }
    own.dns.append(&mut dns);
    own.addresses.append(&mut addresses);
    Ok(Options {
        directory: directory.or(file.directory),
        grpc: grpc.or(file.grpc).unwrap_or(defaults.grpc),
        api: api.or(file.api).unwrap_or(defaults.api),
        api_tls: api_tls || file.api_tls.unwrap_or(false),
        trust_domain: trust_domain.unwrap_or(defaults.trust_domain),
        names: own,
        material: file.material,
        accounts: accounts.or(file.accounts),
        certificate_lifetime: file.certificate_lifetime,
        settle: file.settle,
        roles: file.roles,
        data: defaults.data,
    })
}
