//! How much a request matters: what its caller says in `x-outrigger-criticality`, as far as it may, or what its rule says.

use http::header::{HeaderMap, HeaderName, HeaderValue};
use outrigger_config::model::{Criticality, Trust};

use super::origin::Origin;
use crate::codec::headers::{rare, remove_rare};
use crate::policy::forwarding::{self, Belief};

const CRITICALITY: HeaderName = HeaderName::from_static("x-outrigger-criticality");

/// What the caller says. A stranger can only say that its request matters less: who is neither trusted by the listener
/// nor known by a certificate may not put itself before the others.
pub(super) fn claimed(headers: &HeaderMap, trust: Trust, origin: &Origin) -> Option<Criticality> {
    let class = parse(rare(headers, &CRITICALITY)?)?;
    let known = forwarding::belief(trust) == Belief::Keep || origin.identity().is_some();
    Some(if known { class } else { class.min(Criticality::Default) })
}

/// What counts: what its rule says, or else its caller.
pub(super) fn effective(claimed: Option<Criticality>, ruled: Option<Criticality>) -> Criticality {
    ruled.or(claimed).unwrap_or_default()
}

/// Tells the next hop, where somebody has said something.
pub(super) fn tell(headers: &mut HeaderMap, class: Option<Criticality>) {
    match class {
        Some(class) => drop(headers.insert(CRITICALITY, HeaderValue::from_static(word(class)))),
        None => remove_rare(headers, &CRITICALITY),
    }
}

fn parse(value: &HeaderValue) -> Option<Criticality> {
    [Criticality::Sheddable, Criticality::Default, Criticality::Critical]
        .into_iter()
        .find(|class| value.as_bytes().eq_ignore_ascii_case(word(*class).as_bytes()))
}

const fn word(class: Criticality) -> &'static str {
    match class {
        Criticality::Sheddable => "sheddable",
        Criticality::Default => "default",
        Criticality::Critical => "critical",
    }
}
