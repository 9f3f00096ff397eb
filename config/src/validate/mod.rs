//! Raw to model. Nothing stops at a problem: a value that is wrong is reported and replaced by its default, so that
//! the rest is still looked at. The model made on the way is given out only when there was no error at all.

mod access;
mod balance;
pub(crate) mod binds;
mod breakers;
mod clusters;
mod control_plane;
mod faults;
mod filters;
mod guards;
mod headers;
mod health;
mod http3;
mod identity;
mod listeners;
mod matches;
mod names;
mod opaque;
mod overload;
mod parts;
mod policies;
mod process;
mod reach;
mod routes;
mod sessions;
mod ties;
mod tls;
mod tokens;
mod tunnels;
mod units;

pub(crate) use access::cidr;
pub(crate) use balance::label_value;
pub(crate) use breakers::WINDOWS;
pub(crate) use faults::DELAYS;
pub(crate) use filters::{authority, groups_exist, new_path, origin};
pub(crate) use headers::{editable, value as header_value};
pub(crate) use health::{INTERVALS, authority as probe_authority, probe_header, probe_path, service_name};
pub(crate) use identity::{file, identity_pattern, namespace};
pub(crate) use names::{Anchors, compile, host, host_pattern, name, path, target, virtual_host};
pub(crate) use names::{cookie, cookie_path, parameter, word as compared};
pub(crate) use overload::PERIODS;
pub use parts::{CheckedRule, Checker};
pub(crate) use tls::{server_name, server_pattern, subject_name};
pub(crate) use tokens::{claim_header, end_to_end, jwks_url, word};
pub(crate) use tunnels::upgrade;
pub(crate) use units::{show_decimal, show_duration, show_timestamp, timestamp};

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use crate::limits::{self, Bounds};
use crate::model::{Config, ControlPlane, Place, Setting};
use crate::raw::{self, DurationText, SizeText};
use crate::read::{Entries, Field, Key, List};
use crate::sink::Sink;
use crate::source::Span;
use crate::text::{nearest, quoted};

/// Checks a configuration as a whole. The result means something only if `sink` has no errors afterwards.
///
/// `partial` says that the text had syntax errors and parts are missing: what is missing is then no problem of its own.
pub(crate) fn validate(
    raw: &raw::Config,
    span: Span,
    partial: bool,
    sink: &Sink<'_>,
) -> (Config, Option<ControlPlane>) {
    let raw::Config {
        node,
        admin,
        access_log,
        workers,
        drain,
        identity,
        listeners,
        routes,
        clusters,
        authorization,
        jwt_providers,
        external_authorizers,
        rate_limit_services,
        overload,
        control_plane,
    } = raw;
    let check = Check {
        sink,
        partial,
        mesh: identity::Mesh::of(identity),
        patterns: RefCell::default(),
        guesses: Cell::new(MAX_GUESSES),
        rates: RefCell::default(),
        zoned: node.is_bad() || node.get().is_some_and(|node| !node.zone.is_absent()),
    };

    let admin = process::admin(&check, admin);
    let mesh = identity::identity(&check, identity);
    if !control_plane.is_absent() {
        let sections = [
            ("listeners", listeners.span()),
            ("routes", routes.span()),
            ("clusters", clusters.span()),
            ("authorization", authorization.span()),
            ("jwtProviders", jwt_providers.span()),
            ("externalAuthorizers", external_authorizers.span()),
            ("rateLimitServices", rate_limit_services.span()),
        ];
        control_plane::no_resources(&check, &sections);
        let config = Config {
            node: process::node(&check, node),
            admin: admin.settings,
            access_log: process::access_log(&check, access_log),
            workers: workers.get().map(|_| small(check.number(workers, 1, limits::WORKERS))),
            drain: process::drain(&check, drain),
            listeners: Vec::new(),
            routes: BTreeMap::new(),
            clusters: BTreeMap::new(),
            identity: mesh,
            authorization: BTreeMap::new(),
            jwt_providers: BTreeMap::new(),
            external_authorizers: BTreeMap::new(),
            rate_limit_services: BTreeMap::new(),
            overload: overload::overload(&check, overload),
        };
        return (config, control_plane::control_plane(&check, control_plane, identity.span()));
    }
    let references = References::of(raw);
    let raw_listeners = listeners;
    let listeners = listeners::listeners(&check, raw_listeners, (span, &references, admin.bound));
    let routes = routes::tables(&check, routes, &references, &listeners);
    let clusters = clusters::clusters(&check, clusters);
    let authorization = access::policies(&check, authorization, (&listeners, &references.providers));
    let jwt_providers = tokens::providers(&check, jwt_providers);
    let external_authorizers = tokens::authorizers(&check, external_authorizers, &references);
    let rate_limit_services = overload::services(&check, rate_limit_services, &references);
    guards::look(&check, (raw_listeners, &listeners), &authorization);
    references.warn_unused(&check);
    check.mesh.warn_unused(&check, identity);

    let config = Config {
        node: process::node(&check, node),
        admin: admin.settings,
        access_log: process::access_log(&check, access_log),
        workers: workers.get().map(|_| small(check.number(workers, 1, limits::WORKERS))),
        drain: process::drain(&check, drain),
        listeners,
        routes,
        clusters,
        identity: mesh,
        authorization,
        jwt_providers,
        external_authorizers,
        rate_limit_services,
        overload: overload::overload(&check, overload),
    };
    (config, None)
}

