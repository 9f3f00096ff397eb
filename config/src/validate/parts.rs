//! The checks by themselves, for documents that share parts of the configuration's language: see [`crate::language`].

use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::{
    Check, MAX_GUESSES, Names, access, balance, breakers, faults, filters, health, identity, matches, names, opaque,
    overload, policies, sessions, tls, tokens, tunnels, units,
};
use crate::limits::Bounds;
use crate::model::{
    Action, Admission, Authorization, Balance, Breakers, Criticality, EndpointCeilings, Fault, Filter, GlobalRateLimit,
    HashKey, HealthCheck, Hedge, HostPattern, Interception, JwtProvider, Match, OutlierDetection, RateLimit,
    RateLimitService, Retry, RetryOn, SessionPersistence, Upgrades,
};
use crate::raw::{self, DurationText};
use crate::read::{Field, Key, List};
use crate::sink::Sink;
use crate::source::Span;
use crate::spiffe::TrustDomain;

/// Checks of parts of the language. Every problem goes to one [`Sink`].
pub struct Checker<'a, 't> {
    check: Check<'a, 't>,
}

/// Matches and filters of a rule.
#[derive(Debug)]
pub struct CheckedRule {
    /// Any of these; empty matches everything.
    pub matches: Vec<Match>,
    /// Applied in order.
    pub filters: Vec<Filter>,
    /// The answer of a filter that makes one itself.
    pub answer: Option<Action>,
}

impl<'a, 't> Checker<'a, 't> {
    /// Checks that report to `sink`.
    #[must_use]
    pub fn new(sink: &'a Sink<'t>) -> Self {
        let check = Check {
            sink,
            partial: false,
            mesh: identity::Mesh::given(),
            patterns: RefCell::default(),
            guesses: Cell::new(MAX_GUESSES),
            rates: RefCell::default(),
            zoned: true,
        };
        Self { check }
    }

    /// Where problems go.
    #[must_use]
    pub fn sink(&self) -> &'a Sink<'t> {
        self.check.sink
    }

    /// Reports an error.
    pub fn error(&self, span: Span, message: impl Into<String>, fix: impl Into<String>) {
        self.check.error(span, message, fix);
    }

