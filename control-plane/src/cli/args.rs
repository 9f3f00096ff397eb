//! Commands and their arguments.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// The control plane of the Outrigger service mesh.
#[derive(Debug, Parser)]
#[command(name = "outrigger-control", version, propagate_version = true, max_term_width = 100, after_help = EXAMPLES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  outrigger-control serve --data ./data --directory ./manifests
  outrigger-control apply -f shop/ --dry-run               what would it change, and for whom?
  outrigger-control apply -f shop/ --message 'canary 5 %'
  outrigger-control status --wait 12                       until every proxy has it
  outrigger-control explain shop/web-1 GET http://payments/v1/charges
  outrigger-control rollback 11";

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the control plane
    ///
    /// At the first start an admin token is made and written into the data folder. SIGTERM or SIGINT end it in order.
    Serve(ServeArgs),
    /// Add and change objects
    ///
    /// All are taken, or none: with any mistake every problem is shown with its place, and nothing changes.
    Apply(ApplyArgs),
    /// Remove objects
    Delete(DeleteArgs),
    /// Show what `apply` would change, and for which proxies
    Diff(DiffArgs),
    /// Show accepted generations, or one of them with its diff
    History(HistoryArgs),
    /// Make a new generation with the objects of an earlier one
    Rollback(RollbackArgs),
    /// Show objects in force, with their conditions; or what a proxy is given: `get config shop/web-1`
    Get(GetArgs),
    /// Show where each proxy stands: generation, synced, sent or refused, with resource, field and reason
    ///
    /// With --wait it exits with 0 once every connected proxy has taken the generation, and with 1 when one refused it
    /// or time is over.
    Status(StatusArgs),
    /// Explain where a request of a proxy goes, and which manifest set each value
    Explain(ExplainArgs),
    /// Certificates: show the roots, and rotate them
    #[command(subcommand)]
    Ca(CaCommand),
    /// Tokens of the API, and join tokens of proxies
    #[command(subcommand)]
    Token(TokenCommand),
    /// Get a certificate with a join token, for proxies that do not do that themselves
    ///
    /// Makes a key, asks for a certificate and writes svid.pem, svid.key and bundle.pem. With a certificate that is still
    /// good and no token it renews.
    Join(JoinArgs),
    /// Show the audit log
    Audit(AuditArgs),
    /// Print the JSON Schema of a kind of manifest, or of all
    Schema {
        /// The kind; all when it is not given.
        kind: Option<String>,
    },
    /// Print the custom resource definitions of the kinds of outrigger.dev, for Kubernetes
    Crds,
    /// Check proxy configurations, and show every problem with its place and a fix
    ///
    /// Exits with 0 when all would be accepted (warnings included), and with 1 otherwise.
    Check {
        /// Files, and directories whose .yaml and .yml files are checked.
        #[arg(required = true, value_name = "PATH")]
        paths: Vec<PathBuf>,
    },
}

/// Arguments of `serve`. What is given here goes before what the file says.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// A configuration file (YAML).
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where everything is kept that outlives the process.
    #[arg(long, value_name = "DIR", env = "OUTRIGGER_CONTROL_DATA")]
    pub data: Option<PathBuf>,
    /// A directory of manifests that is watched.
    #[arg(long, value_name = "DIR")]
    pub directory: Option<PathBuf>,
    /// Where proxies connect [default: 127.0.0.1:15010].
    #[arg(long, value_name = "ADDRESS")]
    pub grpc: Option<SocketAddr>,
    /// Where people and pipelines connect [default: 127.0.0.1:15014]. Beyond loopback with TLS.
    #[arg(long, value_name = "ADDRESS")]
    pub api: Option<SocketAddr>,
    /// TLS for the API on loopback too.
    #[arg(long)]
    pub api_tls: bool,
    /// The trust domain whose identities are issued [default: mesh.local].
    #[arg(long, value_name = "NAME")]
    pub trust_domain: Option<String>,
    /// A DNS name or address in the certificate of the control plane; may be repeated.
    #[arg(long = "name", value_name = "NAME")]
    pub names: Vec<String>,
    /// The key set (JWKS) of a Kubernetes cluster, whose service account tokens are believed beside join tokens.
    #[arg(long, value_name = "FILE", requires = "service_account_issuer")]
    pub service_account_keys: Option<PathBuf>,
    /// The issuer of those tokens.
    #[arg(long, value_name = "URL", requires = "service_account_keys")]
    pub service_account_issuer: Option<String>,
    /// What is logged: error, warn, info, debug, trace, or module=level,…
    #[arg(long, value_name = "LEVEL", default_value = "info", env = "OUTRIGGER_CONTROL_LOG")]
    pub log_level: String,
    /// How it is logged.
    #[arg(long, value_enum, default_value = "text")]
    pub log_format: LogFormat,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Where the API is, and who asks.
