//! Commands and their arguments.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use http::{HeaderName, HeaderValue, Method};
use outrigger_config::spiffe::SpiffeId;
use serde_json::{Value, json};

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
    #[arg(long, short, value_name = "FILE", env = "OUTRIGGER_CONFIG", required_unless_present = "control_plane")]
    pub config: Option<PathBuf>,
    /// A control plane instead of a file
    #[command(flatten)]
    pub control: ControlArgs,
    /// Keep the last good configuration in this folder, for a start when the file is broken or the control plane
    /// away; with a control plane also the certificate [default with a control plane: that of the systemd service, or
    /// /var/lib/outrigger]
    #[arg(long, value_name = "DIR", env = "OUTRIGGER_STATE_DIR")]
    pub state_dir: Option<PathBuf>,
    /// How the log on standard error is written
    #[command(flatten)]
    pub log: LogArgs,
}

/// Arguments about a control plane: what `controlPlane` in a file says, and what else concerns the process.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Control plane, instead of a file")]
pub struct ControlArgs {
    /// Its servers in order: HOST:PORT, or http://HOST:PORT without TLS
    #[arg(
        long,
        value_name = "SERVER",
        env = "OUTRIGGER_CONTROL_PLANE",
        value_delimiter = ',',
        conflicts_with = "config"
    )]
    pub control_plane: Vec<String>,
    /// The SPIFFE ID that its certificate must have
    #[arg(long, value_name = "SPIFFE_ID", env = "OUTRIGGER_CONTROL_IDENTITY", requires = "control_plane")]
    pub control_identity: Option<String>,
    /// The DNS name that its certificate must have [default: the host]
    #[arg(long, value_name = "NAME", env = "OUTRIGGER_CONTROL_NAME", requires = "control_plane")]
    pub control_name: Option<String>,
    /// Roots to verify it by at first (PEM)
    #[arg(long, value_name = "FILE", env = "OUTRIGGER_TRUST_BUNDLE", requires = "control_plane")]
    pub trust_bundle: Option<PathBuf>,
    /// The file of a join token; a token itself goes into the variable OUTRIGGER_JOIN_TOKEN
    #[arg(long, value_name = "FILE", env = "OUTRIGGER_JOIN_TOKEN_FILE", requires = "control_plane")]
    pub join_token_file: Option<PathBuf>,
    /// The file of a Kubernetes service account token, instead of a join token
    #[arg(long, value_name = "FILE", env = "OUTRIGGER_SERVICE_ACCOUNT_TOKEN_FILE", requires = "control_plane")]
    pub service_account_token_file: Option<PathBuf>,
    /// The workload that this proxy stands beside
    #[arg(long, value_name = "NAMESPACE/NAME", env = "OUTRIGGER_WORKLOAD", requires = "control_plane")]
    pub workload: Option<String>,
    /// How old the last good configuration on disk may be at a start [default: 72h]
    #[arg(long, value_name = "DURATION", env = "OUTRIGGER_MAX_AGE", requires = "control_plane")]
    pub max_age: Option<String>,
    /// Allow http:// to servers on other hosts
    #[arg(long, env = "OUTRIGGER_ALLOW_PLAINTEXT", requires = "control_plane")]
    pub allow_plaintext: bool,
    /// Unique name of this proxy [default: host name and process id]
    #[arg(long, value_name = "ID", env = "OUTRIGGER_NODE_ID", requires = "control_plane")]
    pub node_id: Option<String>,
    /// The service that this proxy stands beside
    #[arg(long, value_name = "NAME", env = "OUTRIGGER_NODE_SERVICE", requires = "control_plane")]
    pub node_service: Option<String>,
    /// Its zone
    #[arg(long, value_name = "NAME", env = "OUTRIGGER_NODE_ZONE", requires = "control_plane")]
    pub node_zone: Option<String>,
    /// Where the admin server listens, or `off` [default: 127.0.0.1:15000]
    #[arg(long, value_name = "ADDRESS", env = "OUTRIGGER_ADMIN", requires = "control_plane")]
    pub admin: Option<String>,
    /// Where the access log goes: `stdout`, `off` or a path [default: stdout]
    #[arg(long, value_name = "WHERE", env = "OUTRIGGER_ACCESS_LOG", requires = "control_plane")]
    pub access_log: Option<String>,
}

