//! Envoy v3 resources as the model, also those of control planes that know nothing of us.
//!
//! What is accepted is done as Envoy does it. What the data path does not have, or would do otherwise, is refused by the
//! name of the resource and the field; every problem of a resource is found at once. Fields that may be passed over are
//! listed where messages are taken apart.

mod access;
mod action;
mod cluster;
mod endpoint;
mod fitness;
mod filters;
mod listener;
mod matching;
mod reader;
mod resilience;
mod route;
mod secret;
mod tls;
mod tokens;

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use outrigger_config::built::Problem;
use outrigger_config::model::{
    Authorization, BackendRef, CertificateFiles, Cluster, Endpoint, ExternalAuthorizer, JwtProvider, Listener, Place,
    RateLimitService, RouteTable,
};
use prost::Message;

pub(crate) use action::conditions;
pub(crate) use reader::placeholder;

use crate::decode::reader::Reader;
use crate::pb::{cluster as clusters, endpoint as endpoints, listener as listeners, route as routes, tls as secrets};
use crate::{Kind, control};

/// Why a resource was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The type URL of the resource.
    pub type_url: String,
    /// Its name.
    pub name: String,
    /// The field, in the words of Envoy's API: `virtual_hosts[0].routes[2].route.hash_policy`.
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
}

impl Refusal {
    /// What is wrong with a resource, of a problem that was found in what it was made into. `None` where it is about no
    /// resource.
    #[must_use]
    pub fn of(problem: &Problem) -> Option<Self> {
        use outrigger_config::built::Part;
        let kind = match problem.part {
            Part::Listener
            | Part::Authorization
            | Part::JwtProvider
            | Part::ExternalAuthorizer
            | Part::RateLimitService => Kind::Listener,
            Part::Routes => Kind::Route,
            Part::Cluster => Kind::Cluster,
            Part::Process | Part::Identity => return None,
        };
        let reason = format!("{}; {}", problem.message, problem.fix);
        Some(Self {
            type_url: kind.type_url().to_owned(),
            name: problem.name.to_string(),
            field: problem.field.clone(),
            reason,
        })
    }

    /// As it travels back to the control plane.
    #[must_use]
    pub fn to_message(&self) -> control::Refusal {
        let Self { type_url, name, field, reason } = self.clone();
        control::Refusal { type_url, name, field, reason }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { type_url, name, field, reason } = self;
        let kind = type_url.rsplit('.').next().unwrap_or(type_url);
        write!(f, "{kind} `{name}`, {field}: {reason}")
    }
}

/// Refusals that are kept of one resource.
pub const MAX_REFUSALS: usize = 64;

/// Where the files lie that the model names and resources carry or refer to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context {
    /// The folder to which the proxy writes the contents of secrets and of inline material: see [`Decoded::files`].
    pub folder: PathBuf,
}

impl Context {
    /// Where the certificate and the key of a secret lie.
    #[must_use]
    pub fn certificate(&self, secret: &str) -> (PathBuf, PathBuf) {
        let name = file_name(secret);
        (self.folder.join(format!("{name}.pem")), self.folder.join(format!("{name}.key")))
    }

    /// Where the roots of a secret lie.
    #[must_use]
    pub fn bundle(&self, secret: &str) -> PathBuf {
        self.folder.join(format!("{}.ca.pem", file_name(secret)))
    }
}

/// A name as one of a file: nothing in it leads to another folder.
fn file_name(name: &str) -> String {
    use fmt::Write as _;
    let mut out = String::with_capacity(name.len() + 4);
    out.push_str("sds-");
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') {
            out.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(out, "%{byte:02x}");
        }
    }
    out
}

/// A file that must be there before a configuration that names it is used.
#[derive(Clone, PartialEq, Eq)]
pub struct File {
    /// Where.
    pub path: PathBuf,
    /// What is in it. May be a key: it is not shown, and only the owner may read the file.
    pub content: Vec<u8>,
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("File").field("path", &self.path).field("bytes", &self.content.len()).finish()
    }
}

/// A resource that was taken.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    /// What it is.
    pub what: What,
    /// Files that it names and whose contents came with it.
    pub files: Vec<File>,
    /// Secrets that it refers to, beside the proxy's own.
    pub secrets: BTreeSet<Arc<str>>,
}

