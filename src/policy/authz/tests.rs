//! The table of decisions, and what holds for every path.

use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use outrigger_config::model::{
    Access, AccessAction, AccessOperation, AccessRule, AccessSource, Authorization, Cidr, ClaimMatch, GrpcOperation,
    HeaderMatch, HostPattern, PathMatch, Place, ValueMatch,
};
use outrigger_config::spiffe::{IdentityPattern, SpiffeId, TrustDomain};
use serde_json::{Value, json};

use super::*;
use crate::policy::{host, path};

mod property;
mod scale;
mod table;

fn place() -> Place {
    Place { file: "test".into(), line: 1, column: 1 }
}

fn rule(action: AccessAction, name: &str) -> AccessRule {
    AccessRule {
        name: name.into(),
        action,
        shadow: false,
        from: Vec::new(),
        to: Vec::new(),
        claims: Vec::new(),
        place: place(),
    }
}

fn allow(name: &str) -> AccessRule {
    rule(AccessAction::Allow, name)
}

fn deny(name: &str) -> AccessRule {
    rule(AccessAction::Deny, name)
}

fn audit(name: &str) -> AccessRule {
    rule(AccessAction::Audit, name)
}

trait With {
    fn from(self, set: impl FnOnce(&mut AccessSource)) -> Self;
    fn to(self, set: impl FnOnce(&mut AccessOperation)) -> Self;
    fn claim(self, path: &str, values: &[ValueMatch]) -> Self;
    fn shadow(self) -> Self;
}

impl With for AccessRule {
    fn from(mut self, set: impl FnOnce(&mut AccessSource)) -> Self {
        let mut source = AccessSource::default();
        set(&mut source);
        self.from.push(source);
        self
    }

    fn to(mut self, set: impl FnOnce(&mut AccessOperation)) -> Self {
        let mut operation = AccessOperation::default();
        set(&mut operation);
        self.to.push(operation);
        self
    }

    fn claim(mut self, path: &str, values: &[ValueMatch]) -> Self {
        let path = path.split('.').map(Into::into).collect();
        self.claims.push(ClaimMatch { provider: None, path, values: values.to_vec() });
        self
    }

    fn shadow(mut self) -> Self {
        self.shadow = true;
        self
    }
}

fn policy(default: Access, rules: Vec<AccessRule>) -> Policy {
    Policy::compile(&Authorization { name: "p".into(), default, rules, place: place() })
}

fn ids(texts: &[&str]) -> Vec<IdentityPattern> {
    texts.iter().map(|text| IdentityPattern::parse(text).expect("a pattern")).collect()
}

fn names(texts: &[&str]) -> Vec<Arc<str>> {
    texts.iter().map(|&text| text.into()).collect()
}

fn domains(texts: &[&str]) -> Vec<TrustDomain> {
    texts.iter().map(|text| TrustDomain::parse(text).expect("a trust domain")).collect()
}

fn ranges(texts: &[&str]) -> Vec<Cidr> {
    let range = |text: &&str| {
        let (network, prefix) = text.split_once('/').expect("a range");
        Cidr { network: network.parse().expect("an address"), prefix: prefix.parse().expect("a number") }
    };
    texts.iter().map(range).collect()
}

/// `*`, `*.suffix` or a name.
fn hosts(texts: &[&str]) -> Vec<HostPattern> {
    let host = |text: &&str| match text.strip_prefix("*.") {
        Some(suffix) => HostPattern::Wildcard(suffix.into()),
        None if *text == "*" => HostPattern::Any,
        None => HostPattern::Exact((*text).into()),
    };
    texts.iter().map(host).collect()
}

/// `/a/*` is a prefix, `~pattern` a pattern, the rest exact.
fn paths(texts: &[&str]) -> Vec<PathMatch> {
    let path = |text: &&str| match (text.strip_suffix("/*"), text.strip_prefix('~')) {
        (Some(prefix), _) => PathMatch::Prefix(prefix.into()),
        (_, Some(pattern)) => PathMatch::Regex(regex(pattern)),
        (None, None) => PathMatch::Exact((*text).into()),
    };
    texts.iter().map(path).collect()
}