/// The variable that holds a join token itself.
const JOIN_TOKEN: &str = "OUTRIGGER_JOIN_TOKEN";

impl ControlArgs {
    /// The text of a configuration file that says the same; `None` without a control plane. It is JSON, which is YAML.
    #[must_use]
    pub fn bootstrap(&self) -> Option<String> {
        let Self {
            control_plane,
            control_identity,
            control_name,
            trust_bundle,
            join_token_file,
            service_account_token_file,
            workload,
            max_age,
            allow_plaintext,
            node_id,
            node_service,
            node_zone,
            admin,
            access_log,
        } = self;
        if control_plane.is_empty() {
            return None;
        }
        let in_variable = std::env::var_os(JOIN_TOKEN).is_some_and(|token| !token.is_empty());
        let join_token = match join_token_file {
            Some(file) => json!({ "file": file }),
            None if in_variable && service_account_token_file.is_none() => json!({ "environment": JOIN_TOKEN }),
            None => Value::Null,
        };
        let admin = match admin.as_deref() {
            None => Value::Null,
            Some("off") => json!("off"),
            Some(address) => json!({ "address": address }),
        };
        let text = json!({
            "node": some(json!({ "id": node_id, "service": node_service, "zone": node_zone })),
            "admin": admin,
            "accessLog": access_log,
            "controlPlane": some(json!({
                "servers": control_plane,
                "serverIdentity": control_identity,
                "serverName": control_name,
                "trustBundle": trust_bundle,
                "joinToken": join_token,
                "serviceAccountTokenFile": service_account_token_file,
                "workload": workload,
                "maxAge": max_age,
                "allowPlaintext": allow_plaintext,
            })),
        });
        Some(format!("{:#}\n", some(text)))
    }
}

/// An object without what was not said; null when nothing is left.
fn some(value: Value) -> Value {
    let Value::Object(mut members) = value else { return value };
    members.retain(|_, member| !member.is_null());
    if members.is_empty() { Value::Null } else { Value::Object(members) }
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

    fn run(args: &[&str]) -> Result<RunArgs, clap::Error> {
        let all = ["outrigger", "run"].iter().chain(args);
        Cli::try_parse_from(all).map(|cli| match cli.command {
            Command::Run(args) => args,
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn a_proxy_starts_without_a_file_from_what_its_command_line_says() {
        let args = [
            "--control-plane",
            "http://127.0.0.1:1,http://[::1]:2",
            "--workload",
            "shop/a",
            "--max-age",
            "1h",
            "--node-zone",
            "z",
            "--admin",
            "off",
            "--access-log",
            "off",
        ];
        let text = run(&args).expect("parsed").control.bootstrap().expect("a control plane");
        let loaded = outrigger_config::load("the command line", &text).unwrap_or_else(|problems| panic!("{problems}"));
        let plane = loaded.control_plane.as_ref().expect("a control plane");
        assert_eq!((plane.servers.len(), plane.workload.as_deref()), (2, Some("shop/a")));
        assert_eq!(plane.max_age, std::time::Duration::from_secs(3600));
        assert_eq!((loaded.config.node.zone.as_deref(), loaded.config.admin.address), (Some("z"), None));
        assert_eq!(run(&["-c", "a.yaml"]).expect("parsed").control.bootstrap(), None);
    }

    #[test]
    fn what_the_command_line_says_is_checked_as_a_file_is() {
        let text = run(&["--control-plane", "http://10.0.0.1:1"]).expect("parsed").control.bootstrap().expect("one");
        let problems = outrigger_config::load("the command line", &text).expect_err("plaintext").to_string();
        assert!(problems.contains("without TLS") && problems.contains("the command line:"), "{problems}");
    }

    #[test]
    fn a_file_and_a_control_plane_exclude_each_other_and_one_is_needed() {
        assert!(run(&[]).is_err());
        assert!(run(&["-c", "a.yaml", "--control-plane", "a:1"]).is_err());
        assert!(run(&["-c", "a.yaml", "--workload", "a/b"]).is_err());
    }

    #[test]
    fn a_header_without_a_colon_is_refused_with_its_form() {
        let error = Cli::try_parse_from(["outrigger", "explain", "-c", "f", "http://a/", "-H", "x"]);
        assert!(error.expect_err("refused").to_string().contains("name: value"));
    }
}
