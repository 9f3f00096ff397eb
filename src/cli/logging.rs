//! The process's log on standard error.

use std::io;

use outrigger_config::Style;
use tracing::{Level, Metadata};
use tracing_subscriber::filter::{EnvFilter, filter_fn};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Registry, fmt, reload};

use super::args::{LogArgs, LogFormat};

/// Shows and changes the filter of the log.
#[derive(Debug)]
pub struct Filter(reload::Handle<EnvFilter, Registry>);

/// Starts the log, once in a process.
///
/// # Errors
/// What is wrong with the level, in a sentence.
pub fn start(args: &LogArgs) -> Result<Filter, String> {
    let (filter, handle) = reload::Layer::new(parse(&args.log_level)?);
    let registry = tracing_subscriber::registry().with(filter);
    let colours = super::style(&io::stderr()) == Style::Ansi;
    let layer = fmt::layer().with_writer(io::stderr).with_ansi(colours).with_target(false);
    let discreet = filter_fn(is_discreet);
    let started = match args.log_format {
        LogFormat::Text => registry.with(layer.with_filter(discreet)).try_init(),
        LogFormat::Json => registry.with(layer.json().flatten_event(true).with_filter(discreet)).try_init(),
    };
    started.map_err(|error| format!("the log cannot be started: {error}"))?;
    Ok(Filter(handle))
}

impl Filter {
    /// The filter in effect.
    #[must_use]
    pub fn get(&self) -> String {
        self.0.with_current(ToString::to_string).unwrap_or_default()
    }

    /// Changes it.
    ///
    /// # Errors
    /// What is wrong with it, in a sentence.
    pub fn set(&self, text: &str) -> Result<(), String> {
        let filter = parse(text)?;
        self.0.reload(filter).map_err(|error| format!("The filter could not be changed: {error}."))
    }
}

/// A level is that of our own modules; libraries say only what is wrong, and more at `trace`.
fn parse(text: &str) -> Result<EnvFilter, String> {
    let directives = match &*text.to_ascii_lowercase() {
        level @ ("off" | "error") => level.to_owned(),
        level @ ("warn" | "info" | "debug") => format!("warn,outrigger={level}"),
        "trace" => "debug,outrigger=trace".to_owned(),
        _ if text.contains('=') => text.to_owned(),
        _ => return Err(bad(text)),
    };
    EnvFilter::builder().parse(directives).map_err(|_| bad(text))
}

/// Whatever the filter asks for: this part of the HTTP/2 library writes out paths that it refuses, with their
/// queries, and tokens may be in them.
fn is_discreet(event: &Metadata<'_>) -> bool {
    event.target() != "h2::server" || *event.level() <= Level::INFO
}

fn bad(text: &str) -> String {
    format!("`{text}` is no log level: use error, warn, info, debug, trace, off, or module=level,…")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_directives_are_taken_and_words_are_not() {
        assert_eq!(parse("debug").expect("a level").to_string(), "outrigger=debug,warn");
        assert_eq!(parse("error").expect("a level").to_string(), "error");
        assert!(parse("outrigger::server=trace,warn").is_ok());
        for text in ["loudest", "", "3", "a=b=c"] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }
}
