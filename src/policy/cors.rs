//! Cross-origin resource sharing (Fetch standard, "CORS protocol"), on behalf of the upstream.
//!
//! The rule decides alone: what the upstream says about it is replaced. A refused origin is no error here: the
//! answer simply carries no permission, and the browser keeps it from the script.
//!
//! `*` for methods or headers means any, so the request's own are named in the answer: a literal `*` would not cover
//! `Authorization`, nor requests with credentials.

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, SET_COOKIE, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use outrigger_config::model::Cors;

/// The CORS rules of a route, ready to run.
#[derive(Debug, Clone)]
pub struct CorsPolicy {
    origins: Vec<Origins>,
    methods: Allowed,
    headers: Allowed,
    exposed: Allowed,
    credentials: Credentials,
    max_age: HeaderValue,
}

/// What a request is to the CORS protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CorsDecision {
    /// A preflight. Answered here with 204 and these headers; it never reaches the upstream.
    Preflight(HeaderMap),
    /// Anything else. Its response gets [`CorsPolicy::apply`].
    Pass(Grant),
}

/// What a response will say to a script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Grant {
    /// No origin was named.
    NotAsked,
    /// The origin is none of the allowed.
    Refused,
    /// The value of `Access-Control-Allow-Origin`.
    Allowed(HeaderValue),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Origins {
    Any,
    Exact(Box<str>),
    /// `https://*.example.com`: one or more labels between the two.
    Between(Box<str>, Box<str>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Allowed {
    Nothing,
    Any,
    List(HeaderValue),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Credentials {
    Allowed,
    Refused,
}

impl CorsPolicy {
    /// Compiles a rule.
    #[must_use]
    pub fn compile(cors: &Cors) -> Self {
        let Cors { allow_origins, allow_methods, allow_headers, expose_headers, allow_credentials, max_age } = cors;
        Self {
            origins: allow_origins.iter().map(|text| Origins::parse(text)).collect(),
            methods: Allowed::parse(allow_methods),
            headers: Allowed::parse(allow_headers),
            exposed: Allowed::parse(expose_headers),
            credentials: if *allow_credentials { Credentials::Allowed } else { Credentials::Refused },
            max_age: HeaderValue::from(max_age.as_secs()),
        }
    }

    /// Decides about a request.
    #[must_use]
    pub fn decide(&self, method: &Method, headers: &HeaderMap) -> CorsDecision {
        let grant = self.grant(headers);
        match headers.get(ACCESS_CONTROL_REQUEST_METHOD) {
            Some(wanted) if method == Method::OPTIONS && grant != Grant::NotAsked => {
                CorsDecision::Preflight(self.preflight(grant, wanted, headers))
            }
            _ => CorsDecision::Pass(grant),
        }
    }

    /// Puts the permission into a response, in place of the upstream's. A response that would be different for
    /// another origin says so in `Vary`, also when this request named none: a cache must not give it to a script.
    pub fn apply(&self, grant: &Grant, response: &mut HeaderMap) {
        for name in [ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_EXPOSE_HEADERS] {
            response.remove(name);
        }
        if !self.same_for_all() {
            vary_by_origin(response);
        }
        let Grant::Allowed(origin) = grant else {
            return;
        };
        match &self.exposed {
            Allowed::Nothing => {}
            Allowed::List(names) => {
                response.insert(ACCESS_CONTROL_EXPOSE_HEADERS, names.clone());
            }
            Allowed::Any => {
                if let Some(names) = names_of(response) {
                    response.insert(ACCESS_CONTROL_EXPOSE_HEADERS, names);
                }
            }
        }
        self.allow(origin, response);
    }

    fn preflight(&self, grant: Grant, method: &HeaderValue, request: &HeaderMap) -> HeaderMap {
        let mut answer = HeaderMap::new();
        answer.insert(VARY, HeaderValue::from_static(PREFLIGHT_VARY));
        let Grant::Allowed(origin) = grant else {
            return answer;
        };
        let methods = match &self.methods {
            Allowed::Nothing => None,
            Allowed::List(methods) => Some(methods.clone()),
            Allowed::Any => Method::from_bytes(method.as_bytes()).is_ok().then(|| method.clone()),
        };
        let headers = match &self.headers {
            Allowed::Nothing => None,
            Allowed::List(names) => Some(names.clone()),
            Allowed::Any => requested_headers(request),
        };
        if let Some(methods) = methods {
            answer.insert(ACCESS_CONTROL_ALLOW_METHODS, methods);
        }
        if let Some(headers) = headers {
            answer.insert(ACCESS_CONTROL_ALLOW_HEADERS, headers);
        }
        answer.insert(ACCESS_CONTROL_MAX_AGE, self.max_age.clone());
        self.allow(&origin, &mut answer);
        answer
    }

    fn allow(&self, origin: &HeaderValue, answer: &mut HeaderMap) {
        answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        match self.credentials {
            Credentials::Allowed => {
                answer.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
            }
            Credentials::Refused => {}
        }
    }

    fn grant(&self, request: &HeaderMap) -> Grant {
        let mut lines = request.get_all(ORIGIN).iter();
        match (lines.next(), lines.next()) {
            (None, _) => Grant::NotAsked,
            (Some(_), Some(_)) => Grant::Refused,
            (Some(_), None) if self.same_for_all() => Grant::Allowed(HeaderValue::from_static("*")),
            (Some(origin), None) => {
                let allowed = origin.to_str().is_ok_and(|text| self.origins.iter().any(|known| known.allow(text)));
                if allowed { Grant::Allowed(origin.clone()) } else { Grant::Refused }
            }
        }
    }

    /// Whether any origin may read, without credentials: then `*` is said, and caches may share. With credentials
    /// browsers refuse a `*`.
    fn same_for_all(&self) -> bool {
        self.credentials == Credentials::Refused && self.origins.contains(&Origins::Any)
    }
}

impl Origins {
    fn parse(text: &str) -> Self {
        match text.split_once('*') {
            Some(("", "")) => Self::Any,
            Some((before, after)) => Self::Between(before.into(), after.into()),
            None => Self::Exact(text.into()),
        }
    }

    /// Scheme and host know no case; browsers send them in lower case.
    fn allow(&self, origin: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(known) => known.eq_ignore_ascii_case(origin),
            Self::Between(before, after) => {
                let Some((start, rest)) = origin.split_at_checked(before.len()) else {
                    return false;
                };
                let Some((labels, end)) = rest.split_at_checked(rest.len().saturating_sub(after.len())) else {
                    return false;
                };
                start.eq_ignore_ascii_case(before) && end.eq_ignore_ascii_case(after) && are_labels(labels)
            }
        }
    }
}

/// One or more host labels, and nothing else: no port, no path, no user.
fn are_labels(text: &str) -> bool {
    text.split('.').all(|label| {
        !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    })
}

impl Allowed {
    fn parse<T: AsRef<str>>(list: &[T]) -> Self {
        let names: Vec<&str> = list.iter().map(AsRef::as_ref).collect();
        match names.as_slice() {
            [] => Self::Nothing,
            ["*"] => Self::Any,
            // Validated to be tokens; what is none can be matched by no browser.
            names => HeaderValue::from_str(&names.join(", ")).map_or(Self::Nothing, Self::List),
        }
    }
}

fn vary_by_origin(response: &mut HeaderMap) {
    let has_it = response.get_all(VARY).iter().filter_map(|line| line.to_str().ok()).any(|line| {
        line.split(',').map(str::trim).any(|name| name == "*" || name.eq_ignore_ascii_case(ORIGIN.as_str()))
    });
    if !has_it {
        response.append(VARY, HeaderValue::from_static("origin"));
    }
}

/// The names that a preflight asks about; what is no field name is left out.
fn requested_headers(request: &HeaderMap) -> Option<HeaderValue> {
    let lines = request.get_all(ACCESS_CONTROL_REQUEST_HEADERS).iter().filter_map(|line| line.to_str().ok());
    let names = lines.flat_map(|line| line.split(',')).map(str::trim);
    joined(names.filter(|name| HeaderName::from_bytes(name.as_bytes()).is_ok()))
}

/// All fields of a response; browsers never show cookies.
fn names_of(response: &HeaderMap) -> Option<HeaderValue> {
    joined(response.keys().filter(|name| **name != SET_COOKIE).map(HeaderName::as_str))
}

fn joined<'a>(names: impl Iterator<Item = &'a str>) -> Option<HeaderValue> {
    let names: Vec<&str> = names.collect();
    if names.is_empty() { None } else { HeaderValue::from_str(&names.join(", ")).ok() }
}

const PREFLIGHT_VARY: &str = "origin, access-control-request-method, access-control-request-headers";

#[cfg(test)]
mod tests;
