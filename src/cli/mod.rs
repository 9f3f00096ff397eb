//! Layer 10: the command line. What a command prints is made here; `main.rs` prints it.

pub mod args;
pub mod check;
#[cfg(feature = "dev")]
pub mod dev;
pub mod explain;
pub mod logging;

pub use args::{Cli, Command};

use std::io::{self, IsTerminal, Write as _};
use std::process::ExitCode;

use clap::CommandFactory as _;
use outrigger_config::Style;

/// What a command has to say, and how the process ends.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// For standard output.
    pub out: String,
    /// For standard error.
    pub err: String,
    /// The exit status.
    pub code: u8,
}

impl Report {
    /// A success.
    #[must_use]
    pub fn success(out: String) -> Self {
        Self { out, ..Self::default() }
    }

    /// A failure with its explanation.
    #[must_use]
    pub fn failure(err: String) -> Self {
        Self { err, code: 1, ..Self::default() }
    }

    /// Prints it. A reader that has gone away is no error: `outrigger schema | head` is fine.
    #[must_use]
    pub fn print(self) -> ExitCode {
        let printed = io::stdout()
            .write_all(self.out.as_bytes())
            .and_then(|()| io::stdout().flush())
            .and_then(|()| io::stderr().write_all(self.err.as_bytes()));
        match printed {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
            _ => ExitCode::from(self.code),
        }
    }
}

/// The JSON Schema of the configuration.
#[must_use]
pub fn schema() -> Report {
    Report::success(format!("{:#}\n", outrigger_config::json_schema()))
}

/// A completion script.
#[must_use]
pub fn completions(shell: clap_complete::Shell) -> Report {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "outrigger", &mut script);
    Report::success(String::from_utf8_lossy(&script).into_owned())
}

/// Colours on a terminal only, and not where `NO_COLOR` (<https://no-color.org>) is set.
#[must_use]
pub fn style(stream: &impl IsTerminal) -> Style {
    let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    if wanted && stream.is_terminal() { Style::Ansi } else { Style::Plain }
}