fn regex(pattern: &str) -> regex::Regex {
    regex::Regex::new(&format!("^(?:{pattern})$")).expect("a pattern")
}

fn header(name: &'static str, value: ValueMatch) -> Vec<HeaderMatch> {
    vec![HeaderMatch { name: HeaderName::from_static(name), value }]
}

fn exact(text: &str) -> ValueMatch {
    ValueMatch::Exact(text.into())
}

fn grpc(service: Option<&str>, method: Option<&str>) -> Vec<GrpcOperation> {
    vec![GrpcOperation { service: service.map(Into::into), method: method.map(Into::into) }]
}

#[derive(Debug)]
struct Token(&'static str, Value);

impl ClaimSource for Token {
    fn provider(&self) -> &str {
        self.0
    }

    fn get(&self, path: &[Arc<str>]) -> Option<&Value> {
        path.iter().try_fold(&self.1, |value, name| value.get(&**name))
    }
}

/// A request as a caller writes it.
#[derive(Debug)]
struct Ask {
    id: Option<SpiffeId>,
    address: IpAddr,
    port: u16,
    method: Method,
    authority: String,
    target: String,
    headers: HeaderMap,
    token: Option<Token>,
}

/// `GET http://payments/v1` from the cart service at 10.1.2.3 on port 15006.
fn ask() -> Ask {
    Ask {
        id: Some(SpiffeId::parse("spiffe://mesh.local/ns/shop/sa/cart").expect("valid")),
        address: "10.1.2.3".parse().expect("valid"),
        port: 15006,
        method: Method::GET,
        authority: "payments".to_owned(),
        target: "/v1".to_owned(),
        headers: HeaderMap::new(),
        token: None,
    }
}

fn get(target: &str) -> Ask {
    Ask { target: target.to_owned(), ..ask() }
}

impl Ask {
    fn by(self, id: &str) -> Self {
        Self { id: Some(SpiffeId::parse(id).expect("an identity")), ..self }
    }

    fn anonymous(self) -> Self {
        Self { id: None, ..self }
    }

    fn at(self, address: &str) -> Self {
        Self { address: address.parse().expect("an address"), ..self }
    }

    fn port(self, port: u16) -> Self {
        Self { port, ..self }
    }

    fn host(self, authority: &str) -> Self {
        Self { authority: authority.to_owned(), ..self }
    }

    fn method(self, method: &str) -> Self {
        Self { method: method.parse().expect("a method"), ..self }
    }

    fn with(mut self, name: &'static str, value: &[u8]) -> Self {
        self.headers.append(name, HeaderValue::from_bytes(value).expect("a value"));
        self
    }

    fn token(self, provider: &'static str, claims: Value) -> Self {
        Self { token: Some(Token(provider, claims)), ..self }
    }

    /// As the pipeline does it: one query for routing and authorization. `None`: the proxy refuses the request.
    fn query<T>(&self, read: impl FnOnce(&RouteQuery<'_>) -> T) -> Option<T> {
        let options = model::PathOptions { merge_slashes: true, escaped_slashes: model::EscapedSlashes::Keep };
        let authority = host::parse_authority(&self.authority).ok()?;
        let target = path::normalize(&self.target, options).ok()?;
        let (path, query) = path::split(&target);
        let is_grpc = self.headers.get("content-type").is_some_and(|value| value == "application/grpc");
        let headers = &self.headers;
        Some(read(&RouteQuery {
            host: &authority.host,
            port: authority.port,
            path,
            query,
            method: &self.method,
            headers,
            is_grpc,
        }))
    }

    fn decided(&self, policy: &Policy) -> Option<Decision> {
        self.query(|route| {
            let claims = self.token.as_ref().map_or(Claims::None, |token| Claims::Verified(token));
            let (identity, address, port) = (self.id.as_ref(), self.address, self.port);
            policy.decide(&Request { route, identity, address, port, claims })
        })
    }
}
