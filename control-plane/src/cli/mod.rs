//! The commands. All but `serve`, `join`, `check`, `schema` and `crds` ask a control plane over its API.
//!
//! Results go to standard output, problems to standard error. The exit status is 0 when what was asked for was done, 1
//! when it was refused or something is wrong, and 2 when the arguments are.

use std::io::{self, Write as _};
use std::process::ExitCode;

use outrigger_config::Style;

use self::args::{CaCommand, Cli, Command, Output};
use self::client::ClientError;
use crate::check;

pub mod args;
mod authority;
mod changes;
pub mod client;
mod explain;
mod files;
mod history;
mod join;
mod logging;
mod objects;
mod run;
mod settings;
mod status;
mod table;
mod tokens;

/// What a command came to.
#[derive(Debug, Default)]
struct Done {
    /// For standard output.
    out: String,
    /// For standard error.
    problems: String,
    failed: bool,
}

impl Done {
    fn ok(out: String) -> Self {
        Self { out, ..Self::default() }
    }
}

/// Why a command did nothing.
#[derive(Debug, thiserror::Error)]
enum CommandError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("{0}")]
    Other(String),
}

/// Runs a command to its exit status.
pub async fn run(cli: Cli) -> ExitCode {
    let result = match cli.command {
        Command::Serve(args) => return run::serve(args).await,
        Command::Apply(args) => changes::apply(args).await,
        Command::Delete(args) => changes::delete(args).await,
        Command::Diff(args) => changes::diff(args).await,
        Command::Rollback(args) => changes::rollback(args).await,
        Command::History(args) => history::history(args).await,
        Command::Audit(args) => history::audit(args).await,
        Command::Get(args) => objects::get(args).await,
        Command::Status(args) => status::status(args).await,
        Command::Explain(args) => explain::explain(args).await,
        Command::Ca(CaCommand::Status { server, output }) => authority::status(&server, output).await,
        Command::Ca(CaCommand::Rotate { step, force, server, output }) => {
            authority::rotate(step, force, &server, output).await
        }
        Command::Token(command) => tokens::token(command).await,
        Command::Join(args) => join::join(args).await,
        Command::Schema { kind } => objects::schema(kind.as_deref()),
        Command::Crds => Ok(Done::ok(objects::crds())),
        Command::Check { paths } => {
            let report = check::check(&paths);
            Ok(Done { out: report.render(style(&io::stdout())), failed: report.has_errors(), ..Done::default() })
        }
    };
    let done = result.unwrap_or_else(|error| Done { problems: problems(&error), failed: true, ..Done::default() });
    // A reader that is gone wants nothing more.
    let _ = io::stdout().lock().write_all(done.out.as_bytes());
    let _ = io::stderr().lock().write_all(done.problems.as_bytes());
    if done.failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Every problem with its place, then the sentence.
fn problems(error: &CommandError) -> String {
    let mut out = String::new();
    if let CommandError::Client(ClientError::Refused(body)) = error {
        for problem in &body.problems {
            out.push_str(&problem.render());
            out.push('\n');
        }
        if body.left_out > 0 {
            out.push_str(&format!("… and {} more\n\n", body.left_out));
        }
    }
    out.push_str(&format!("error: {error}\n"));
    out
}

/// A result for programs.
fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default() + "\n"
}

fn no_yaml(output: Output) -> Result<(), CommandError> {
    if output == Output::Yaml {
        return Err(CommandError::Other("this command writes tables and JSON: -o table or -o json".to_owned()));
    }
    Ok(())
}

fn style(stream: &impl io::IsTerminal) -> Style {
    let plain = !stream.is_terminal() || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if plain { Style::Plain } else { Style::Ansi }
}
