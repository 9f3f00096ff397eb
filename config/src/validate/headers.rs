//! Header names, values and edits.

use std::collections::HashMap;

use http::{HeaderName, HeaderValue};

use super::health::probe_header;
use super::{Check, Wrong};
use crate::limits::{MAX_HEADER_EDITS, MAX_HEADER_VALUE_BYTES};
use crate::model::HeaderEdit;
use crate::raw;
use crate::read::Field;
use crate::source::Span;
use crate::text::quoted;
use crate::words::CONNECTION_HEADERS;

/// The name of a header.
pub(super) fn name(text: &str) -> Result<HeaderName, Wrong> {
    HeaderName::from_bytes(text.as_bytes()).map_err(|_| {
        let message = format!("`{}` is not the name of a header", quoted(text));
        Wrong::new(message, "use letters, digits and `-`, such as `x-version`")
    })
}

/// The name of a header that a filter may change.
pub(crate) fn editable(text: &str) -> Result<HeaderName, Wrong> {
    let refuse = |why: &str, fix: &str| Err(Wrong::new(format!("`{}` {why}", quoted(text)), fix));
    if text.starts_with(':') {
        let fix = match text {
            ":authority" => "use the filter `urlRewrite: { hostname: … }`",
            ":path" => "use the filter `urlRewrite: { path: … }`",
            _ => "remove it",
        };
        return refuse("is a pseudo-header, which no filter can change", fix);
    }
    let name = name(text)?;
    if name == http::header::HOST {
        return refuse("cannot be changed by a header filter", "use the filter `urlRewrite: { hostname: … }`");
    }
    if CONNECTION_HEADERS.contains(&name.as_str()) {
        let fix = "remove it: the proxy sets it as each connection and message needs";
        return refuse("belongs to the connection or frames the message, so no filter can change it", fix);
    }
    Ok(name)
}

/// A header value as a filter sets it.
pub(crate) fn value(text: &str) -> Result<HeaderValue, Wrong> {
    if text.len() > MAX_HEADER_VALUE_BYTES {
        let fix = format!("use at most {MAX_HEADER_VALUE_BYTES} bytes");
        return Err(Wrong::new("this header value is too long", fix));
    }
    if text.trim_matches([' ', '\t']) != text {
        let fix = format!("write `{}`", quoted(text.trim()));
        return Err(Wrong::new("this header value begins or ends with a blank", fix));
    }
    HeaderValue::from_str(text).map_err(|_| {
        Wrong::new(
            format!("`{}` cannot be a header value", quoted(text)),
            "use printable ASCII only; encode anything else",
        )
    })
}

pub(super) fn edit(check: &Check<'_, '_>, field: &Field<raw::HeaderEdit>) -> Option<HeaderEdit> {
    let (raw::HeaderEdit { set, add, remove }, span) = field.here()?;
    if set.is_absent() && add.is_absent() && remove.is_absent() {
        check.error(span, "this filter changes nothing", "add `set`, `add` or `remove`");
    }
    let mut removed = Vec::new();
    let mut seen: HashMap<HeaderName, Span> = HashMap::new();
    for (text, at) in
        check.within(remove.entries(), MAX_HEADER_EDITS, (remove.span(), "headers")).iter().filter_map(Field::here)
    {
        if let Some(name) = check.parsed(editable(text), at)
            && once(check, &mut seen, (&name, at))
        {
            removed.push(name);
        }
    }
    Some(HeaderEdit {
        remove: removed,
        set: values(check, set, Twice::Refused),
        add: values(check, add, Twice::Allowed),
    })
}

/// Headers that a probe sends.
pub(super) fn probe(check: &Check<'_, '_>, field: &Field<raw::HeaderValues>) -> Vec<(HeaderName, HeaderValue)> {
    read_values(check, field, (Twice::Allowed, probe_header))
}

/// Whether one header may be named twice: added yes, set no.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Twice {
    Allowed,
    Refused,
}

/// Reads a name, or says what is wrong with it.
type ReadName = fn(&str) -> Result<HeaderName, Wrong>;

fn values(check: &Check<'_, '_>, field: &Field<raw::HeaderValues>, twice: Twice) -> Vec<(HeaderName, HeaderValue)> {
    read_values(check, field, (twice, editable))
}

fn read_values(
    check: &Check<'_, '_>,
    field: &Field<raw::HeaderValues>,
    (twice, name): (Twice, ReadName),
) -> Vec<(HeaderName, HeaderValue)> {
    let mut pairs: Vec<(&str, Span, &Field<String>)> = Vec::new();
    match field.get() {
        None => {}
        Some(raw::HeaderValues::Map(entries)) => {
            pairs.extend(entries.pairs.iter().map(|(key, value)| (key.text.as_str(), key.span, value)));
        }
        Some(raw::HeaderValues::List(list)) => {
            for (raw::HeaderPair { name, value }, span) in list.iter().filter_map(Field::here) {
                let lack = ("this header has no `value`", "add `value: …`");
                check.required(value, span, lack);
                let lack = ("this header has no `name`", "add `name: x-header`");
                if let Some((name, at)) = check.required(name, span, lack) {
                    pairs.push((name, at, value));
                }
            }
        }
    }
    let mut seen: HashMap<HeaderName, Span> = HashMap::new();
    let mut out = Vec::with_capacity(pairs.len());
    for (text, at, raw) in check.within(&pairs, MAX_HEADER_EDITS, (field.span(), "headers")) {
        let name = check.parsed(name(text), *at);
        let value = raw.here().and_then(|(text, at)| check.parsed(self::value(text), at));
        if let (Some(name), Some(value)) = (name, value)
            && (twice == Twice::Allowed || once(check, &mut seen, (&name, *at)))
        {
            out.push((name, value));
        }
    }
    out
}

fn once(check: &Check<'_, '_>, seen: &mut HashMap<HeaderName, Span>, (name, at): (&HeaderName, Span)) -> bool {
    if let Some(first) = seen.get(name) {
        let text = (format!("the header `{name}` comes twice"), "keep one of the two".to_owned());
        check.sink.error_with(at, (*first, "the first one is here"), text);
        return false;
    }
    seen.insert(name.clone(), at);
    true
}