#[derive(Debug, Clone, Args)]
pub struct ServerArgs {
    /// The API [default: http://127.0.0.1:15014].
    #[arg(long, value_name = "URL", env = "OUTRIGGER_CONTROL_SERVER")]
    pub server: Option<String>,
    /// A bearer token. Better in the environment or a file: others see arguments.
    #[arg(long, value_name = "TOKEN", env = "OUTRIGGER_CONTROL_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// A file that holds the token.
    #[arg(long, value_name = "FILE", env = "OUTRIGGER_CONTROL_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
    /// PEM: the roots that the server's certificate is verified against. Needed with https://.
    #[arg(long, value_name = "FILE", env = "OUTRIGGER_CONTROL_CA")]
    pub ca: Option<PathBuf>,
    /// The name in the server's certificate [default: the host of the URL].
    #[arg(long, value_name = "NAME", env = "OUTRIGGER_CONTROL_SERVER_NAME")]
    pub server_name: Option<String>,
    /// PEM: a client certificate, instead of a token.
    #[arg(long, value_name = "FILE", requires = "key")]
    pub certificate: Option<PathBuf>,
    /// PEM: its key.
    #[arg(long, value_name = "FILE", requires = "certificate")]
    pub key: Option<PathBuf>,
}

/// How results are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
    /// Objects as they were written.
    Yaml,
}

/// Arguments of `apply`.
#[derive(Debug, Args)]
pub struct ApplyArgs {
    /// A file, a directory, or `-` for standard input; may be repeated.
    #[arg(short = 'f', long = "file", value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// Only say what would happen.
    #[arg(long)]
    pub dry_run: bool,
    /// What for; stands in the history.
    #[arg(short = 'm', long, default_value = "")]
    pub message: String,
    /// Remove pushed objects of this namespace that are not among the files; may be repeated.
    #[arg(long, value_name = "NAMESPACE")]
    pub prune: Vec<String>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub server: ServerArgs,
    /// How the result is written.
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Output,
}

/// Arguments of `delete`.
#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// The kind and name of an object: `delete HTTPRoute payments -n shop`.
    #[arg(num_args = 0..=2, value_names = ["KIND", "NAME"])]
    pub object: Vec<String>,
    /// Its namespace.
    #[arg(short, long, default_value = "default")]
    pub namespace: String,
    /// The objects in a file, a directory, or `-`; may be repeated.
    #[arg(short = 'f', long = "file", value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Only say what would happen.
    #[arg(long)]
    pub dry_run: bool,
    /// What for; stands in the history.
    #[arg(short = 'm', long, default_value = "")]
    pub message: String,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub server: ServerArgs,
    /// How the result is written.
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Output,
}

/// Arguments of `diff`.
#[derive(Debug, Args)]
pub struct DiffArgs {
    /// A file, a directory, or `-` for standard input; may be repeated.
    #[arg(short = 'f', long = "file", value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub server: ServerArgs,
    /// How the result is written.
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Output,
}

/// Arguments of `history`.
#[derive(Debug, Args)]
pub struct HistoryArgs {
    /// One generation, with its diff.
    pub generation: Option<u64>,
    /// How many.
    #[arg(long, default_value_t = 20)]
    pub limit: u32,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub server: ServerArgs,
    /// How the result is written.
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Output,
}

/// Arguments of `rollback`.
#[derive(Debug, Args)]
pub struct RollbackArgs {
    /// The generation to bring back.
    pub generation: u64,
    /// Only say what would happen.
    #[arg(long)]
    pub dry_run: bool,
    /// What for; stands in the history.
    #[arg(short = 'm', long, default_value = "")]
    pub message: String,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub server: ServerArgs,
    /// How the result is written.
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Output,
}

/// Arguments of `get`.
#[derive(Debug, Args)]
pub struct GetArgs {
    /// A kind, `all`, or `config` for what a proxy is given.
    pub kind: String,
    /// The name of an object, or the workload of a proxy.
    pub name: Option<String>,
    /// Of this namespace.
    #[arg(short, long)]
    pub namespace: Option<String>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub server: ServerArgs,
    /// How the result is written.
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Output,
}

