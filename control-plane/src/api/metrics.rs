//! Metrics in the text form of Prometheus.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;

use super::Api;
use crate::fleet::ProxyState;

/// Requests by class of status.
#[derive(Debug, Default)]
pub(super) struct Metrics {
    classes: [AtomicU64; 5],
}

impl Metrics {
    pub(super) fn answered(&self, status: StatusCode) {
        let class = usize::from(status.as_u16() / 100).clamp(1, 5) - 1;
        self.classes[class].fetch_add(1, Ordering::Relaxed);
    }
}

/// Metrics for scrapers.
#[utoipa::path(get, path = "/v1/metrics", tag = "health",
    responses((status = 200, description = "Text form of Prometheus.", body = String)))]
pub(super) async fn show(State(api): State<Api>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text(&api))
}

fn text(api: &Api) -> String {
    let mut out = Page::default();
    out.head("outrigger_control_api_requests_total", "counter", "Answers of the API by class of status.");
    for (class, count) in api.metrics().classes.iter().enumerate() {
        let labels = format!("{{class=\"{}xx\"}}", class + 1);
        out.value("outrigger_control_api_requests_total", &labels, count.load(Ordering::Relaxed));
    }
    let view = api.engine().view();
    out.gauge("outrigger_control_generation", "The latest accepted generation.", view.number());
    let published = api.engine().publisher().generation();
    out.gauge("outrigger_control_published_generation", "The generation that proxies are given.", published);
    out.gauge("outrigger_control_objects", "Objects in force.", count(view.objects().len()));
    let compile = api.engine().publisher().last_compile();
    out.head("outrigger_control_compile_seconds", "gauge", "How long the last compilation for all proxies took.");
    let _ = writeln!(out.0, "outrigger_control_compile_seconds {}", compile.as_secs_f64());
    if let Some(directory) = api.engine().directory() {
        let bad = directory.files.iter().filter(|file| !file.problems.is_empty()).count();
        out.gauge("outrigger_control_directory_files", "Files in the watched directory.", count(directory.files.len()));
        out.gauge("outrigger_control_directory_files_with_problems", "Those with problems.", count(bad));
    }
    let mut states: BTreeMap<&str, u64> = BTreeMap::new();
    for state in [ProxyState::Synced, ProxyState::Sent, ProxyState::Refused, ProxyState::Disconnected] {
        states.insert(word(state), 0);
    }
    for proxy in api.fleet().status() {
        *states.entry(word(proxy.state)).or_default() += 1;
    }
    out.head("outrigger_control_proxies", "gauge", "Streams of proxies by where they stand.");
    for (state, count) in states {
        out.value("outrigger_control_proxies", &format!("{{state=\"{state}\"}}"), count);
    }
    let name = "outrigger_control_lost_records_total";
    out.head(name, "counter", "What proxies answered and streams that were denied, and could not be put down.");
    out.value(name, "{of=\"answers\"}", api.lost().answers.load(Ordering::Relaxed));
    out.value(name, "{of=\"denials\"}", api.lost().denials.load(Ordering::Relaxed));
    let signer = api.authority().status(&**api.confirmations()).signer;
    let text = "When what signs certificates runs out, in seconds since 1970.";
    out.gauge("outrigger_control_signer_not_after_seconds", text, signer.not_after);
    out.0
}

fn word(state: ProxyState) -> &'static str {
    match state {
        ProxyState::Synced => "synced",
        ProxyState::Sent => "sent",
        ProxyState::Refused => "refused",
        ProxyState::Disconnected => "disconnected",
    }
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

/// Writing to a string cannot fail.
#[derive(Default)]
struct Page(String);

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn value(&mut self, name: &str, labels: &str, value: u64) {
        let _ = writeln!(self.0, "{name}{labels} {value}");
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.head(name, "gauge", help);
        self.value(name, "", value);
    }
}
