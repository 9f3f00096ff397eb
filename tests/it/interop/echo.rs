//! A backend that answers with what it saw, and a client for one request. So answers that came over two data planes can
//! be compared whole.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::support::any::{AnyBackend, AnyClient, Message, Told, Version};
use crate::support::h2_client::grpc_message;

/// What a backend saw of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saw {
    /// Who answers.
    pub backend: String,
    pub method: String,
    pub target: String,
    pub host: String,
    /// The other fields, by name in lower case.
    pub fields: BTreeMap<String, Vec<String>>,
}

/// A backend that answers with [`Saw`] as JSON. The header `x-answer` says with which status, `x-answer-first` with which
/// one the first time that it hears the rest of that header's value.
pub async fn start(version: Version, name: &'static str) -> AnyBackend {
    let heard = parking_lot::Mutex::new(std::collections::BTreeSet::new());
    AnyBackend::with(version, move |seen| {
        let mut fields: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, value) in &seen.fields {
            fields.entry(name.to_ascii_lowercase()).or_default().push(value.clone());
        }
        let host = fields.remove("host").and_then(|all| all.first().cloned()).unwrap_or_default();
        let saw =
            Saw { backend: name.to_owned(), method: seen.method.clone(), target: seen.target.clone(), host, fields };
        let asked = |name: &str| saw.fields.get(name).and_then(|all| all.first()).cloned();
        let first = asked("x-answer-first").filter(|value| heard.lock().insert(value.clone()));
        let status = first
            .or_else(|| asked("x-answer"))
            .map_or(200, |text| text.split(' ').next().and_then(|status| status.parse().ok()).expect("a status"));
        let body = serde_json::to_vec(&saw).expect("JSON");
        let grpc = asked("content-type").is_some_and(|kind| kind.starts_with("application/grpc"));
        let answer = if grpc {
            Message::body(grpc_message(&body)).field("content-type", "application/grpc").trailer("grpc-status", "0")
        } else {
            Message::body(body).field("content-type", "application/json")
        };
        (status, answer.field("x-backend", name).field("x-secret", "s"))
    })
    .await
}

/// A request, written short.
#[derive(Debug, Clone)]
pub struct Ask {
    pub method: String,
    pub host: String,
    pub path: String,
    pub fields: Vec<(String, String)>,
}

impl Ask {
    /// `GET http://HOST/PATH`.
    pub fn get(url: &str) -> Self {
        Self::new("GET", url)
    }

    /// A request to `HOST/PATH`.
    pub fn new(method: &str, url: &str) -> Self {
        let (host, path) = url.split_at(url.find('/').expect("a path"));
        Self { method: method.to_owned(), host: host.to_owned(), path: path.to_owned(), fields: Vec::new() }
    }

    /// With a header.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.fields.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Asks, on a connection of its own.
    pub async fn of(&self, version: Version, addr: SocketAddr) -> Told {
        let mut client = AnyClient::connect(version, addr).await;
        self.over(&mut client).await.expect("a whole response")
    }

    /// Asks on a connection.
    pub async fn over(&self, client: &mut AnyClient) -> Result<Told, String> {
        let mut message = Message::default().field("host", &self.host);
        message.fields.extend(self.fields.iter().cloned());
        client.try_call(&self.method, &self.path, &message).await
    }
}

/// What a backend saw, if the answer came from one.
pub fn saw(told: &Told) -> Option<Saw> {
    let message = told.body.get(5..).filter(|_| told.get("content-type") == Some("application/grpc"));
    serde_json::from_slice(message.unwrap_or(&told.body)).ok()
}

/// Who answered.
pub fn who(told: &Told) -> &str {
    told.get("x-backend").unwrap_or("nobody")
}