/// Arguments of `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// One proxy, `namespace/name`.
    pub proxy: Option<String>,
    /// Wait until every connected proxy has answered this generation.
    #[arg(long, value_name = "GENERATION")]
    pub wait: Option<u64>,
    /// How long, such as 30s or 5m.
    #[arg(long, default_value = "30s", value_parser = duration)]
    pub timeout: Duration,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub server: ServerArgs,
    /// How the result is written.
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Output,
}

/// Arguments of `explain`.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// The proxy that the request goes out from, `namespace/name`.
    pub proxy: String,
    /// `[METHOD] URL`.
    #[arg(required = true, num_args = 1..=2, value_names = ["METHOD", "URL"])]
    pub request: Vec<String>,
    /// A header, `name: value`; may be repeated.
    #[arg(short = 'H', long = "header", value_name = "HEADER")]
    pub headers: Vec<String>,
    /// The listener [default: the first outbound one].
    #[arg(long)]
    pub listener: Option<String>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub server: ServerArgs,
    /// How the result is written.
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Output,
}

/// The commands of `ca`.
#[derive(Debug, Subcommand)]
pub enum CaCommand {
    /// Show which roots are believed, and where a rotation stands
    Status {
        #[command(flatten)]
        #[allow(missing_docs)]
        server: ServerArgs,
        /// How the result is written.
        #[arg(short, long, value_enum, default_value = "table")]
        output: Output,
    },
    /// Take the next step of a rotation of roots: introduce, sign, retire
    ///
    /// A step that is not safe now is refused, and says why.
    Rotate {
        /// The step that is meant; without it the next one. `withdraw` gives up a new root.
        step: Option<String>,
        /// Take it although it is not safe.
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        #[allow(missing_docs)]
        server: ServerArgs,
        /// How the result is written.
        #[arg(short, long, value_enum, default_value = "table")]
        output: Output,
    },
}

/// The commands of `token`.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token, which is printed this once
    Create {
        /// Its name: the audit log says token:NAME.
        #[arg(required_unless_present = "join", conflicts_with = "join")]
        name: Option<String>,
        /// viewer, pusher or admin.
        #[arg(long, default_value = "viewer")]
        role: String,
        /// Of a pusher: a namespace, `*` for every one; may be repeated.
        #[arg(short, long = "namespace", value_name = "NAMESPACE")]
        namespaces: Vec<String>,
        /// A join token for this workload instead: with it a proxy gets its first certificate, once.
        #[arg(long, value_name = "NAMESPACE/NAME")]
        join: Option<String>,
        /// How long it is good [default: 90d; of a join token 1h].
        #[arg(long, value_parser = duration)]
        valid_for: Option<Duration>,
        #[command(flatten)]
        #[allow(missing_docs)]
        server: ServerArgs,
        /// How the result is written.
        #[arg(short, long, value_enum, default_value = "table")]
        output: Output,
    },
    /// Show tokens, without their secrets
    List {
        #[command(flatten)]
        #[allow(missing_docs)]
        server: ServerArgs,
        /// How the result is written.
        #[arg(short, long, value_enum, default_value = "table")]
        output: Output,
    },
    /// Revoke a token by its id
    Revoke {
        /// Its id, as `list` shows it.
        id: String,
        #[command(flatten)]
        #[allow(missing_docs)]
        server: ServerArgs,
    },
}

/// Arguments of `join`.
#[derive(Debug, Args)]
pub struct JoinArgs {
    /// The gRPC address of the control plane, `host:port` [default: 127.0.0.1:15010].
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:15010")]
    pub grpc: String,
    /// A join token. Better in the environment or a file: others see arguments.
    #[arg(long, value_name = "TOKEN", env = "OUTRIGGER_JOIN_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// A file that holds the join token.
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    pub token_file: Option<PathBuf>,
    /// PEM: the roots that the control plane is verified against.
    #[arg(long, value_name = "FILE")]
    pub ca: PathBuf,
    /// The name in the certificate of the control plane [default: the host of the address].
    #[arg(long, value_name = "NAME")]
    pub server_name: Option<String>,
    /// Where svid.pem, svid.key and bundle.pem are written.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}

/// Arguments of `audit`.
#[derive(Debug, Args)]
pub struct AuditArgs {
    /// How many entries.
    #[arg(long, default_value_t = 50)]
    pub limit: u32,
    /// Only what is before this entry.
    #[arg(long)]
    pub before: Option<u64>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub server: ServerArgs,
    /// How the result is written.
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Output,
}

fn duration(text: &str) -> Result<Duration, String> {
    crate::serve::duration(text).ok_or_else(|| format!("`{text}` is no time such as 30s, 5m or 24h"))
}
