//! As written to what is good by itself. What needs other objects is looked at by `resolve`.

mod bytes;
mod core;
mod grant;
mod more;
mod own;
mod route;
mod traffic;

pub(super) use self::core::{endpoint_slice, service};
pub(super) use bytes::{tcp_route, tls_route};
pub(super) use grant::{backend_tls, reference_grant};
pub(super) use own::{authorization_policy, jwt_policy, mesh_policy, workload};
pub(super) use route::{grpc_route, http_route};
pub(super) use traffic::traffic_policy;

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;

use outrigger_config::language::{Checker, Entries, Field, Sink, Span, quoted};
use outrigger_config::model::Place;

use super::object::Selector;
use super::{ObjectId, limits, raw};

/// What every check needs.
pub(super) struct Context<'a, 't> {
    pub(super) check: Checker<'a, 't>,
    pub(super) id: &'a ObjectId,
    pub(super) labels: &'a BTreeMap<Arc<str>, Arc<str>>,
}

impl<'a, 't> Context<'a, 't> {
    pub(super) fn new(sink: &'a Sink<'t>, id: &'a ObjectId, labels: &'a BTreeMap<Arc<str>, Arc<str>>) -> Self {
        Self { check: Checker::new(sink), id, labels }
    }

    fn error(&self, span: Span, message: impl Into<String>, fix: impl Into<String>) {
        self.check.error(span, message, fix);
    }

    fn place(&self, span: Span) -> Place {
        self.check.sink().place(span)
    }

    /// A port.
    fn port(&self, field: &Field<u64>) -> Option<u16> {
        self.check.number(field, outrigger_config::limits::PORT).and_then(|port| u16::try_from(port).ok())
    }

    /// One of some words; the first is the default.
    fn word<'w>(&self, field: &Field<String>, words: &[&'w str]) -> Option<&'w str> {
        let Some((text, span)) = field.here() else {
            return if field.is_bad() { None } else { words.first().copied() };
        };
        let found = words.iter().find(|word| **word == text);
        if found.is_none() {
            let fix = format!("write {}", outrigger_config::language::one_of(words));
            self.error(span, format!("`{}` is not supported here", quoted(text)), fix);
        }
        found.copied()
    }

    /// A name of an object that is referred to.
    fn reference(&self, field: &Field<String>, owner: Span) -> Option<Arc<str>> {
        let lack = ("this reference has no `name`", "add the name of the object: `name: …`");
        let (text, at) = self.check.required(field, owner, lack)?;
        named(&self.check, (text, at), ("name", subdomain)).then(|| text.as_str().into())
    }

    /// A namespace that is referred to; that of this object where none is written.
    fn namespace(&self, field: &Field<String>) -> Option<Arc<str>> {
        match field.here() {
            Some((text, at)) => named(&self.check, (text, at), ("namespace", label)).then(|| text.as_str().into()),
            None if field.is_bad() => None,
            None => Some(Arc::clone(&self.id.name.namespace)),
        }
    }

    /// A reference to a Service by group, kind and name. `None` where it is another kind, which is reported.
    fn service_reference(&self, target: &raw::TargetReference, span: Span) -> Option<(Arc<str>, Option<Arc<str>>)> {
        let raw::TargetReference { group, kind, name, section_name } = target;
        if let Some((text, at)) = group.here()
            && !text.is_empty()
        {
            self.error(
                at,
                format!("the group `{}` is not supported", quoted(text)),
                "write `group: \"\"`, or remove it",
            );
        }
        let lack = ("this target has no `kind`", "add `kind: Service`");
        if self.check.required(kind, span, lack).is_some() {
            self.word(kind, &["Service"]);
        }
        let name = self.reference(name, span)?;
        Some((name, section_name.get().map(|name| name.as_str().into())))
    }

    /// The workloads of a policy.
    fn selector(&self, field: &Field<raw::LabelSelector>) -> Option<Selector> {
        let (raw::LabelSelector { match_labels }, span) = field.here()?;
        let lack =
            ("this selector has no `matchLabels`", "add labels, or remove the selector, which means all workloads");
        self.check.required(match_labels, span, lack);
        let labels = labels(&self.check, (match_labels, "matchLabels", limits::MAX_LABELS));
        if labels.is_empty() && match_labels.get().is_some() {
            self.error(span, "this selector selects nothing in particular", "add labels, or remove the selector");
        }
        Some(labels)
    }
}

