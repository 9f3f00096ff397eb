//! Where in a resource the decoder is, and what it has found.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use outrigger_config::built;
use outrigger_config::model::{
    AccessLog, Action, Admin, Admission, Balance, Breakers, Ceilings, CertificateFiles, Cluster, ClusterProtocol,
    Config, ConnectionOptions, DnsOptions, Drain, EndpointCeilings, Filter, Identity, Node, Overload, Place,
    RateLimitService, RetryBudget, RouteTable,
};
use prost::{Message, Name};
use sha2::{Digest as _, Sha256};

use super::{Context, Decoded, File, MAX_REFUSALS, Refusal, What};
use crate::pb::{self, Any, core};
use crate::{Kind, wire};

/// What is found in one resource.
pub(super) struct Reader<'a> {
    kind: Kind,
    name: &'a str,
    pub(super) context: &'a Context,
    refusals: RefCell<Vec<Refusal>>,
    files: RefCell<Vec<File>>,
    secrets: RefCell<BTreeSet<Arc<str>>>,
}

/// A place in a resource.
#[derive(Clone)]
pub(super) struct At<'a> {
    pub(super) reader: &'a Reader<'a>,
    path: String,
}

impl<'a> Reader<'a> {
    pub(super) fn new(kind: Kind, name: &'a str, context: &'a Context) -> Self {
        Self {
            kind,
            name,
            context,
            refusals: RefCell::default(),
            files: RefCell::default(),
            secrets: RefCell::default(),
        }
    }

