//! The process's log on standard error.

use std::io;

use outrigger_config::Style;
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::args::LogFormat;

/// Starts the log, once in a process.
///
/// # Errors
/// What is wrong with the level, in a sentence.
pub(super) fn start(level: &str, format: LogFormat) -> Result<(), String> {
    let bad = || format!("`{level}` is no log level: use error, warn, info, debug, trace, off, or module=level,…");
    let directives = match &*level.to_ascii_lowercase() {
        word @ ("off" | "error") => word.to_owned(),
        word @ ("warn" | "info" | "debug" | "trace") => format!("warn,outrigger_control={word}"),
        _ if level.contains('=') => level.to_owned(),
        _ => return Err(bad()),
    };
    let filter = EnvFilter::builder().parse(directives).map_err(|_| bad())?;
    let registry = tracing_subscriber::registry().with(filter);
    let colours = super::style(&io::stderr()) == Style::Ansi;
    let layer = fmt::layer().with_writer(io::stderr).with_ansi(colours).with_target(false);
    let started = match format {
        LogFormat::Text => registry.with(layer).try_init(),
        LogFormat::Json => registry.with(layer.json().flatten_event(true)).try_init(),
    };
    started.map_err(|error| format!("the log cannot be started: {error}"))
}
