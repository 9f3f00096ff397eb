//! Routes to rules, in the order in which they are tried: a proxy takes the first that matches, so that the sorting of the
//! Gateway API happens here.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write as _;
use std::sync::Arc;

use http::{HeaderValue, StatusCode};
use outrigger_config::limits::{MAX_MATCHES, MAX_NAME_BYTES};
use outrigger_config::model::{
    Action, BackendRef, DirectResponse, Filter, Labels, Match, Mirror, Place, Rule, SessionPersistence,
};
use sha2::{Digest as _, Sha256};

use super::backends::{Backends, INVALID_BACKEND, PortKey, Share};
use super::settings;
use crate::manifest::object::{MirrorTo, RouteRule, Spec, Traffic};
use crate::manifest::{Attached, Kind, Mesh, Name, Object};

/// The rules of one port, and the ports that they lead to; `None` is what leads nowhere.
pub(super) struct PortRules {
    pub(super) rules: Vec<Rule>,
    pub(super) needs: BTreeSet<Option<PortKey>>,
}

/// Rules of a port of a Service for callers of a namespace.
pub(super) struct Maker<'a> {
    pub(super) mesh: &'a Mesh,
    pub(super) backends: &'a Backends,
    pub(super) service: &'a Name,
    pub(super) port: u16,
}

impl Maker<'_> {
    /// Without a route: everything goes to the Service.
    pub(super) fn plain(&self, place: &Place) -> PortRules {
        let key = (self.service.clone(), self.port);
        let Some(port) = self.backends.port(&key) else {
            return PortRules { rules: Vec::new(), needs: BTreeSet::new() };
        };
        let backends = weighted(&[Resolved { shares: &port.shares, weight: 1, filters: Vec::new() }]);
        let rule = made(&port.traffic, (bounded(self.at()), Action::Forward(backends), place));
        PortRules { rules: vec![rule], needs: BTreeSet::from([Some(key)]) }
    }

    /// Every match of every rule of every route, the most specific first; those with the same rank in the order of the
    /// routes, then of the rules.
    pub(super) fn routed(&self, attached: Attached<'_>) -> PortRules {
        let mut sorted = Vec::new();
        for (seniority, object) in attached.routes.iter().enumerate() {
            let Spec::Route(route) = &object.spec else { continue };
            for (number, rule) in route.rules.iter().enumerate() {
                for (at, one) in rule.matches.iter().enumerate() {
                    sorted.push(((one.rank, seniority, number, at), (object, rule, &one.condition)));
                }
            }
        }
        sorted.sort_by_key(|(key, _)| *key);
        let mut out = PortRules { rules: Vec::new(), needs: BTreeSet::new() };
        let mut actions: HashMap<(usize, usize), Action> = HashMap::new();
        let mut parts: HashMap<(usize, usize), usize> = HashMap::new();
        let mut last: Option<(usize, usize)> = None;
        for ((_, seniority, number, _), (object, rule, condition)) in sorted {
            let which = (seniority, number);
            // Neighbours of one rule stay one rule.
            if let (true, Some(rule)) = (last == Some(which), out.rules.last_mut())
                && rule.matches.len() < MAX_MATCHES
            {
                rule.matches.push(condition.clone());
                continue;
            }
            last = Some(which);
            let part = parts.entry(which).and_modify(|part| *part += 1).or_insert(1);
            let name = self.rule_name(object, (rule, number), *part);
            let action = actions.entry(which).or_insert_with(|| self.action(object, rule, &mut out.needs)).clone();
            let mut made = self.rule(rule, (name, condition.clone(), action));
            made.filters.extend(self.mirrors(object, rule, &mut out.needs));
            out.rules.push(made);
        }
        out
    }

    fn rule(&self, rule: &RouteRule, (name, condition, action): (Arc<str>, Match, Action)) -> Rule {
        let lower = self.backends.port(&(self.service.clone(), self.port)).map(|port| &port.traffic);
        let traffic = lower.map_or_else(|| rule.traffic.clone(), |lower| rule.traffic.over(lower));
        let traffic = Traffic {
            // A route's own retry says when as well.
            retry_on: rule.traffic.retry_on.clone().or(traffic.retry_on.clone()),
            ..traffic
        };
        let mut out = made(&traffic, (name, action, &rule.place));
        out.matches = vec![condition];
        out.filters.extend(rule.filters.iter().cloned());
        if let (Some(own), Some(said)) = (&rule.session, &mut out.session) {
            // The route says what sessions are, and the policy how they are signed and kept.
            let SessionPersistence { key_file, strict, .. } = said.clone();
            *said = SessionPersistence { key_file, strict, ..own.value.clone() };
        }
        out
    }

    /// Copies, to those that lead somewhere. Of a Service with endpoints in the mesh and outside, those in the mesh get them.
    fn mirrors(&self, object: &Object, rule: &RouteRule, needs: &mut BTreeSet<Option<PortKey>>) -> Vec<Filter> {
        let mut out = Vec::with_capacity(rule.mirrors.len());
        for MirrorTo { backend, share } in &rule.mirrors {
            let Ok(key) = self.mesh.backend(&object.id, self.service, backend) else { continue };
            let Some(first) = self.backends.port(&key).and_then(|port| port.shares.first()) else { continue };
            out.push(Filter::Mirror(Mirror { cluster: Arc::clone(&first.cluster), share: *share }));
            needs.insert(Some(key));
        }
        out
    }

    fn action(&self, object: &Object, rule: &RouteRule, needs: &mut BTreeSet<Option<PortKey>>) -> Action {
        if let Some(answer) = &rule.answer {
            return answer.clone();
        }
        let invalid = [Share { cluster: INVALID_BACKEND.into(), weight: 1 }];
        let mut resolved = Vec::with_capacity(rule.backends.len());
        let mut wanted = BTreeSet::new();
        let mut valid = false;
        for backend in rule.backends.iter().filter(|backend| backend.weight > 0) {
            let key = self.mesh.backend(&object.id, self.service, backend).ok();
            let port = key.as_ref().and_then(|key| self.backends.port(key));
            valid |= port.is_some();
            let shares = port.map_or(&invalid[..], |port| &port.shares);
            wanted.insert(port.and(key));
            resolved.push(Resolved { shares, weight: backend.weight, filters: backend.filters.clone() });
        }
        if !valid {
            return nowhere(object.id.kind);
        }
        needs.extend(wanted);
        Action::Forward(weighted(&resolved))
    }

    fn rule_name(&self, object: &Object, (rule, number): (&RouteRule, usize), part: usize) -> Arc<str> {
        let mut name = format!("{}/", object.id.name);
        // Writing to a String cannot fail.
        let _ = match &rule.name {
            Some(own) => write!(name, "{own}"),
            None => write!(name, "{number}"),
        };
        if part > 1 {
            let _ = write!(name, "~{part}");
        }
        let _ = write!(name, "@{}", self.at());
        bounded(name)
    }

    fn at(&self) -> String {
        format!("{}:{}", self.service, self.port)
    }
}

