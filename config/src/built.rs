//! Configurations that were built in code, not read from a text: by the control plane's compiler, or from resources that
//! came over xDS. They are held to the rules that written ones are held to, and problems name the thing and its field
//! where a written one has a line and a column.
//!
//! Some rules are softer, because what is missing may yet come: a configuration may have no listeners and a cluster no
//! endpoints, and a claim may name a provider that is not there, which then verifies nothing, so that it never holds.

mod access;
mod balance;
mod clusters;
mod health;
mod listeners;
mod opaque;
mod overload;
mod routes;
#[cfg(test)]
mod tests;
mod text;
mod tokens;

use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::diagnostics::Diagnostics;
use crate::limits::{Bounds, MAX_HOURS, MAX_PATTERNS};
use crate::load::Loaded;
use crate::model::{Config, Drain, Node, Validated};
use crate::validate::Wrong;

/// What a problem is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// The process: node, admin server, drain.
    Process,
    /// The mesh identity.
    Identity,
    /// A listener.
    Listener,
    /// A route table.
    Routes,
    /// A cluster.
    Cluster,
    /// An authorization policy.
    Authorization,
    /// A token provider.
    JwtProvider,
    /// An authorizer outside.
    ExternalAuthorizer,
    /// A rate limit service.
    RateLimitService,
}

impl Part {
    /// In words.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Identity => "identity",
            Self::Listener => "listener",
            Self::Routes => "route table",
            Self::Cluster => "cluster",
            Self::Authorization => "authorization policy",
            Self::JwtProvider => "token provider",
            Self::ExternalAuthorizer => "external authorizer",
            Self::RateLimitService => "rate limit service",
        }
    }
}

/// Something that is wrong with a configuration built in code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What kind of thing it is about.
    pub part: Part,
    /// The name of the thing; empty for the process and the identity.
    pub name: Arc<str>,
    /// The field, in the words of the model: `hosts[0].rules[2].timeouts.request`.
    pub field: String,
    /// What is wrong.
    pub message: String,
    /// What would be right.
    pub fix: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { part, name, field, message, fix } = self;
        write!(f, "{} `{name}`, {field}: {message}; {fix}", part.as_str())
    }
}

/// Checks a configuration as a whole.
///
/// # Errors
/// Every problem, at most [`MAX_PROBLEMS`].
pub fn check(config: Config) -> Result<Validated<Config>, Vec<Problem>> {
    let problems = RefCell::new(Vec::new());
    whole(&config, &problems);
    let problems = problems.into_inner();
    if problems.is_empty() { Ok(Validated::new(config)) } else { Err(problems) }
}

/// Problems that are kept of one configuration.
pub const MAX_PROBLEMS: usize = 250;

impl Loaded {
    /// A checked configuration that was built in code. `hash` identifies its content as the caller sees fit.
    #[must_use]
    pub fn built(config: Validated<Config>, hash: impl Into<String>) -> Self {
        Self { config, warnings: Diagnostics::default(), hash: hash.into(), control_plane: None }
    }
}

fn whole(config: &Config, problems: &RefCell<Vec<Problem>>) {
    let Config {
        node,
        admin,
        access_log: _,
        workers,
        drain,
        listeners,
        routes,
        clusters,
        identity,
        authorization,
        jwt_providers,
        external_authorizers,
        rate_limit_services,
        overload,
    } = config;
    let of = |part: Part, name: &Arc<str>| Subject { part, name: Arc::clone(name), problems, config };
    let nameless: Arc<str> = Arc::from("");
    let process = of(Part::Process, &nameless);
    self::process(&process, (node, drain));
    overload::overload(&process, overload);
    if let Some(workers) = workers {
        process.number("workers", u64::from(*workers), crate::limits::WORKERS);
    }
    if let Some(identity) = identity {
        listeners::identity(&of(Part::Identity, &nameless), identity);
    }
    process.at_most("listeners", listeners.len(), crate::limits::MAX_LISTENERS);
    process.at_most("routes", routes.len(), crate::limits::MAX_ROUTE_TABLES);
    process.at_most("clusters", clusters.len(), crate::limits::MAX_CLUSTERS);
    process.at_most("authorization", authorization.len(), crate::limits::MAX_POLICIES);
    process.at_most("jwt_providers", jwt_providers.len(), crate::limits::MAX_JWT_PROVIDERS);
    process.at_most("external_authorizers", external_authorizers.len(), crate::limits::MAX_EXTERNAL_AUTHORIZERS);
    process.at_most("rate_limit_services", rate_limit_services.len(), crate::limits::MAX_RATE_LIMIT_SERVICES);
    process.at_most("patterns", text::patterns(config), MAX_PATTERNS);
    let rules = routes.values().flat_map(|table| &table.hosts).map(|host| host.rules.len()).sum();
    process.at_most("rules", rules, crate::limits::MAX_RULES);

    listeners::binds(listeners, admin, |listener| of(Part::Listener, &listener.name));
    opaque::intercepts(listeners, |listener| of(Part::Listener, &listener.name));
    let mut seen = HashSet::new();
    let mut rates = HashSet::new();
    for listener in listeners {
        let subject = of(Part::Listener, &listener.name);
        if !seen.insert(&listener.name) {
            subject.say("name", "a second listener has this name", "give it another name");
        }
        listeners::listener(&subject, listener);
        overload::unique(&subject, "rate_limits", (&listener.rate_limits, &mut rates));
    }
    each(routes, |name, table| {
        let subject = of(Part::Routes, name);
        subject.key(name, &table.name);
        routes::table(&subject, table);
    });
    for (name, table) in routes {
        let subject = of(Part::Routes, name);
        for rule in table.hosts.iter().flat_map(|host| &host.rules) {
            overload::unique(&subject, &format!("rule {}", rule.name), (&rule.rate_limits, &mut rates));
        }
    }
    each(clusters, |name, cluster| {
        let subject = of(Part::Cluster, name);
        subject.key(name, &cluster.name);
        clusters::cluster(&subject, cluster);
    });
    each(authorization, |name, policy| {
        let subject = of(Part::Authorization, name);
        subject.key(name, &policy.name);
        access::policy(&subject, policy);
    });
    each(jwt_providers, |name, provider| {
        let subject = of(Part::JwtProvider, name);
        subject.key(name, &provider.name);
        tokens::provider(&subject, provider);
    });
    each(external_authorizers, |name, authorizer| {
        let subject = of(Part::ExternalAuthorizer, name);
        subject.key(name, &authorizer.name);
        tokens::authorizer(&subject, authorizer);
    });
    each(rate_limit_services, |name, service| {
        let subject = of(Part::RateLimitService, name);
        subject.named("name", name);
        overload::service(&subject, service);
    });
}

