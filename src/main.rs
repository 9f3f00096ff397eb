//! The `outrigger` program: reads the command line and hands over.

use std::io;
use std::process::ExitCode;

use clap::Parser as _;
use outrigger::app;
use outrigger::cli::{self, Cli, Command};

/// Gives memory back after a peak, which the system's allocator does not.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Run(args) => app::run(*args),
        Command::Check(args) => cli::check::run(&args, cli::style(&io::stderr())).print(),
        Command::Explain(args) => cli::explain::run(&args, cli::style(&io::stdout())).print(),
        #[cfg(feature = "dev")]
        Command::Dev(args) => app::dev::run(args),
        #[cfg(feature = "dev")]
        Command::Control(command) => app::dev::control(command),
        Command::Schema => cli::schema().print(),
        Command::Completions { shell } => cli::completions(shell).print(),
    }
}