/// What a policy is for, so that one that is broken otherwise can be kept from being passed over.
pub(super) fn selector_of<S: Any>(spec: &S) -> Option<Selector> {
    let spec: &dyn Any = spec;
    let field = if let Some(spec) = spec.downcast_ref::<raw::AuthorizationPolicySpec>() {
        &spec.selector
    } else if let Some(spec) = spec.downcast_ref::<raw::JwtPolicySpec>() {
        &spec.selector
    } else {
        return None;
    };
    // Read in silence: what is wrong with it is reported when the policy is checked.
    let labels = field.get()?.match_labels.get()?;
    let mut out = Selector::new();
    for (key, value) in &labels.pairs {
        let (key, value) = (key.text.as_str(), value.get()?.as_str());
        // No workload can have these: the policy would be kept from nothing.
        if !is_label_name(key) || !is_label_value(value) {
            return None;
        }
        out.insert(key.into(), value.into());
    }
    (!out.is_empty() && out.len() <= limits::MAX_LABELS).then_some(out)
}

/// A name with its rule; reports what is wrong.
pub(super) fn named(check: &Checker<'_, '_>, (text, span): (&str, Span), (what, rule): (&str, Rule)) -> bool {
    let Err(fix) = rule(text) else { return true };
    check.error(span, format!("`{}` cannot be a {what}", quoted(text)), fix);
    false
}

/// A rule of names; the fix where it is broken.
pub(super) type Rule = fn(&str) -> Result<(), &'static str>;

/// RFC 1123: a label of DNS.
pub(super) fn label(text: &str) -> Result<(), &'static str> {
    if text.len() > 63 || !is_label(text) {
        return Err("use at most 63 of a-z, 0-9 and `-`, with a letter or digit at both ends");
    }
    Ok(())
}

/// RFC 1123: labels with dots between them.
pub(super) fn subdomain(text: &str) -> Result<(), &'static str> {
    if text.len() > MAX_NAME || !text.split('.').all(is_label) {
        return Err("use at most 253 of a-z, 0-9, `-` and `.`, with a letter or digit at both ends");
    }
    Ok(())
}

/// Bytes of a name.
pub(super) const MAX_NAME: usize = 253;

fn is_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !text.is_empty() && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

/// Labels or what selects by them.
pub(super) fn labels(
    check: &Checker<'_, '_>,
    (field, what, max): (&Field<Entries<String>>, &str, usize),
) -> BTreeMap<Arc<str>, Arc<str>> {
    let Some((entries, span)) = field.here() else { return BTreeMap::new() };
    let mut out = BTreeMap::new();
    for (key, value) in check.within(&entries.pairs, max, (Some(span), &format!("entries of `{what}`"))) {
        if !is_label_name(&key.text) {
            let fix = "use at most 63 letters, digits, `-`, `_` and `.`, with an optional `example.com/` before";
            check.error(key.span, format!("`{}` cannot be the name of a label", quoted(&key.text)), fix);
            continue;
        }
        let Some((text, at)) = value.here() else { continue };
        if !is_label_value(text) {
            let fix = "use at most 63 letters, digits, `-`, `_` and `.`";
            check.error(at, format!("`{}` cannot be the value of a label", quoted(text)), fix);
            continue;
        }
        out.insert(key.text.as_str().into(), text.as_str().into());
    }
    out
}

fn is_label_name(text: &str) -> bool {
    let name = text.rsplit('/').next().unwrap_or_default();
    text.len() <= MAX_NAME + 64 && is_label_value(name) && !name.is_empty()
}

fn is_label_value(text: &str) -> bool {
    text.len() <= 63 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

/// `2026-01-31T12:00:00Z`: compared as text, so that only UTC will do.
pub(super) fn is_time(text: &str) -> bool {
    let shape = b"0000-00-00T00:00:00Z";
    text.len() == shape.len()
        && text.bytes().zip(shape).all(|(b, s)| if *s == b'0' { b.is_ascii_digit() } else { b == *s })
}
