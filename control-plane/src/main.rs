//! `outrigger-control`: see `--help`.

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use outrigger_config::Style;
use outrigger_control::check::check;

/// The control plane of the Outrigger service mesh.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check proxy configurations, and show every problem with its place and a fix.
    ///
    /// Exits with 0 when all would be accepted (warnings included), and with 1 otherwise.
    Check {
        /// Files, and directories whose .yaml and .yml files are checked.
        #[arg(required = true, value_name = "PATH")]
        paths: Vec<PathBuf>,
    },
}

fn main() -> anyhow::Result<ExitCode> {
    match Cli::parse().command {
        Command::Check { paths } => {
            let report = check(&paths);
            let mut out = std::io::stdout().lock();
            let plain = !out.is_terminal() || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
            out.write_all(report.render(if plain { Style::Plain } else { Style::Ansi }).as_bytes())?;
            out.flush()?;
            Ok(if report.has_errors() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
        }
    }
}
