//! Commands and their arguments.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use http::{HeaderName, HeaderValue, Method};
use outrigger_config::spiffe::SpiffeId;

/// A service mesh sidecar: HTTP/1.1, HTTP/2 and gRPC, routed and balanced per request.
#[derive(Debug, Parser)]
#[command(name = "outrigger", version, max_term_width = 100, after_help = EXAMPLES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  outrigger dev                                     a demo on this machine, and what to curl
  outrigger check proxy.yaml                        is it right?
  outrigger run --config proxy.yaml                 run it; saving the file applies it
  outrigger explain --config proxy.yaml http://payments/v1/charges
                                                    where would this request go, and why?";

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the proxy
    ///
    /// The configuration file is watched and applied live, without closing a connection; SIGHUP reads it now. A
    /// file with a mistake changes nothing: the mistake is logged with its place and shown at /config of the
    /// admin server. SIGTERM or SIGINT drain and end the process; a second one ends it at once.
    Run(RunArgs),
    /// Check configuration files
    ///
    /// Shows every problem with its place, its line and a fix. Certificates, keys and bundles that a file names are
    /// read and checked too, as a start would. The exit status is 1 when a file has errors; warnings alone are fine.
    #[command(after_help = "Examples:\n  outrigger check proxy.yaml\n  outrigger check --format json *.yaml\n  \
                            generate | outrigger check -")]
    Check(CheckArgs),
    /// Explain what would happen to a request
    ///
    /// Shows the listener, the host and the rule that take it and why the rules before lost, whether the caller may
    /// make it and what decides that, the cluster and its endpoints, and every limit that applies with the place that
    /// set it. Nothing is sent.
    #[command(after_help = "Examples:\n  outrigger explain --config proxy.yaml http://payments/v1/charges\n  \
                            outrigger explain --config proxy.yaml POST http://payments/v1/charges -H 'x-canary: true'\n  \
                            outrigger explain --config proxy.yaml --listener inbound http://app/health --format json\n  \
                            outrigger explain --config proxy.yaml --listener inbound http://app/v1 \\\n    \
                            --identity spiffe://mesh.local/ns/shop/sa/cart --from 10.1.2.3")]
    Explain(ExplainArgs),
    /// Run a demo on this machine: two services, a proxy beside each
    ///
    /// Prints what to curl, and where the configurations are: change one and save it. Ctrl-C ends it.
    Dev(DevArgs),
    /// Print the JSON Schema of the configuration
    ///
    /// For editors: with the YAML language server, write
    /// `# yaml-language-server: $schema=outrigger.schema.json` at the top of a configuration.
    #[command(after_help = "Example:\n  outrigger schema > outrigger.schema.json")]
    Schema,
    /// Print a completion script for a shell
    #[command(after_help = "Example:\n  outrigger completions bash > /etc/bash_completion.d/outrigger")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// Arguments of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The configuration file
    #[arg(long, short, value_name = "FILE", env = "OUTRIGGER_CONFIG")]
    pub config: PathBuf,
    /// Keep a copy of the last good configuration in this folder, for a start when the file is broken
    #[arg(long, value_name = "DIR", env = "OUTRIGGER_STATE_DIR")]
    pub state_dir: Option<PathBuf>,
    /// How the log on standard error is written
    #[command(flatten)]
    pub log: LogArgs,
}

/// Arguments about the log.
#[derive(Debug, Clone, Args)]
pub struct LogArgs {
    /// Form of the log on standard error
    #[arg(long, value_name = "FORMAT", env = "OUTRIGGER_LOG_FORMAT", default_value = "text")]
    pub log_format: LogFormat,
    /// error, warn, info, debug or trace; or module=level,...
    #[arg(long, value_name = "LEVEL", env = "OUTRIGGER_LOG_LEVEL", default_value = "info")]
    pub log_level: String,
}

/// Forms of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Forms of what a command prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Arguments of `check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Configuration files; `-` is standard input
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// Do not read certificates, keys and bundles: they are not on this machine
    #[arg(long)]
    pub without_files: bool,
    /// Form of the result
    #[arg(long, default_value = "text")]
    pub format: Format,
}

/// Arguments of `explain`.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// The configuration file
    #[arg(long, short, value_name = "FILE", env = "OUTRIGGER_CONFIG")]
    pub config: PathBuf,
    /// The listener that the request comes in on [default: the only one, or the first outbound one]
    #[arg(long, short, value_name = "NAME")]
    pub listener: Option<String>,
    /// The method [default: GET]
    #[arg(long = "request", short = 'X', value_name = "METHOD")]
    pub method: Option<Method>,
    /// A header; may be given several times
    #[arg(long = "header", short = 'H', value_name = "NAME: VALUE", value_parser = header)]
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The caller's verified identity (`spiffe://...`) [default: none]
    #[arg(long, value_name = "SPIFFE_ID", value_parser = identity)]
    pub identity: Option<SpiffeId>,
    /// The caller's address
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub from: IpAddr,
    /// Form of the result
    #[arg(long, default_value = "text")]
    pub format: Format,
    /// The request: its URL, or its method and its URL
    #[arg(value_name = "[METHOD] URL", required = true, num_args = 1..=2)]
    pub request: Vec<String>,
}

/// Arguments of `dev`.
#[derive(Debug, Args)]
pub struct DevArgs {
    /// Ask once through both proxies, print the answer and end; the exit status says whether it came
    #[arg(long)]
    pub once: bool,
    /// How the log on standard error is written
    #[command(flatten)]
    pub log: LogArgs,
}

/// `name: value`, as curl takes it.
fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("a header is written as `name: value`")?;
    let name = name.trim().parse().map_err(|_| format!("`{}` is not a header name", name.trim()))?;
    let value = value.trim().parse().map_err(|_| "the value contains a control character".to_owned())?;
    Ok((name, value))
}

fn identity(text: &str) -> Result<SpiffeId, String> {
    SpiffeId::parse(text).map_err(|error| format!("it is no SPIFFE ID: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_request_may_be_given_with_its_method_before_it() {
        let cli = Cli::parse_from(["outrigger", "explain", "-c", "f", "POST", "http://a/", "-H", "X-A:  b "]);
        let Command::Explain(args) = cli.command else { panic!("explain") };
        assert_eq!(args.request, ["POST", "http://a/"]);
        assert_eq!(args.headers, [("x-a".parse().expect("a name"), HeaderValue::from_static("b"))]);
    }

    #[test]
    fn a_header_without_a_colon_is_refused_with_its_form() {
        let error = Cli::try_parse_from(["outrigger", "explain", "-c", "f", "http://a/", "-H", "x"]);
        assert!(error.expect_err("refused").to_string().contains("name: value"));
    }
}