    /// A field that must be there. `owner` is where the thing that lacks it stands, `lack` says what is missing, and the
    /// fix.
    pub fn required<'f, T>(&self, field: &'f Field<T>, owner: Span, lack: (&str, &str)) -> Option<(&'f T, Span)> {
        self.check.required(field, owner, lack)
    }

    /// A number within bounds.
    pub fn number(&self, field: &Field<u64>, bounds: Bounds) -> Option<u64> {
        field.get().map(|_| self.check.number(field, bounds.min, bounds))
    }

    /// A duration above zero.
    pub fn duration(&self, field: &Field<DurationText>) -> Option<Duration> {
        field.get().map(|_| self.check.duration(field, Duration::from_secs(1)))
    }

    /// A duration, zero included.
    pub fn duration_or_zero(&self, field: &Field<DurationText>) -> Option<Duration> {
        let (text, span) = field.here()?;
        self.check.parsed(units::duration(&text.0), span)
    }

    /// A name that becomes a label and a word in logs.
    pub fn name(&self, text: &str, span: Span) -> Option<Arc<str>> {
        self.check.parsed(names::name(text), span).map(|()| Arc::from(text))
    }

    /// A host name without port, in the form in which it is compared.
    pub fn host(&self, text: &str, span: Span) -> Option<Arc<str>> {
        self.check.parsed(names::host(text), span)
    }

    /// A server name as TLS clients send it: exact, by suffix, or `*`.
    pub fn server_pattern(&self, text: &str, span: Span) -> Option<HostPattern> {
        self.check.parsed(tls::server_pattern(text), span)
    }

    /// The path of a file of the proxy's host.
    pub fn file(&self, text: &str, span: Span) -> Option<PathBuf> {
        self.check.parsed(identity::file(text), span)
    }

    /// A trust domain.
    pub fn trust_domain(&self, text: &str, span: Span) -> Option<TrustDomain> {
        self.check.parsed(identity::trust_domain(text), span)
    }

    /// Reports a list that is longer than `max`, and gives the part within. `at` is where it stands and what its entries
    /// are.
    pub fn within<'f, T>(&self, list: &'f [T], max: usize, at: (Option<Span>, &str)) -> &'f [T] {
        self.check.within(list, max, at)
    }

    /// Matches and filters. The other fields of the rule are not looked at.
    pub fn rule(&self, rule: &raw::Rule) -> CheckedRule {
        let mut matches = matches::matches(&self.check, &rule.matches, true);
        let filters::Checked { filters, terminal, prefix_rewrite } =
            filters::of_rule(&self.check, &rule.filters, &nothing_known("cluster"));
        if let Some(at) = prefix_rewrite {
            matches::require_prefixes(&self.check, &mut matches, at);
        }
        CheckedRule { matches, filters, answer: terminal.map(|(action, _)| action) }
    }

    /// How an endpoint is chosen.
    pub fn balance(&self, field: &Field<raw::LoadBalancing>) -> Balance {
        balance::balance(&self.check, field)
    }

    /// Ceilings of each endpoint, and breakers.
    pub fn breakers(&self, field: &Field<raw::CircuitBreaker>) -> (EndpointCeilings, Breakers) {
        let breakers::Checked { ceilings: _, endpoint_ceilings, breakers } = breakers::of_cluster(&self.check, field);
        (endpoint_ceilings, breakers)
    }

    /// A health check of endpoints that speak HTTP/1 or HTTP/2, which is not known yet.
    pub fn health_check(&self, field: &Field<raw::HealthCheck>) -> Option<HealthCheck> {
        let any = Field::Here(raw::ClusterProtocol::Auto, Span::START);
        health::check(&self.check, field, &any)
    }

    /// Ejection by what came of requests.
    pub fn outlier_detection(&self, field: &Field<raw::OutlierDetection>) -> Option<OutlierDetection> {
        health::outliers(&self.check, field)
    }

    /// How requests are let in when it is busy.
    pub fn admission(&self, queue: &Field<raw::Queue>, concurrency: &Field<raw::Concurrency>) -> Admission {
        overload::admission(&self.check, queue, concurrency)
    }

    /// Retries of a rule.
    pub fn retry(&self, field: &Field<raw::Retry>) -> Retry {
        policies::retry(&self.check, field)
    }

    /// Hedged attempts. `retry` is that of the same rule.
    pub fn hedge(&self, field: &Field<raw::Hedge>, retry: &Retry) -> Option<Hedge> {
        policies::hedge(&self.check, field, (retry, &[]))
    }

    /// What consistent hashing goes by.
    pub fn hash(&self, field: &Field<List<raw::HashKey>>) -> Vec<HashKey> {
        sessions::hash(&self.check, field)
    }

    /// Sessions that stay with one endpoint.
    pub fn session(&self, field: &Field<raw::SessionPersistence>) -> Option<SessionPersistence> {
        sessions::session(&self.check, field)
    }

    /// Rate limits that a proxy keeps by itself. Names are unique among all that this checks.
    pub fn rate_limits(&self, field: &Field<List<raw::RateLimit>>) -> Vec<RateLimit> {
        overload::rate_limits(&self.check, field)
    }

    /// Questions to rate limit services. Whether there are such services is not looked at.
    pub fn global_rate_limits(&self, field: &Field<List<raw::GlobalRateLimit>>) -> Vec<GlobalRateLimit> {
        overload::global(&self.check, field, &nothing_known("rate limit service"))
    }

    /// How a rate limit service is asked: `who` is how it is called, and where it is written. Its cluster has no name.
    pub fn rate_limit_service(
        &self,
        who: (&str, Span),
        domain: &Field<String>,
        (timeout, on_failure): (&Field<DurationText>, &Field<raw::OnFailure>),
    ) -> Option<RateLimitService> {
        overload::asked(&self.check, who, (domain, timeout, on_failure))
    }

    /// How much requests matter.
    #[must_use]
    pub fn criticality(&self, field: &Field<raw::Criticality>) -> Option<Criticality> {
        overload::criticality(field)
    }

    /// Faults that are injected.
    pub fn fault(&self, field: &Field<raw::Fault>) -> Option<Arc<Fault>> {
        faults::fault(&self.check, field)
    }

    /// The name of a header that is read.
    pub fn header(&self, field: &Field<String>) -> Option<http::HeaderName> {
        self.check.header(field)
    }

    /// The name of a cookie.
    pub fn cookie(&self, text: &str, span: Span) -> Option<Arc<str>> {
        self.check.parsed(names::cookie(text), span)
    }

    /// Upgrades and CONNECT.
    #[must_use]
    pub fn upgrades(&self, field: &Field<raw::Upgrades>) -> Upgrades {
        tunnels::upgrades(&self.check, field)
    }

    /// Redirected connections.
    #[must_use]
    pub fn interception(&self, field: &Field<raw::Interception>) -> Option<Interception> {
        field.get().map(opaque::interception)
    }

    /// Filters of one backend.
    pub fn backend_filters(&self, filters: &Field<List<raw::Filter>>) -> Vec<Filter> {
        filters::of_backend(&self.check, filters)
    }

    /// Conditions for a retry.
    pub fn retry_conditions(&self, field: &Field<List<raw::RetryCondition>>) -> Vec<RetryOn> {
        policies::conditions(&self.check, field)
    }

    /// An authorization policy. References to token providers are not looked at.
    pub fn authorization(
        &self,
        (name, span): (&str, Span),
        default: &Field<raw::Access>,
        rules: &Field<List<raw::AccessRule>>,
    ) -> Option<Authorization> {
        let unknown = nothing_known("token provider");
        let policy = access::Policy { check: &self.check, providers: &unknown, merges: true };
        policy.read_fields((&key(name, span), name.into()), default, rules)
    }

    /// A provider of tokens.
    pub fn jwt_provider(&self, (name, span): (&str, Span), raw: &raw::JwtProvider) -> Option<JwtProvider> {
        tokens::provider(&self.check, (&key(name, span), name.into()), raw)
    }
}

/// Names of which nothing is said.
fn nothing_known(what: &'static str) -> Names<'static> {
    Names { what, section: "", known: None }
}

fn key(name: &str, span: Span) -> Key {
    Key { text: name.to_owned(), span }
}
