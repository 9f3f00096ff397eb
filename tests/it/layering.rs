//! The rooms of `src/` (docs/ARCHITECTURE.md): a module imports only lower ones. This test reads every
//! source file, finds what it names under `crate::`, and fails on an upward or sideways edge.

use std::path::Path;

/// The rooms, lowest first. Rooms in one line stand beside each other and may not import one another.
const LAYERS: [&[&str]; 11] = [
    &["base"],
    &["telemetry"],
    &["policy"],
    &["net"],
    &["codec"],
    &["upstream"],
    &["snapshot"],
    &["proxy"],
    &["server"],
    &["discovery", "admin"],
    &["cli"],
];

/// The files that wire everything together and therefore may import everything.
const EXEMPT: [&str; 4] = ["app.rs", "app/tests.rs", "main.rs", "lib.rs"];

fn layer_of(room: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&room))
}

/// The rooms that a source text names by `crate::room`, in `use` lines (also in groups) or in the code.
fn rooms_named(source: &str) -> Vec<String> {
    let mut rooms = Vec::new();
    let code: String = source.lines().map(|line| format!("{}\n", code_of(line))).collect();
    for prefix in ["crate::", "outrigger::"] {
        for (at, _) in code.match_indices(prefix) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '$' || c == ':') {
                continue;
            }
            let rest = code[at + prefix.len()..].trim_start();
            if let Some(group) = rest.strip_prefix('{') {
                rooms.extend(top_level_names(group));
            } else {
                rooms.extend(first_name(rest));
            }
        }
    }
    rooms.sort_unstable();
    rooms.dedup();
    rooms
}

/// A line without its comment. A `//` inside a string hides the rest of the line, which cannot hide an
/// import, because a string does not start one.
fn code_of(line: &str) -> &str {
    line.split("//").next().unwrap_or_default()
}

fn first_name(text: &str) -> Option<String> {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    (end > 0).then(|| text[..end].to_owned())
}

/// The first name of each entry of `{a::b, c::{d, e}, f}`, given what follows the first brace.
fn top_level_names(group: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut depth = 0;
    let mut fresh = true;
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => fresh = true,
            _ if fresh && depth == 0 && !c.is_whitespace() => {
                names.extend(first_name(&group[at..]));
                fresh = false;
            }
            _ => {}
        }
    }
    names
}

/// What is wrong with a file: it is in `room` and names these.
fn forbidden(room: &str, source: &str) -> Vec<String> {
    let Some(own) = layer_of(room) else {
        return vec![format!("`{room}` is not a room of docs/ARCHITECTURE.md")];
    };
    rooms_named(source)
        .into_iter()
        .filter(|other| other != room)
        .filter_map(|other| match layer_of(&other) {
            Some(layer) if layer < own => None,
            Some(_) => Some(format!("`{room}` imports `{other}`, which is not below it")),
            // Items of the crate's root (a macro, a constant) belong to nobody.
            None if other.chars().all(|c| c.is_uppercase() || c == '_') => None,
            None => Some(format!("`{room}` imports `{other}`, which is not a room")),
        })
        .collect()
}

fn sources(folder: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("read a folder") {
        let path = entry.expect("read an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn modules_import_only_lower_ones() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut problems = Vec::new();
    for file in &files {
        let inner = file.strip_prefix(&root).expect("below src").to_str().expect("a plain name");
        if EXEMPT.contains(&inner) || inner.starts_with("app/") {
            continue;
        }
        let room = inner.split('/').next().expect("a name").trim_end_matches(".rs");
        let source = std::fs::read_to_string(file).expect("read a source");
        problems.extend(forbidden(room, &source).into_iter().map(|p| format!("src/{inner}: {p}")));
    }
    assert!(files.len() > 20, "the sources were found");
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn main_stays_small() {
    let main = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/main.rs");
    let lines = std::fs::read_to_string(main).expect("read main.rs").lines().count();
    assert!(lines < 60, "{lines} lines");
}

#[test]
fn a_forbidden_import_is_found_in_every_form() {
    for source in [
        "use crate::proxy::Proxy;",
        "use crate::{base::limits, proxy::Proxy};",
        "use crate::{\n    base::{limits, drain},\n    proxy::{self, Proxy},\n};",
        "pub use crate::proxy;",
        "fn f() -> crate::proxy::Proxy { todo() }",
        "fn f() { let x = [crate :: proxy]; }".replace(" :: ", "::").as_str(),
        "use outrigger::proxy::Proxy;",
    ] {
        assert_eq!(forbidden("codec", source), ["`codec` imports `proxy`, which is not below it"], "{source}");
    }
}

#[test]
fn what_is_allowed_is_let_pass() {
    for source in [
        "use crate::base::limits;",
        "use crate::{base, net::io};",
        "use crate::codec::Body;",
        "// use crate::proxy::Proxy;",
        "//! See `crate::proxy`.",
        "let x = other_crate::proxy::Proxy;",
        "use super::proxy;",
        "$crate::proxy",
    ] {
        assert!(forbidden("codec", source).is_empty(), "{source}: {:?}", forbidden("codec", source));
    }
}

#[test]
fn rooms_beside_each_other_and_unknown_rooms_are_refused() {
    assert_eq!(forbidden("admin", "use crate::discovery::X;").len(), 1);
    assert_eq!(forbidden("codec", "use crate::utils::X;").len(), 1);
    assert_eq!(forbidden("utils", "").len(), 1);
}