    pub(super) fn root(&'a self) -> At<'a> {
        At { reader: self, path: String::new() }
    }

    pub(super) fn is_clean(&self) -> bool {
        self.refusals.borrow().is_empty()
    }

    pub(super) fn finish(self, what: Option<What>) -> Result<Decoded, Vec<Refusal>> {
        if what.is_none() && self.is_clean() {
            // A refusal without a word would be an acknowledgement.
            self.root().refuse("this cannot be read");
        }
        let refusals = self.refusals.into_inner();
        match what {
            Some(what) if refusals.is_empty() => {
                Ok(Decoded { what, files: self.files.into_inner(), secrets: self.secrets.into_inner() })
            }
            _ => Err(refusals),
        }
    }

    /// The place of what other control planes say, which know no files.
    pub(super) fn place(&self) -> Place {
        let kind = match self.kind {
            Kind::Secret => "secret",
            Kind::Cluster => "cluster",
            Kind::Endpoints => "endpoints",
            Kind::Listener => "listener",
            Kind::Route => "routes",
        };
        Place { file: format!("xds:{kind}/{}", self.name).into(), line: 1, column: 1 }
    }

    /// Holds the model to the rules that written configurations are held to, with everything there that it refers to.
    pub(super) fn hold_to_rules(&self, what: &What) {
        let place = self.place();
        let mut config = empty(&place);
        let clusters: Vec<Arc<str>> = match what {
            What::Listener(decoded) => {
                if let Some(table) = &decoded.routes {
                    config.routes.insert(table.name.clone(), RouteTable::clone(table));
                } else if let Some(name) = &decoded.listener.routes {
                    config.routes.insert(name.clone(), RouteTable { name: name.clone(), hosts: Vec::new() });
                }
                if let Some(policy) = &decoded.authorization {
                    config.authorization.insert(policy.name.clone(), policy.clone());
                }
                if let Some(authorizer) = &decoded.external_authorizer {
                    config.external_authorizers.insert(authorizer.name.clone(), authorizer.clone());
                }
                for provider in &decoded.jwt_providers {
                    config.jwt_providers.insert(provider.name.clone(), provider.clone());
                }
                for (name, service) in &decoded.rate_limit_services {
                    config.rate_limit_services.insert(name.clone(), service.clone());
                }
                config.listeners.push(decoded.listener.clone());
                let tls = decoded.listener.tls.iter();
                let handed_on = tls.flat_map(|tls| &tls.passthrough).flat_map(|entry| &entry.backends);
                let mut names: Vec<Arc<str>> = handed_on.map(|backend| backend.cluster.clone()).collect();
                names.extend(super::opaque_backends(&decoded.listener).map(|backend| backend.cluster.clone()));
                names.extend(decoded.external_authorizer.iter().map(|authorizer| authorizer.cluster.clone()));
                names.extend(decoded.rate_limit_services.iter().map(|(_, service)| service.cluster.clone()));
                names.extend(decoded.routes.iter().flat_map(|table| backends(table)));
                for service in decoded.routes.iter().flat_map(|table| services(table)) {
                    config.rate_limit_services.entry(service).or_insert_with(unknown_service);
                }
                names.extend(config.rate_limit_services.values().map(|service| service.cluster.clone()));
                names
            }
            What::Routes(table) => {
                config.routes.insert(table.name.clone(), RouteTable::clone(table));
                // They come with listeners.
                for service in services(table) {
                    config.rate_limit_services.insert(service, unknown_service());
                }
                let services = config.rate_limit_services.values().map(|service| service.cluster.clone());
                backends(table).chain(services).collect()
            }
            What::Cluster(decoded) => {
                config.clusters.insert(decoded.cluster.name.clone(), decoded.cluster.clone());
                Vec::new()
            }
            What::Endpoints(list) => {
                let name: Arc<str> = Arc::from("endpoints");
                let cluster = Cluster { endpoints: Vec::clone(list), ..placeholder(name.clone(), &place) };
                config.clusters.insert(name, cluster);
                Vec::new()
            }
            What::Secret => Vec::new(),
        };
        for name in clusters {
            config.clusters.entry(name.clone()).or_insert_with(|| placeholder(name, &place));
        }
        if let Err(problems) = built::check(config) {
            for problem in problems {
                self.push(problem.field, format!("{}; {}", problem.message, problem.fix));
            }
        }
    }

    fn push(&self, field: String, reason: String) {
        let mut refusals = self.refusals.borrow_mut();
        if refusals.len() < MAX_REFUSALS {
            refusals.push(Refusal {
                type_url: self.kind.type_url().to_owned(),
                name: self.name.to_owned(),
                field,
                reason,
            });
        }
    }
}

fn backends(table: &RouteTable) -> impl Iterator<Item = Arc<str>> {
    let rules = table.hosts.iter().flat_map(|host| &host.rules);
    rules
        .filter_map(|rule| match &rule.action {
            Action::Forward(list) => Some(list),
            Action::Redirect(_) | Action::Direct(_) => None,
        })
        .flatten()
        .map(|backend| backend.cluster.clone())
        .chain(mirrors(table))
}

fn mirrors(table: &RouteTable) -> impl Iterator<Item = Arc<str>> {
    let filters = table.hosts.iter().flat_map(|host| &host.rules).flat_map(|rule| &rule.filters);
    filters.filter_map(|filter| match filter {
        Filter::Mirror(mirror) => Some(mirror.cluster.clone()),
        _ => None,
    })
}

/// Rate limit services that a table names.
fn services(table: &RouteTable) -> impl Iterator<Item = Arc<str>> {
    let rules = table.hosts.iter().flat_map(|host| &host.rules);
    rules.flat_map(|rule| &rule.global_rate_limits).map(|limit| limit.service.clone())
}

/// Stands for one that is looked at elsewhere.
fn unknown_service() -> RateLimitService {
    RateLimitService {
        cluster: "-".into(),
        domain: "-".into(),
        timeout: Duration::from_millis(20),
        allow_on_failure: false,
    }
}

/// A configuration with nothing in it but an identity.
fn empty(place: &Place) -> Config {
    let certificate =
        CertificateFiles { certificate: "svid.pem".into(), private_key: "svid.key".into(), place: place.clone() };
    Config {
        node: Node { id: "-".into(), service: None, zone: None },
        admin: Admin { address: None },
        access_log: AccessLog::Off,
        workers: None,
        drain: Drain { accept_for: Duration::ZERO, deadline: Duration::from_secs(1) },
        listeners: Vec::new(),
        routes: BTreeMap::new(),
        clusters: BTreeMap::new(),
        identity: Some(Identity {
            certificate,
            trust_bundle: "roots.pem".into(),
            federated_bundles: BTreeMap::new(),
            revocation_lists: Vec::new(),
            proposed_trust_bundle: None,
            place: place.clone(),
        }),
        authorization: BTreeMap::new(),
        jwt_providers: BTreeMap::new(),
        external_authorizers: BTreeMap::new(),
        rate_limit_services: BTreeMap::new(),
        overload: Overload::default(),
    }
}

/// A cluster without endpoints, which answers 503: stands where one is not there yet.
pub(crate) fn placeholder(name: Arc<str>, place: &Place) -> Cluster {
    Cluster {
        name,
        // Authorizers are asked over it.
        protocol: ClusterProtocol::Http2,
        balance: Balance::default(),
        endpoint_ceilings: EndpointCeilings::default(),
        breakers: Breakers::default(),
        health_check: None,
        outlier_detection: None,
        admission: Admission::default(),
        endpoints: Vec::new(),
        ceilings: Ceilings { max_requests: 1024, max_pending: 256, max_retries: 64, max_connections: 1024 },
        retry_budget: RetryBudget { percent: 20, min_per_second: 3 },
        connection: ConnectionOptions {
            connect_timeout: Duration::from_secs(1),
            idle_timeout: Duration::from_secs(55),
            keepalive_interval: Duration::from_secs(10),
            keepalive_timeout: Duration::from_secs(3),
            max_streams: 100,
            max_age: Duration::from_secs(3600),
            proxy_protocol: None,
        },
        tls: None,
        dns: DnsOptions { min_ttl: Duration::from_secs(1), max_ttl: Duration::from_secs(60) },
        place: place.clone(),
    }
}

impl<'a> At<'a> {
    pub(super) fn field(&self, name: &str) -> At<'a> {
        let name = name.trim_start_matches("r#");
        let path = if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) };
        At { reader: self.reader, path }
    }

    pub(super) fn item(&self, name: &str, index: usize) -> At<'a> {
        let mut at = self.field(name);
        // Writing to a string cannot fail.
        let _ = write!(at.path, "[{index}]");
        at
    }

    pub(super) fn key(&self, name: &str, key: &str) -> At<'a> {
        let mut at = self.field(name);
        let _ = write!(at.path, "[\"{}\"]", key.escape_debug());
        at
    }

    pub(super) fn refuse(&self, reason: impl Into<String>) {
        self.reader.push(self.path.clone(), reason.into());
    }

    /// Refuses a field that is set.
    pub(super) fn unset(&self, name: &str, value: &impl Present) {
        if value.is_present() {
            self.field(name).refuse("this is not supported; remove it");
        }
    }

    pub(super) fn place(&self) -> Place {
        self.reader.place()
    }

    /// What a rule of the language says of a text.
    pub(super) fn held<T>(&self, result: Result<T, String>) -> Option<T> {
        result.map_err(|reason| self.refuse(reason)).ok()
    }

    /// The message that is packed in a field.
    pub(super) fn typed<M: Message + Name + Default>(&self, any: &Any) -> Option<M> {
        match M::decode(&*any.value) {
            Ok(message) => Some(message),
            Err(error) => {
                self.refuse(format!("this is no {}: {error}", M::full_name()));
                None
            }
        }
    }

    /// A message of ours in metadata. What others put there is theirs.
    pub(super) fn extension<M: Message + Default>(&self, name: &str, metadata: Option<&core::Metadata>) -> Option<M> {
        let any = metadata?.typed_filter_metadata.get(pb::OWN)?;
        let at = self.field("metadata").key("typed_filter_metadata", pb::OWN);
        if any.type_url.rsplit('.').next() != Some(name) {
            at.refuse(format!("this is no {name}"));
            return None;
        }
        match M::decode(&*any.value) {
            Ok(message) => Some(message),
            Err(error) => {
                at.refuse(format!("this is no {name}: {error}"));
                None
            }
        }
    }

    /// A duration; `None` where it is not set, or refused.
    pub(super) fn duration(&self, name: &str, value: Option<&pb::Duration>) -> Option<Duration> {
        let value = value?;
        let read = wire::read_duration(value);
        if read.is_none() {
            self.field(name).refuse("this is not a duration");
        }
        read
    }

    /// A place of ours, or where the resource came from.
    pub(super) fn place_of(&self, place: Option<&crate::extensions::Place>) -> Place {
        place.map_or_else(|| self.place(), wire::read_place)
    }

    /// Content that came with a resource, as a file. Named by what is in it, so that a file never changes.
    pub(super) fn keep(&self, suffix: &str, content: &[u8]) -> PathBuf {
        let digest = Sha256::digest(content).iter().take(16).fold(String::with_capacity(32), |mut out, byte| {
            let _ = write!(out, "{byte:02x}");
            out
        });
        let path = self.reader.context.folder.join(format!("inline-{digest}.{suffix}"));
        self.write(path.clone(), content.to_vec());
        path
    }

    pub(super) fn write(&self, path: PathBuf, content: Vec<u8>) {
        let mut files = self.reader.files.borrow_mut();
        if files.iter().all(|file| file.path != path) {
            files.push(File { path, content });
        }
    }

    pub(super) fn refers_to_secret(&self, name: &str) {
        self.reader.secrets.borrow_mut().insert(name.into());
    }

    /// A file that is named or whose content is given.
    pub(super) fn source(&self, source: &core::DataSource, suffix: &str) -> Option<PathBuf> {
        use core::data_source::Specifier;
        unpack!(self, source => core::DataSource {
            take: [specifier],
            ignore: [watched_directory], // files are watched anyway
            refuse: [],
        });
        match specifier {
            Some(Specifier::Filename(path)) => Some(PathBuf::from(path)),
            Some(Specifier::InlineBytes(content)) => Some(self.keep(suffix, content)),
            Some(Specifier::InlineString(content)) => Some(self.keep(suffix, content.as_bytes())),
            Some(Specifier::EnvironmentVariable(_)) => {
                self.field("environment_variable").refuse("this is not supported; name a file, or give the content");
                None
            }
            None => {
                self.refuse("there is neither a file nor content");
                None
            }
        }
    }
}

/// Whether a field of a message is set.
pub(super) trait Present {
    fn is_present(&self) -> bool;
}

impl<T> Present for Option<T> {
    fn is_present(&self) -> bool {
        self.is_some()
    }
}

impl<T> Present for Vec<T> {
    fn is_present(&self) -> bool {
        !self.is_empty()
    }
}

impl<K, V> Present for HashMap<K, V> {
    fn is_present(&self) -> bool {
        !self.is_empty()
    }
}

impl Present for String {
    fn is_present(&self) -> bool {
        !self.is_empty()
    }
}

impl Present for bool {
    fn is_present(&self) -> bool {
        *self
    }
}

macro_rules! present_numbers {
    ($($number:ty),*) => {
        $(impl Present for $number {
            fn is_present(&self) -> bool {
                *self != 0
            }
        })*
    };
}

present_numbers!(i32, u32, i64);
