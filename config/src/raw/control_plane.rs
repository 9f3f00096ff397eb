//! Where a configuration comes from that is not in the file, as written.

use schemars::JsonSchema;
use serde::Deserialize;

use super::DurationText;
use crate::read::{Field, List};

/// Listeners, routes and clusters come from a control plane (xDS v3, ADS). The file then holds only what concerns the
/// process: `node`, `admin`, `accessLog`, `workers`, `drain`, and `identity` where the certificate comes another way.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ControlPlane {
    /// Its addresses, `HOST:PORT`, tried in this order. With TLS; `http://HOST:PORT` without, for loopback addresses.
    #[schemars(extend("x-required" = true), length(min = 1))]
    pub servers: Field<List<String>>,
    /// The SPIFFE ID that a server's certificate must have, or all below one. Instead of `serverName`.
    pub server_identity: Field<String>,
    /// The DNS name that a server's certificate must have. Without it and `serverIdentity`: the host in `servers`.
    pub server_name: Field<String>,
    /// Roots that a server is verified by (PEM), until it has given this proxy a bundle. Needed with TLS.
    pub trust_bundle: Field<String>,
    /// What this proxy shows once to get its first certificate.
    pub join_token: Field<JoinToken>,
    /// The file of a Kubernetes service account token with the audience `outrigger-control`, shown instead of a join
    /// token.
    pub service_account_token_file: Field<String>,
    /// The workload that this proxy stands beside, `NAMESPACE/NAME`. Needed with a service account token.
    pub workload: Field<String>,
    /// How old the last good configuration on disk may be when it is used at a start without a control plane.
    #[schemars(extend("default" = "72h"))]
    pub max_age: Field<DurationText>,
    /// Must be true when a server without TLS is not on this host: whoever is in between could send any
    /// configuration.
    #[schemars(extend("default" = false))]
    pub allow_plaintext: Field<bool>,
    /// Whether the server is asked for changes only.
    #[schemars(extend("default" = "auto"))]
    pub delta: Field<Delta>,
}

/// Where a join token is: exactly one of `file` and `environment`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct JoinToken {
    /// The file that holds it.
    pub file: Field<String>,
    /// The environment variable that holds it.
    pub environment: Field<String>,
}

/// Which variant of the protocol is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Delta {
    /// Changes only; everything from a server that cannot send less.
    Auto,
    /// Always everything (state of the world).
    Off,
}