fn each<T>(map: &BTreeMap<Arc<str>, T>, mut check: impl FnMut(&Arc<str>, &T)) {
    for (name, value) in map {
        check(name, value);
    }
}

fn process(subject: &Subject<'_>, (node, drain): (&Node, &Drain)) {
    let Node { id, service, zone } = node;
    subject.named("node.id", id);
    for (field, name) in [("node.service", service), ("node.zone", zone)] {
        if let Some(name) = name {
            subject.named(field, name);
        }
    }
    let Drain { accept_for, deadline } = drain;
    subject.duration_or_zero("drain.accept_for", *accept_for);
    subject.duration("drain.deadline", *deadline);
    if accept_for > deadline {
        let fix = "make it shorter than `drain.deadline`";
        subject.say("drain.accept_for", "new connections would be accepted beyond the end of the drain", fix);
    }
}

/// A thing that is looked at, and where its problems go.
struct Subject<'a> {
    part: Part,
    name: Arc<str>,
    problems: &'a RefCell<Vec<Problem>>,
    config: &'a Config,
}

impl Subject<'_> {
    fn say(&self, field: impl Into<String>, message: impl Into<String>, fix: impl Into<String>) {
        let mut problems = self.problems.borrow_mut();
        if problems.len() < MAX_PROBLEMS {
            problems.push(Problem {
                part: self.part,
                name: Arc::clone(&self.name),
                field: field.into(),
                message: message.into(),
                fix: fix.into(),
            });
        }
    }

    /// Reports what a rule that written configurations are held to as well found wrong.
    fn held<T>(&self, field: &str, result: Result<T, Wrong>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(Wrong { message, fix }) => {
                self.say(field, message, fix);
                None
            }
        }
    }

    /// Reports a text that is not in the form in which the proxy compares it.
    fn same<T: PartialEq>(&self, field: &str, result: Result<T, Wrong>, given: &T) {
        if let Some(normal) = self.held(field, result)
            && normal != *given
        {
            self.say(field, "this is not in its normal form", "write it as the proxy compares it");
        }
    }

    fn named(&self, field: &str, name: &str) {
        self.held(field, crate::validate::name(name));
    }

    fn key(&self, key: &str, name: &str) {
        self.named("name", name);
        if key != name {
            self.say("name", format!("it is filed as `{key}` and named `{name}`"), "give both the same name");
        }
    }

    fn number(&self, field: &str, value: u64, Bounds { min, max }: Bounds) {
        if value < min || value > max {
            self.say(field, format!("{value} is out of range"), format!("give a number from {min} to {max}"));
        }
    }

    fn at_most(&self, field: &str, count: usize, max: usize) {
        if count > max {
            self.say(field, format!("{count} entries: at most {max} are allowed"), "split it up");
        }
    }

    fn duration(&self, field: &str, value: Duration) {
        if value.is_zero() {
            self.say(field, "this duration cannot be zero", "give a duration above zero");
        }
        self.duration_or_zero(field, value);
    }

    fn duration_or_zero(&self, field: &str, value: Duration) {
        if value > Duration::from_secs(MAX_HOURS * 3600) {
            self.say(field, "this duration is longer than any limit may be", format!("give at most {MAX_HOURS} h"));
        }
    }

    /// Reports a name that leads nowhere.
    fn refers<T>(&self, field: &str, name: &Arc<str>, known: &BTreeMap<Arc<str>, T>, what: &str) {
        if !known.contains_key(name) {
            self.say(field, format!("there is no {what} named `{name}`"), "define it, or refer to another");
        }
    }

    fn needs_identity(&self, field: &str, why: &str) {
        if self.config.identity.is_none() {
            self.say(field, format!("{why}, and there is no mesh identity"), "give the proxy an identity");
        }
    }
}