/// What every check needs.
struct Check<'a, 't> {
    sink: &'a Sink<'t>,
    partial: bool,
    mesh: identity::Mesh,
    /// Compiled regular expressions, so that one that is written often is compiled once.
    patterns: RefCell<HashMap<(String, names::Anchors), Option<regex::Regex>>>,
    /// Comparisons that may still be spent on guessing what was meant: with ten thousand dangling references to ten
    /// thousand clusters, guessing would take minutes.
    guesses: Cell<usize>,
    /// Names of rate limits, and where they stand: they are unique in the whole configuration.
    rates: RefCell<HashMap<Arc<str>, Span>>,
    /// This proxy knows its zone.
    zoned: bool,
}

/// Comparisons of two words, for all guesses in one text.
const MAX_GUESSES: usize = 100_000;

impl Check<'_, '_> {
    fn error(&self, span: Span, message: impl Into<String>, fix: impl Into<String>) {
        self.sink.error(span, message, fix);
    }

    fn warning(&self, span: Span, message: impl Into<String>, fix: impl Into<String>) {
        self.sink.warning(span, message, fix);
    }

    fn place(&self, span: Span) -> Place {
        self.sink.source.place(span)
    }

    /// A field that must be there. `owner` is where the thing that lacks it stands.
    fn required<'f, T>(&self, field: &'f Field<T>, owner: Span, lack: (&str, &str)) -> Option<(&'f T, Span)> {
        if field.is_absent() {
            self.error(owner, lack.0, lack.1);
        }
        field.here()
    }

    fn number(&self, field: &Field<u64>, default: u64, bounds: Bounds) -> u64 {
        let Some((&value, span)) = field.here() else { return default };
        if value < bounds.min || value > bounds.max {
            self.error(
                span,
                format!("{value} is out of range"),
                format!("write a number from {} to {}", bounds.min, bounds.max),
            );
            return default;
        }
        value
    }

    fn flag(&self, field: &Field<bool>, default: bool) -> bool {
        field.get().copied().unwrap_or(default)
    }

    /// A duration above zero.
    fn duration(&self, field: &Field<DurationText>, default: Duration) -> Duration {
        let Some((text, span)) = field.here() else { return default };
        match self.parsed(units::duration(&text.0), span) {
            Some(Duration::ZERO) => {
                self.error(span, "this duration cannot be zero", "write a duration above zero, such as `1s`");
                default
            }
            Some(value) => value,
            None => default,
        }
    }

    /// A duration, zero included.
    fn duration_or_zero(&self, field: &Field<DurationText>, default: Duration) -> Duration {
        let Some((text, span)) = field.here() else { return default };
        self.parsed(units::duration(&text.0), span).unwrap_or(default)
    }

    /// A duration within bounds.
    fn time(&self, field: &Field<DurationText>, default: Duration, (min, max): (Duration, Duration)) -> Duration {
        let value = self.duration(field, default);
        if let (false, Some(span)) = ((min..=max).contains(&value), field.span()) {
            let (min, max) = (units::show_duration(min), units::show_duration(max));
            self.error(span, "this duration is out of range", format!("write one from {min} to {max}"));
            return default;
        }
        value
    }

    /// A duration of which zero means "none".
    fn switch(&self, field: &Field<DurationText>, default: Option<Duration>) -> Setting<Option<Duration>> {
        let value = match field.here() {
            None => default,
            Some((text, span)) => {
                self.parsed(units::duration(&text.0), span).filter(|duration| *duration != Duration::ZERO)
            }
        };
        Setting { value, place: field.span().map(|span| self.place(span)) }
    }

    fn size(&self, field: &Field<SizeText>, default: u64, bounds: Bounds) -> u64 {
        let Some((text, span)) = field.here() else { return default };
        let Some(value) = self.parsed(units::size(&text.0), span) else { return default };
        if value < bounds.min || value > bounds.max {
            let (min, max) = (units::show_size(bounds.min), units::show_size(bounds.max));
            self.error(
                span,
                format!("`{}` is out of range", quoted(&text.0)),
                format!("write a size from {min} to {max}"),
            );
            return default;
        }
        value
    }

    /// Reports what a pure parser found wrong.
    fn parsed<T>(&self, result: Result<T, Wrong>, span: Span) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(Wrong { message, fix }) => {
                self.error(span, message, fix);
                None
            }
        }
    }

    /// A name that people choose and that ends up in logs and metric labels.
    fn name(&self, text: &str, span: Span) -> Arc<str> {
        self.parsed(names::name(text), span);
        Arc::from(text)
    }

    fn optional_name(&self, field: &Field<String>) -> Option<Arc<str>> {
        field.here().map(|(text, span)| self.name(text, span))
    }

    /// Reports a list that is longer than its limit, and gives the part within.
    fn within<'f, T>(&self, list: &'f [T], max: usize, at: (Option<Span>, &str)) -> &'f [T] {
        if let (true, Some(span)) = (list.len() > max, at.0) {
            self.error(span, format!("{} {}: at most {max} are allowed", list.len(), at.1), "split it up");
        }
        &list[..list.len().min(max)]
    }

    /// The entries of a list that must not be empty when it is written: an empty list of conditions means nobody to
    /// one reader and everybody to another.
    fn filled<'f, T>(&self, field: &'f Field<List<T>>, name: &str, max: usize) -> &'f [Field<T>] {
        if let (Some([]), Some(span)) = (field.get().map(Vec::as_slice), field.span()) {
            self.error(span, format!("`{name}` is empty"), "add an entry, or remove it");
        }
        self.within(field.entries(), max, (field.span(), &format!("entries of `{name}`")))
    }

    /// The entries of a list that must be there. `owner` is where the thing that lacks it stands.
    fn required_list<'f, T>(
        &self,
        field: &'f Field<List<T>>,
        (owner, lack): (Span, (&str, &str)),
        (name, max): (&str, usize),
    ) -> &'f [Field<T>] {
        if let Some(([], at)) = self.required(field, owner, lack).map(|(list, at)| (list.as_slice(), at)) {
            self.error(at, lack.0, lack.1);
        }
        self.within(field.entries(), max, (field.span(), &format!("entries of `{name}`")))
    }

    /// Texts with a grammar of their own.
    fn each<T>(&self, list: &[Field<String>], parse: impl Fn(&str) -> Result<T, Wrong>) -> Vec<T> {
        list.iter().filter_map(Field::here).filter_map(|(text, span)| self.parsed(parse(text), span)).collect()
    }

    fn guess<'c>(&self, word: &str, candidates: impl ExactSizeIterator<Item = &'c str>) -> Option<&'c str> {
        let left = self.guesses.get().checked_sub(candidates.len())?;
        self.guesses.set(left);
        nearest(word, candidates)
    }
}

