//! Parts of configurations, shared by all proxies that get them, and what is kept of them between generations.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::{Arc, OnceLock};

use outrigger_config::model::{Authorization, Endpoint, JwtProvider, Listener, RateLimitService};
use outrigger_xds::Resource;
use outrigger_xds::encode::Form;

use crate::manifest::Object;

/// A part of a configuration, encoded at most once for each form of answers.
#[derive(Debug)]
pub struct Part<T> {
    /// What it says.
    pub value: T,
    /// By form. A part may be several resources: a table of routes is a listener for each name to a gRPC client.
    encoded: [OnceLock<Vec<Arc<Resource>>>; 3],
}

impl<T> Part<T> {
    pub(super) fn new(value: T) -> Arc<Self> {
        Arc::new(Self { value, encoded: Default::default() })
    }

    /// Its resources in a form; made by the first who asks.
    pub(super) fn encoded(&self, form: Form, encode: impl FnOnce(&T) -> Vec<Resource>) -> &[Arc<Resource>] {
        let slot = match form {
            Form::Outrigger => &self.encoded[0],
            Form::Envoy => &self.encoded[1],
            Form::Grpc => &self.encoded[2],
        };
        slot.get_or_init(|| encode(&self.value).into_iter().map(Arc::new).collect())
    }
}

/// The endpoints of a cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct EndpointList {
    /// The cluster.
    pub cluster: Arc<str>,
    /// By zone, then by address.
    pub endpoints: Vec<Endpoint>,
}

/// A listener and what it refers to by name, but its routes.
#[derive(Debug, Clone, PartialEq)]
pub struct ListenerPart {
    /// The listener.
    pub listener: Listener,
    /// Its authorization policy, under its name.
    pub authorization: BTreeMap<Arc<str>, Authorization>,
    /// Its token providers, by name.
    pub jwt_providers: BTreeMap<Arc<str>, JwtProvider>,
    /// The rate limit services that rules of its table ask, by name.
    pub rate_limit_services: BTreeMap<Arc<str>, RateLimitService>,
}

impl ListenerPart {
    /// One that refers to nothing.
    pub(super) fn plain(listener: Listener) -> Self {
        let (authorization, jwt_providers, rate_limit_services) = Default::default();
        Self { listener, authorization, jwt_providers, rate_limit_services }
    }
}

/// Parts by what they are of.
#[derive(Debug)]
pub(super) struct Kept<K, T> {
    parts: HashMap<K, Arc<Part<T>>>,
}

impl<K, T> Default for Kept<K, T> {
    fn default() -> Self {
        Self { parts: HashMap::new() }
    }
}

impl<K: Eq + Hash, T: PartialEq> Kept<K, T> {
    pub(super) fn get(&self, key: &K) -> Option<&Arc<Part<T>>> {
        self.parts.get(key)
    }

    /// Keeps a value: as the part that there was before where it is equal.
    pub(super) fn keep(&mut self, before: &mut Self, key: K, value: T) {
        let part = same_or_new(before.parts.remove(&key), value);
        self.parts.insert(key, part);
    }
}

/// The part that there was, where the value is the same, or a new one.
pub(super) fn same_or_new<T: PartialEq>(before: Option<Arc<Part<T>>>, value: T) -> Arc<Part<T>> {
    match before {
        Some(part) if part.value == value => part,
        _ => Part::new(value),
    }
}

/// What something was made from: the same objects make the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Inputs(Vec<Arc<Object>>);

impl Inputs {
    pub(super) fn add(&mut self, object: &Arc<Object>) {
        self.0.push(Arc::clone(object));
    }

    pub(super) fn extend<'a>(&mut self, objects: impl IntoIterator<Item = &'a Arc<Object>>) {
        self.0.extend(objects.into_iter().cloned());
    }
}

impl PartialEq for Inputs {
    fn eq(&self, other: &Self) -> bool {
        self.0.len() == other.0.len() && self.0.iter().zip(&other.0).all(|(a, b)| Arc::ptr_eq(a, b))
    }
}