/// What a resource is in the model.
#[derive(Debug, Clone, PartialEq)]
pub enum What {
    /// A listener, with the policies that travel in it.
    Listener(Arc<DecodedListener>),
    /// A route table.
    Routes(Arc<RouteTable>),
    /// A cluster.
    Cluster(Arc<DecodedCluster>),
    /// The endpoints of a cluster.
    Endpoints(Arc<Vec<Endpoint>>),
    /// A secret: its contents are files.
    Secret,
}

/// A listener.
#[derive(Debug, Clone, PartialEq)]
pub struct DecodedListener {
    /// The listener. What it refers to by name is in the other fields, or a resource of its own.
    pub listener: Listener,
    /// Its policy.
    pub authorization: Option<Authorization>,
    /// The token providers that it names.
    pub jwt_providers: Vec<JwtProvider>,
    /// The authorizer that it asks.
    pub external_authorizer: Option<ExternalAuthorizer>,
    /// Rate limit services, by name.
    pub rate_limit_services: Vec<(Arc<str>, RateLimitService)>,
    /// Its routes, where they are in it and no resource of their own.
    pub routes: Option<Arc<RouteTable>>,
}

impl DecodedListener {
    /// The route configuration that it waits for.
    #[must_use]
    pub fn discovers_routes(&self) -> Option<&Arc<str>> {
        self.listener.routes.as_ref().filter(|_| self.routes.is_none())
    }
}

/// A cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct DecodedCluster {
    /// The cluster; its endpoints, where they are in it.
    pub cluster: Cluster,
    /// The name under which its endpoints are a resource of their own.
    pub discovers_endpoints: Option<Arc<str>>,
}

/// Decodes a resource. `name` is what it is called on the stream.
///
/// Never panics, whatever the bytes.
///
/// # Errors
/// Every problem that was found, at most [`MAX_REFUSALS`].
pub fn decode(kind: Kind, name: &str, body: &[u8], context: &Context) -> Result<Decoded, Vec<Refusal>> {
    let reader = Reader::new(kind, name, context);
    let root = reader.root();
    let what = match kind {
        Kind::Listener => message::<listeners::Listener>(&reader, body)
            .and_then(|message| listener::listener(&root, &message))
            .map(|listener| What::Listener(Arc::new(listener))),
        Kind::Route => message::<routes::RouteConfiguration>(&reader, body)
            .and_then(|message| route::table(&root, &message))
            .map(|table| What::Routes(Arc::new(table))),
        Kind::Cluster => message::<clusters::Cluster>(&reader, body)
            .and_then(|message| cluster::cluster(&root, &message))
            .map(|cluster| What::Cluster(Arc::new(cluster))),
        Kind::Endpoints => message::<endpoints::ClusterLoadAssignment>(&reader, body)
            .map(|message| endpoint::endpoints(&root, &message, endpoint::Names::Addresses))
            .map(|list| What::Endpoints(Arc::new(list))),
        Kind::Secret => message::<secrets::Secret>(&reader, body)
            .and_then(|message| secret::secret(&root, &message))
            .map(|()| What::Secret),
    };
    if reader.is_clean()
        && let Some(what) = &what
    {
        reader.hold_to_rules(what);
    }
    reader.finish(what)
}

/// Where a listener hands on what it does not read.
pub(crate) fn opaque_backends(listener: &Listener) -> impl Iterator<Item = &BackendRef> {
    let tcp = listener.tcp.iter().flat_map(|tcp| &tcp.backends);
    tcp.chain(listener.udp.iter().flat_map(|udp| &udp.backends))
}

/// A whole message of its type.
fn message<M: Message + Default>(reader: &Reader<'_>, body: &[u8]) -> Option<M> {
    match M::decode(body) {
        Ok(message) => Some(message),
        Err(error) => {
            reader.root().refuse(format!("the message cannot be read: {error}"));
            None
        }
    }
}

/// The certificate of a secret.
fn secret_files(context: &Context, secret: &str, place: &Place) -> CertificateFiles {
    let (certificate, private_key) = context.certificate(secret);
    CertificateFiles { certificate, private_key, place: place.clone() }
}
