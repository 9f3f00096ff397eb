//! The story as text: a column of names, what there is to say, and the place it comes from.

use std::fmt::Write as _;

use outrigger_config::Style;

use super::story::{AccessPart, Backend, Decision, Endpoint, Limit, Retries, Story};

/// Width of the first column.
const NAMES: usize = 10;

pub(super) fn render(story: &Story, style: Style) -> String {
    let mut page = Page { out: String::new(), style };
    let Story { method, host, path, grpc, listener, virtual_host, rules, authorization, decision } = story;
    page.line("request", &format!("{method} http://{host}{path}{}", if *grpc { " (gRPC)" } else { "" }));
    let found = format!("`{}` on {} with routes `{}`: {}", listener.name, listener.bind, listener.routes, listener.why);
    page.placed("listener", &found, Some(&listener.place));
    let names = virtual_host.hostnames.join(", ");
    let names = if names.is_empty() { "none".to_owned() } else { names };
    page.placed("host", &format!("{names}: {}", virtual_host.why), virtual_host.place.as_deref());
    for (at, rule) in rules.iter().enumerate() {
        let verdict = if rule.won { page.paint(GREEN, "won ") } else { page.paint(DIM, "lost") };
        let heading = if at == 0 { "rules" } else { "" };
        let why = rule.why.join("; or ");
        page.placed(heading, &format!("{verdict}  `{}`: {why}", rule.name), Some(&rule.place));
    }
    if let Some(access) = authorization {
        page.access(access);
    }
    page.decision(decision);
    page.out
}

struct Page {
    out: String,
    style: Style,
}

impl Page {
    fn access(&mut self, access: &AccessPart) {
        let AccessPart { policy, caller, allowed, rule, place, shadow, audits, reads_token } = access;
        self.line("caller", caller);
        let verdict = if *allowed { self.paint(GREEN, "allowed") } else { self.paint(RED, "denied") };
        self.placed("access", &format!("{verdict} by `{rule}` of policy `{policy}`"), Some(place));
        if let Some(shadow) = shadow {
            let would = if *allowed { "would be denied" } else { "would be allowed" };
            self.placed("", &format!("{would} by shadow rule `{}`", shadow.name), Some(&shadow.place));
        }
        for audit in audits {
            self.placed("", &format!("noted by audit rule `{}`", audit.name), Some(&audit.place));
        }
        if *reads_token {
            self.line("", "decided without a token: rules with claims may decide otherwise for a caller that has one");
        }
    }

    fn decision(&mut self, decision: &Decision) {
        match decision {
            Decision::Denied { status, reason, sentence } | Decision::NoRoute { status, reason, sentence } => {
                self.line("answer", &format!("{status} {reason}: {sentence}"));
            }
            Decision::Redirect { status, location } => {
                let to = location.as_deref().unwrap_or("nowhere: the location would not be valid");
                self.line("answer", &format!("{status} redirect to {to}"));
            }
            Decision::Direct { status, content_type, bytes } => {
                self.line("answer", &format!("{status} made here: {bytes} bytes of {content_type}"));
            }
            Decision::Forward { backends, filters, timeouts, retries, settings } => {
                self.list("filters", filters);
                for backend in backends {
                    self.backend(backend);
                }
                for (at, limit) in timeouts.iter().enumerate() {
                    self.limit(if at == 0 { "timeouts" } else { "" }, limit);
                }
                self.retries(retries);
                for (at, (name, value)) in settings.iter().enumerate() {
                    self.line(if at == 0 { "settings" } else { "" }, &format!("{name}: {value}"));
                }
            }
        }
    }

    fn backend(&mut self, backend: &Backend) {
        let Backend { cluster, share_percent, protocol, policy, subset, settings, endpoints, place, .. } = backend;
        let share = format!("{share_percent:.1}");
        let share = share.trim_end_matches('0').trim_end_matches('.');
        self.placed("cluster", &format!("{share} % `{cluster}`, {protocol}, {policy}"), place.as_deref());
        self.line("", &format!("sends {} to {}", backend.sends_path, backend.sends_authority));
        self.line("", &format!("connects within {}", backend.connect_timeout));
        self.list("", &backend.filters);
        for (name, value) in settings {
            self.line("", &format!("{name}: {value}"));
        }
        if !subset.is_empty() {
            self.line("", &format!("only endpoints with {}", subset.join(", ")));
        }
        for Endpoint { address, resolved, weight, zone, priority, labels, condition: _, never } in endpoints {
            let zone = zone.as_ref().map(|zone| format!(", zone {zone}")).unwrap_or_default();
            let priority = if *priority > 0 { format!(", priority {priority}") } else { String::new() };
            let labels: String = labels.iter().map(|(name, value)| format!(", {name}={value}")).collect();
            let resolved = if *resolved { ", each of its addresses" } else { "" };
            let never = never.map(|never| format!(" ({never})")).unwrap_or_default();
            self.line("", &format!("- {address}, weight {weight}{zone}{priority}{labels}{resolved}{never}"));
        }
    }

    fn limit(&mut self, heading: &str, limit: &Limit) {
        let Limit { name, value, span, set_by } = limit;
        let value = value.as_deref().unwrap_or("none");
        self.placed(heading, &format!("{name} {value}: {span}"), Some(set_by));
    }

    fn retries(&mut self, retries: &Retries) {
        let Retries { attempts, set_by, on, after_sent, why, backoff } = retries;
        let free = "one more when it provably was not executed";
        if *attempts == 0 {
            self.placed("retries", free, Some(set_by));
            return;
        }
        let on = on.join(", ");
        self.placed("retries", &format!("{attempts} more on {on}, after {backoff}"), Some(set_by));
        let sent = if *after_sent { "also" } else { "but not" };
        self.line("", &format!("{sent} when it may have been executed: {why}"));
        self.placed("", &format!("{free}, beside those"), Some("always"));
    }

    fn list(&mut self, heading: &str, lines: &[String]) {
        for (at, line) in lines.iter().enumerate() {
            self.line(if at == 0 { heading } else { "" }, line);
        }
    }

    fn placed(&mut self, heading: &str, text: &str, place: Option<&str>) {
        match place {
            Some(place) => {
                let place = self.paint(DIM, &format!("({place})"));
                self.line(heading, &format!("{text} {place}"));
            }
            None => self.line(heading, text),
        }
    }

    fn line(&mut self, heading: &str, text: &str) {
        let heading = self.paint(BOLD, &format!("{heading:NAMES$}"));
        // Writing to a string cannot fail.
        let _ = writeln!(self.out, "{}", format!("{heading}{text}").trim_end());
    }

    fn paint(&self, code: &str, text: &str) -> String {
        match self.style {
            Style::Plain => text.to_owned(),
            Style::Ansi => format!("\x1b[{code}m{text}\x1b[0m"),
        }
    }
}

const BOLD: &str = "1";
const DIM: &str = "2";
const GREEN: &str = "32";
const RED: &str = "31";