/// What is wrong with a value and how to put it right.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Wrong {
    pub(crate) message: String,
    pub(crate) fix: String,
}

impl Wrong {
    pub(crate) fn new(message: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { message: message.into(), fix: fix.into() }
    }
}

/// Everything that can be referred to.
struct References<'r> {
    tables: Names<'r>,
    clusters: Names<'r>,
    policies: Names<'r>,
    providers: Names<'r>,
    authorizers: Names<'r>,
    rate_limits: Names<'r>,
    /// Clusters as written, by name.
    groups: HashMap<&'r str, &'r raw::Cluster>,
}

impl<'r> References<'r> {
    fn of(raw: &'r raw::Config) -> Self {
        let groups = raw.clusters.get().map_or(&[][..], |entries| &entries.pairs);
        Self {
            tables: Names::of(&raw.routes, ("route table", "routes")),
            clusters: Names::of(&raw.clusters, ("cluster", "clusters")),
            policies: Names::of(&raw.authorization, ("authorization policy", "authorization")),
            providers: Names::of(&raw.jwt_providers, ("token provider", "jwtProviders")),
            authorizers: Names::of(&raw.external_authorizers, ("external authorizer", "externalAuthorizers")),
            rate_limits: Names::of(&raw.rate_limit_services, ("rate limit service", "rateLimitServices")),
            groups: groups.iter().filter_map(|(key, cluster)| Some((key.text.as_str(), cluster.get()?))).collect(),
        }
    }

