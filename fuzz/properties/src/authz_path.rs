//! Paths in normal form, and authorization by path: whatever a caller writes, it cannot get past a rule by writing it differently.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr};

use http::{HeaderMap, Method};
use outrigger::policy::authz::{Claims, Decision, Policy, Request, RuleId};
use outrigger::policy::path::{self, PathError};
use outrigger::policy::route::RouteQuery;
use outrigger_config::model::{
    Access, AccessAction, AccessOperation, AccessRule, Authorization, EscapedSlashes, PathMatch, PathOptions, Place,
};

/// The first byte holds options; then lines: a path with its query, and conditions on paths: `=` an exact one, anything else a
/// prefix.
pub fn check(input: &[u8]) {
    let Some((&choices, text)) = input.split_first() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let options = PathOptions {
        merge_slashes: choices & 1 == 0,
        escaped_slashes: if choices & 2 == 0 { EscapedSlashes::Keep } else { EscapedSlashes::Reject },
    };
    let mut lines = text.split('\n');
    let written = lines.next().unwrap_or_default();
    let conditions: Vec<PathMatch> = lines.take(MAX_CONDITIONS).filter_map(condition).collect();
    let Some(normal) = check_normal_form(written, options, choices) else { return };
    let (asked, _) = path::split(&normal);
    for condition in &conditions {
        check_decision(asked, condition);
    }
    check_order(asked, &conditions);
}

/// Conditions of one input; each is compiled several times.
const MAX_CONDITIONS: usize = 12;

/// As validation stores it.
fn condition(line: &str) -> Option<PathMatch> {
    let plain = |text: &str| !text.contains(['?', '#']) && text.starts_with('/');
    match line.strip_prefix('=') {
        Some(exact) => plain(exact).then(|| PathMatch::Exact(exact.into())),
        None => plain(line).then(|| PathMatch::Prefix(line.trim_end_matches('/').into())),
    }
}

fn check_normal_form(written: &str, options: PathOptions, choices: u8) -> Option<String> {
    let normal = path::normalize(written, options);
    // The same path with characters encoded that need not be, and with detours.
    let disguised = disguise(written, choices);
    let disguised = path::normalize(&disguised, options);
    assert_eq!(disguised.is_ok(), normal.is_ok(), "{written:?}");
    let normal = match normal {
        Ok(normal) => normal.into_owned(),
        Err(error) => {
            assert!(error != PathError::NotAbsolute || !written.starts_with('/'));
            return None;
        }
    };
    assert_eq!(disguised.as_deref(), Ok(&*normal), "{written:?}");
    assert!(matches!(path::normalize(&normal, options), Ok(Cow::Borrowed(again)) if again == normal), "{normal:?}");
    let (path, query) = path::split(&normal);
    assert!(path.starts_with('/') || normal == "*", "{normal:?}");
    assert!(normal.bytes().all(|byte| (b'!'..=b'~').contains(&byte) && byte != b'#'), "{normal:?}");
    assert!(!path.contains('\\'), "{normal:?}");
    assert!(path.split('/').all(|segment| segment != "." && segment != ".."), "{normal:?}");
    assert!(!(options.merge_slashes && path.contains("//")), "{normal:?}");
    // The query is not read: only what cannot be sent raw is encoded.
    if let (Some(query), Some((_, before))) = (query, written.split_once('?')) {
        assert!(query.len() >= before.len());
    }
    Some(normal)
}

/// Another way to write the same path.
fn disguise(written: &str, choices: u8) -> String {
    let (path, query) = written.split_once('?').map_or((written, None), |(path, query)| (path, Some(query)));
    let mut out = String::new();
    for (at, character) in path.char_indices() {
        match character {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '.' | '_' | '~'
                if choices.rotate_left(u32::try_from(at % 8).unwrap_or(0)) & 4 != 0 && !in_encoding(path, at) =>
            {
                let code = u32::from(character);
                let encoded = if choices & 8 == 0 { format!("%{code:02x}") } else { format!("%{code:02X}") };
                out.push_str(&encoded);
            }
            '/' if choices.rotate_left(u32::try_from(at % 8).unwrap_or(0)) & 16 != 0 => {
                out.push_str(if choices & 32 == 0 { "/./" } else { "/x/%2e%2E/" });
            }
            _ => out.push(character),
        }
    }
    if let Some(query) = query {
        out.push('?');
        out.push_str(query);
    }
    out
}

/// Whether the character at `at` is one of the two after a percent sign.
fn in_encoding(path: &str, at: usize) -> bool {
    let bytes = path.as_bytes();
    (at >= 1 && bytes[at - 1] == b'%') || (at >= 2 && bytes[at - 2] == b'%')
}

/// One condition in each of the roles that it can have.
fn check_decision(asked: &str, condition: &PathMatch) {
    let decide = |default, action, to| access(&policy(default, vec![rule(action, to)]), asked);
    let denied = decide(Access::Allow, AccessAction::Deny, on(condition)) == Access::Deny;
    let allowed = decide(Access::Deny, AccessAction::Allow, on(condition)) == Access::Allow;
    let spared = decide(Access::Allow, AccessAction::Deny, not_on(condition)) == Access::Allow;
    let kept_out = decide(Access::Deny, AccessAction::Allow, not_on(condition)) == Access::Deny;

    let normal = plain(condition);
    let met = holds(&normal, asked);
    // The normal form always counts, and a `not` is the mirror of its condition.
    assert!(denied || !met, "{condition:?} {asked:?}");
    assert!(!allowed || met, "{condition:?} {asked:?}");
    assert_eq!((denied, allowed), (kept_out, spared), "{condition:?} {asked:?}");
    // Where nothing can be read differently, only it counts.
    if is_unambiguous(asked)
        && matches!(&normal, PathMatch::Exact(text) | PathMatch::Prefix(text) if is_unambiguous(text))
    {
        assert_eq!((denied, allowed), (met, met), "{condition:?} {asked:?}");
    }
    // An application that decodes slashes, cuts parameters or resolves dots, in whatever order, is not led behind a rule.
    let (PathMatch::Exact(text) | PathMatch::Prefix(text)) = &normal else { return };
    if is_unambiguous(text) {
        for reader in 0..16 {
            let seen = read_by(asked, reader);
            let reached = holds(&normal, &seen);
            assert!(denied || !reached, "{condition:?} {asked:?} is read as {seen:?}");
            assert!(!allowed || reached, "{condition:?} {asked:?} is read as {seen:?}");
        }
    }
}

