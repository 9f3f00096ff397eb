//! The part of a path pattern that is no pattern: `^/api/v1/users/[0-9]+$` can only match below `/api/v1/users`,
//! so it is filed there, like a prefix, and ten thousand such patterns cost no more than ten.

use regex_syntax::hir::{Hir, HirKind, Look};

/// The whole segments that every matching path begins with (`/api/v1/users`), or `None` when it cannot be told.
pub(super) fn segments(pattern: &str) -> Option<String> {
    let hir = regex_syntax::parse(pattern).ok()?;
    let mut walk = Walk::default();
    walk.step(&hir);
    let mut literal = String::from_utf8(walk.literal).ok()?;
    if !literal.starts_with('/') {
        return None;
    }
    // What follows the last slash may go on in the pattern.
    literal.truncate(literal.rfind('/')?);
    Some(literal)
}

/// What every match begins with, as far as the walk has come.
#[derive(Default)]
struct Walk {
    anchored: bool,
    literal: Vec<u8>,
}

impl Walk {
    /// Whether the walk may go on behind this expression.
    fn step(&mut self, hir: &Hir) -> bool {
        match hir.kind() {
            HirKind::Look(Look::Start) => {
                self.anchored = true;
                true
            }
            HirKind::Literal(literal) if self.anchored => {
                self.literal.extend_from_slice(&literal.0);
                true
            }
            HirKind::Capture(capture) => self.step(&capture.sub),
            HirKind::Concat(parts) => parts.iter().all(|part| self.step(part)),
            HirKind::Alternation(branches) if self.anchored => {
                self.literal.extend(common_prefix(branches));
                false
            }
            HirKind::Empty => true,
            HirKind::Literal(_)
            | HirKind::Look(_)
            | HirKind::Class(_)
            | HirKind::Repetition(_)
            | HirKind::Alternation(_) => false,
        }
    }
}

fn common_prefix(branches: &[Hir]) -> Vec<u8> {
    let literals = branches.iter().map(|branch| {
        let mut walk = Walk { anchored: true, literal: Vec::new() };
        walk.step(branch);
        walk.literal
    });
    let shorter = |a: Vec<u8>, b: Vec<u8>| a.into_iter().zip(b).take_while(|(a, b)| a == b).map(|(a, _)| a).collect();
    literals.reduce(shorter).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_literal_segments_of_a_pattern_are_found() {
        for (pattern, expected) in [
            ("^/api/v1/users/[0-9]+$", Some("/api/v1/users")),
            ("^(?:/api/v1/us.*)$", Some("/api/v1")),
            ("^(?:/(?:a)/(b)/.*)$", Some("/a/b")),
            ("^/a/b$", Some("/a")),
            ("^/.*$", Some("")),
            ("^(?:/a/b/c|/a/d/e)$", Some("/a")),
            ("^(?:/a/b|/c/d)$", Some("")),
            ("^/a/(?:b/c|b/[de]|b/)x$", Some("/a/b")),
            ("^/a(?:/b/|)/c$", Some("")),
            ("^(?:(?:/a/)+x)$", None),
            ("^(?:/a/b/?)$", Some("/a")),
            ("^(?:(?i)/Api/v1)$", Some("")),
            ("^.*/x$", None),
            ("/a/b/.*", None),
            ("(?:/a/)?^/b/", None),
            ("^(?:a|^/b/c)", None),
        ] {
            assert_eq!(segments(pattern).as_deref(), expected, "{pattern}");
        }
    }
}