    fn warn_unused(&self, check: &Check<'_, '_>) {
        self.tables.warn_unused(check, "no listener uses");
        self.clusters.warn_unused(check, "nothing uses");
        self.policies.warn_unused(check, "no listener uses");
        self.providers.warn_unused(check, "no listener uses");
        self.authorizers.warn_unused(check, "no listener uses");
        self.rate_limits.warn_unused(check, "no rule uses");
    }
}

/// Names that can be referred to, and which of them are.
struct Names<'r> {
    what: &'static str,
    /// The section that they are defined in.
    section: &'static str,
    /// `None` where the whole section could not be read: then nothing is said about references.
    known: Option<HashMap<&'r str, (Span, Cell<bool>)>>,
}

impl<'r> Names<'r> {
    fn of<T>(entries: &'r Field<Entries<T>>, (what, section): (&'static str, &'static str)) -> Self {
        let of_key = |key: &'r Key| (key.text.as_str(), (key.span, Cell::new(false)));
        let known = match entries {
            Field::Bad(_) => None,
            Field::Absent => Some(HashMap::new()),
            Field::Here(entries, _) => Some(entries.pairs.iter().map(|(key, _)| of_key(key)).collect()),
        };
        Self { what, section, known }
    }

    /// Notes a reference, and reports it where it leads nowhere.
    fn refer(&self, check: &Check<'_, '_>, name: &str, span: Span) {
        if let Some((_, used)) = self.known.as_ref().and_then(|known| known.get(name)) {
            used.set(true);
        }
        self.look_up(check, name, span);
    }

    /// Reports a name that leads nowhere. The thing is not used by being named.
    fn look_up(&self, check: &Check<'_, '_>, name: &str, span: Span) {
        let Some(known) = self.known.as_ref().filter(|known| !known.contains_key(name)) else { return };
        if check.partial {
            return;
        }
        let what = self.what;
        let fix = match check.guess(name, known.keys().copied()) {
            Some(near) => format!("did you mean `{}`?", quoted(near)),
            None if known.is_empty() => {
                format!("there is no {what} yet: define it under `{}`", self.section)
            }
            None if known.len() <= 5 => {
                let mut names: Vec<String> = known.keys().map(|name| quoted(name)).collect();
                names.sort_unstable();
                format!("define it under `{}`, or refer to {}", self.section, crate::text::one_of(&names))
            }
            None => format!("define it under `{}`", self.section),
        };
        check.error(span, format!("there is no {what} named `{}`", quoted(name)), fix);
    }

    fn warn_unused(&self, check: &Check<'_, '_>, nobody: &str) {
        // With errors elsewhere, a reference may just not have been understood.
        if check.sink.has_errors() {
            return;
        }
        for (name, (span, used)) in self.known.iter().flatten() {
            if !used.get() {
                let what = self.what;
                check.warning(*span, format!("{nobody} the {what} `{}`", quoted(name)), "refer to it, or remove it");
            }
        }
    }
}

/// A number that a check has bounded, in the type of the model.
fn small<T: TryFrom<u64> + Default>(value: u64) -> T {
    T::try_from(value).unwrap_or_default()
}

/// Entries of a list that could be read.
fn good<T>(list: &Field<List<T>>) -> impl Iterator<Item = (&T, Span)> {
    list.entries().iter().filter_map(Field::here)
}