/// The first rule in file order that fits decides, also when there are too many to try one by one.
fn check_order(asked: &str, conditions: &[PathMatch]) {
    for (default, action) in [(Access::Allow, AccessAction::Deny), (Access::Deny, AccessAction::Allow)] {
        let rules: Vec<AccessRule> = conditions.iter().map(|condition| rule(action, on(condition))).collect();
        let first = rules.iter().position(|rule| access(&policy(default, vec![rule.clone()]), asked) != default);
        // More rules, about what nobody can ask for, make the policy large enough for its index.
        let more = (0..10).map(|n| rule(action, on(&PathMatch::Exact(format!("/ {n}").into()))));
        let policy = policy(default, rules.into_iter().chain(more).collect());
        let decided = decide(&policy, asked, |decision| decision.rule.map(RuleId::index));
        assert_eq!(decided, first, "{conditions:?} {asked:?}");
    }
}

fn is_unambiguous(path: &str) -> bool {
    !path.contains(['%', ';', '\\']) && !path.contains("//")
}

/// What an application sees that goes beyond the normal form: each bit of `reader` is a step that it takes.
fn read_by(path: &str, reader: u8) -> String {
    let cut = |path: &str| {
        let segments: Vec<&str> =
            path.split('/').map(|segment| segment.split(';').next().unwrap_or_default()).collect();
        segments.join("/")
    };
    let mut path = path.to_owned();
    if reader & 1 != 0 {
        path = cut(&path);
    }
    if reader & 2 != 0 {
        path = path.replace("%2F", "/").replace("%5C", "/").replace("%3B", ";");
    }
    if reader & 4 != 0 {
        path = cut(&path);
    }
    if reader & 8 != 0 {
        path = resolve(&path);
    }
    path
}

fn resolve(path: &str) -> String {
    if !path.starts_with('/') {
        return path.to_owned();
    }
    let mut kept: Vec<&str> = Vec::new();
    let mut folder = false;
    for segment in path.split('/').skip(1) {
        folder = matches!(segment, "" | "." | "..");
        match segment {
            "" | "." => {}
            ".." => drop(kept.pop()),
            _ => kept.push(segment),
        }
    }
    let slash = if folder && !kept.is_empty() { "/" } else { "" };
    format!("/{}{slash}", kept.join("/"))
}

/// A condition in the normal form of paths.
fn plain(condition: &PathMatch) -> PathMatch {
    let options = PathOptions { merge_slashes: false, escaped_slashes: EscapedSlashes::Keep };
    let normal = |text: &str| path::normalize(text, options).map_or_else(|_| text.to_owned(), Cow::into_owned);
    match condition {
        PathMatch::Exact(text) => PathMatch::Exact(normal(text).into()),
        PathMatch::Prefix(text) if !text.is_empty() => PathMatch::Prefix(normal(text).trim_end_matches('/').into()),
        other => other.clone(),
    }
}

/// By whole segments, the slow way.
fn holds(condition: &PathMatch, path: &str) -> bool {
    match condition {
        PathMatch::Exact(exact) => **exact == *path,
        PathMatch::Prefix(prefix) => {
            let (above, below): (Vec<_>, Vec<_>) = (prefix.split('/').collect(), path.split('/').collect());
            path.starts_with('/') && below.len() >= above.len() && below[..above.len()] == above
        }
        PathMatch::Start(start) => path.starts_with(&**start),
        PathMatch::Any | PathMatch::Regex(_) | PathMatch::GrpcMethod(_) => true,
    }
}

fn on(condition: &PathMatch) -> AccessOperation {
    AccessOperation { paths: vec![condition.clone()], ..AccessOperation::default() }
}

fn not_on(condition: &PathMatch) -> AccessOperation {
    AccessOperation { not_paths: vec![condition.clone()], ..AccessOperation::default() }
}

fn rule(action: AccessAction, to: AccessOperation) -> AccessRule {
    AccessRule {
        name: "rule".into(),
        action,
        shadow: false,
        from: vec![],
        to: vec![to],
        claims: vec![],
        place: place(),
    }
}

fn policy(default: Access, rules: Vec<AccessRule>) -> Policy {
    Policy::compile(&Authorization { name: "policy".into(), default, rules, place: place() })
}

fn place() -> Place {
    Place { file: "fuzz".into(), line: 1, column: 1 }
}

fn access(policy: &Policy, asked: &str) -> Access {
    decide(policy, asked, |decision| decision.access)
}

fn decide<T>(policy: &Policy, asked: &str, read: impl FnOnce(&Decision) -> T) -> T {
    let route = RouteQuery {
        host: "h.test",
        port: None,
        path: asked,
        query: None,
        method: &Method::GET,
        headers: &HeaderMap::new(),
        is_grpc: false,
    };
    let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
    read(&policy.decide(&Request { route: &route, identity: None, address, port: 80, claims: Claims::None }))
}
