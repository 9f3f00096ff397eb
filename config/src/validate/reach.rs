//! Rules that no request can reach because earlier ones take everything they would take.
//!
//! A warning must be right, so only what is certain is looked for: the same match again, and a match behind an
//! earlier one that asks for the same or a shorter path, the same or any method, and nothing else. The work is linear
//! in the rules and in the depth of their paths.

use std::collections::HashMap;
use std::sync::Arc;

use http::Method;

use super::Check;
use crate::model::{Match, PathMatch, Rule};
use crate::source::Span;
use crate::text::quoted;

/// What the rules of one host have taken so far, and which rule it was.
#[derive(Default)]
pub(super) struct Covered {
    plain: HashMap<(Option<Method>, PathKey), Taker>,
    conditional: HashMap<String, Taker>,
}

#[derive(Clone)]
struct Taker {
    name: Arc<str>,
    span: Span,
}

#[derive(PartialEq, Eq, Hash)]
enum PathKey {
    Any,
    Exact(Arc<str>),
    Prefix(Arc<str>),
    Start(Arc<str>),
    Regex(Arc<str>),
    GrpcMethod(Arc<str>),
}

impl PathKey {
    fn of(path: &PathMatch) -> Self {
        match path {
            PathMatch::Any => Self::Any,
            PathMatch::Exact(path) => Self::Exact(Arc::clone(path)),
            PathMatch::Prefix(path) => Self::Prefix(Arc::clone(path)),
            PathMatch::Start(start) => Self::Start(Arc::clone(start)),
            PathMatch::Regex(regex) => Self::Regex(regex.as_str().into()),
            PathMatch::GrpcMethod(method) => Self::GrpcMethod(Arc::clone(method)),
        }
    }
}

impl Covered {
    /// Warns if earlier rules cover `rule`, and adds what it takes itself.
    pub(super) fn look(&mut self, check: &Check<'_, '_>, rule: &Rule, span: Span) {
        // Where something was wrong, a condition may be missing from the model.
        if check.sink.has_errors() {
            return;
        }
        let everything =
            [Match { path: PathMatch::Any, method: None, headers: Vec::new(), query: Vec::new(), grpc: false }];
        let matches = if rule.matches.is_empty() { everything.as_slice() } else { rule.matches.as_slice() };
        let takers: Option<Vec<&Taker>> = matches.iter().map(|one| self.taker(one)).collect();
        if let Some(last) = takers.and_then(|takers| takers.into_iter().max_by_key(|t| (t.span.line, t.span.column))) {
            let message = format!(
                "the rule `{}` is never reached: `{}` takes everything first",
                quoted(&rule.name),
                quoted(&last.name)
            );
            let fix = "move it up, make the earlier rule narrower, or remove it".to_owned();
            check.sink.warning_with(span, (last.span, "the earlier rule is here"), (message, fix));
        }
        for one in matches {
            let taker = Taker { name: Arc::clone(&rule.name), span };
            if plain(one) {
                self.plain.entry((one.method.clone(), PathKey::of(&one.path))).or_insert(taker);
            } else {
                self.conditional.entry(format!("{one:?}")).or_insert(taker);
            }
        }
    }

    fn taker(&self, one: &Match) -> Option<&Taker> {
        if !plain(one)
            && let Some(same) = self.conditional.get(&format!("{one:?}"))
        {
            return Some(same);
        }
        if self.plain.is_empty() {
            return None;
        }
        [None, one.method.clone()].into_iter().find_map(|method| {
            let find = |path: PathKey| self.plain.get(&(method.clone(), path));
            find(PathKey::Any).or_else(|| find(PathKey::of(&one.path))).or_else(|| match &one.path {
                PathMatch::Exact(path) | PathMatch::Prefix(path) => {
                    ancestors(path).find_map(|prefix| find(PathKey::Prefix(prefix.into())))
                }
                PathMatch::Any | PathMatch::Start(_) | PathMatch::Regex(_) | PathMatch::GrpcMethod(_) => None,
            })
        })
    }
}

/// No condition beside path and method.
fn plain(one: &Match) -> bool {
    let Match { path: _, method: _, headers, query, grpc } = one;
    headers.is_empty() && query.is_empty() && !grpc
}

/// The path itself and what it lies under, `/a/b`, `/a` and the root, which is stored as nothing.
fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    let whole = path.trim_end_matches('/');
    std::iter::successors(Some(whole), |path| path.rfind('/').map(|slash| &path[..slash])).take(MAX_ANCESTORS)
}

/// Deeper paths than that are not followed to the root.
const MAX_ANCESTORS: usize = 64;