/// A rule of these settings that takes everything.
pub(super) fn made(traffic: &Traffic, (name, action, place): (Arc<str>, Action, &Place)) -> Rule {
    let mut rule = Rule {
        name,
        matches: Vec::new(),
        filters: Vec::new(),
        action,
        timeouts: settings::timeouts(traffic),
        retry: settings::retry(traffic),
        hedge: None,
        breaker: None,
        hash: Vec::new(),
        session: None,
        rate_limits: Vec::new(),
        global_rate_limits: Vec::new(),
        criticality: None,
        external_authorization: true,
        place: place.clone(),
    };
    settings::put_into(&mut rule, traffic);
    rule
}

/// A backend with the clusters that it is.
struct Resolved<'a> {
    shares: &'a [Share],
    weight: u32,
    filters: Vec<outrigger_config::model::Filter>,
}

/// Backends by cluster. A backend with endpoints in the mesh and outside of it is two, by the weights of their endpoints.
fn weighted(backends: &[Resolved<'_>]) -> Vec<BackendRef> {
    let split = backends.iter().any(|backend| backend.shares.len() > 1);
    let largest = backends.iter().map(|backend| backend.weight).max().unwrap_or(1).max(1);
    let scale = if split { u64::from(MOST / largest).max(1) } else { 1 };
    let mut out = Vec::new();
    for Resolved { shares, weight, filters } in backends {
        let weight = u64::from(*weight) * scale;
        let total: u64 = shares.iter().map(|share| u64::from(share.weight)).sum();
        for share in *shares {
            let own = if shares.len() == 1 { weight } else { weight * u64::from(share.weight) / total.max(1) };
            let weight = u32::try_from(own.max(1)).unwrap_or(MOST).min(MOST);
            // Several backends that lead nowhere are one.
            match out.iter_mut().find(|other: &&mut BackendRef| other.cluster == share.cluster) {
                Some(other) => other.weight = other.weight.saturating_add(weight).min(MOST),
                None => {
                    out.push(BackendRef {
                        cluster: Arc::clone(&share.cluster),
                        weight,
                        subset: Labels::new(),
                        filters: filters.clone(),
                    });
                }
            }
        }
    }
    out
}

/// The largest weight that a backend may have.
const MOST: u32 = 1_000_000;

/// The answer where no backend leads anywhere. gRPC callers read 503 as UNAVAILABLE.
fn nowhere(kind: Kind) -> Action {
    let (status, body) = match kind {
        Kind::GrpcRoute => (StatusCode::SERVICE_UNAVAILABLE, "the route has no valid backend\n"),
        _ => (StatusCode::INTERNAL_SERVER_ERROR, "the route has no valid backend\n"),
    };
    Action::Direct(DirectResponse {
        status,
        body: body.as_bytes().into(),
        content_type: HeaderValue::from_static("text/plain; charset=utf-8"),
    })
}

/// A name that fits: a long one is cut and told apart by a hash.
pub(super) fn bounded(name: String) -> Arc<str> {
    if name.len() <= MAX_NAME_BYTES {
        return name.into();
    }
    let hash = Sha256::digest(&name);
    let mut tail = String::from("~");
    for byte in hash.iter().take(6) {
        // Writing to a String cannot fail.
        let _ = write!(tail, "{byte:02x}");
    }
    let mut end = MAX_NAME_BYTES - tail.len();
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{tail}", &name[..end]).into()
}
