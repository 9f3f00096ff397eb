//! `docs/xds.md` says what the decoder does: its table is read from where messages are taken apart.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// What is done with the fields of a message.
#[derive(Default)]
struct Fields {
    take: Vec<String>,
    /// With why.
    ignore: Vec<(String, String)>,
    refuse: Vec<String>,
}

fn folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every message that is taken apart, by its name in the decoder.
fn messages() -> BTreeMap<String, Fields> {
    let mut out: BTreeMap<String, Fields> = BTreeMap::new();
    for file in files(&folder().join("src/decode")) {
        let text = std::fs::read_to_string(file).expect("its text");
        for part in text.split("unpack!(").skip(1) {
            let (name, rest) = part.split_once("=> ").and_then(|(_, rest)| rest.split_once('{')).expect("a message");
            let body = rest.split_once("});").map_or(rest, |(body, _)| body);
            let fields = out.entry(name.trim().to_owned()).or_default();
            for (list, text, behind) in lists(body) {
                match list {
                    "take" => fields.take.extend(entries(text).into_iter().map(|(field, _)| field)),
                    "ignore" => fields.ignore.extend(entries(text).into_iter().map(|(field, why)| {
                        let why = if why.is_empty() { behind.to_owned() } else { why };
                        (field, why)
                    })),
                    _ => fields.refuse.extend(entries(text).into_iter().map(|(field, _)| field)),
                }
            }
        }
    }
    out
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("the decoder").map(|entry| entry.expect("a file").path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// The lists, each with the comment behind its end.
fn lists(body: &str) -> Vec<(&'static str, &str, &str)> {
    ["take", "ignore", "refuse"]
        .into_iter()
        .map(|name| {
            let (_, rest) = body.split_once(&format!("{name}: [")).unwrap_or_else(|| panic!("no `{name}` in {body}"));
            let (list, rest) = rest.split_once(']').expect("the end of a list");
            let line = rest.lines().next().unwrap_or_default();
            (name, list, line.split_once("//").map_or("", |(_, comment)| comment.trim()))
        })
        .collect()
}

/// The fields of a list, each with the comment behind it.
fn entries(text: &str) -> Vec<(String, String)> {
    let mut out: Vec<(String, String)> = Vec::new();
    let mut why = String::new();
    for line in text.lines() {
        let (code, comment) = line.split_once("//").map_or((line, ""), |(code, comment)| (code, comment.trim()));
        for field in
            code.split(',').map(|field| field.trim().trim_start_matches("r#")).filter(|field| !field.is_empty())
        {
            if comment != "likewise" {
                comment.clone_into(&mut why);
            }
            out.push((field.to_owned(), why.clone()));
        }
        // A comment on the line behind the last field belongs to it.
        if let (true, Some(last)) = (code.trim().is_empty() && !comment.is_empty(), out.last_mut()) {
            comment.clone_into(&mut last.1);
        }
    }
    out
}

fn written() -> String {
    let mut out = String::new();
    for (name, Fields { mut take, mut ignore, mut refuse }) in messages() {
        for list in [&mut take, &mut refuse] {
            list.sort();
            list.dedup();
        }
        ignore.sort();
        ignore.dedup_by(|a, b| a.0 == b.0);
        let name = name.rsplit_once("::").map_or(name.clone(), |(module, message)| format!("{message} ({module})"));
        let code = |list: &[String]| {
            if list.is_empty() {
                return "none".to_owned();
            }
            list.iter().map(|field| format!("`{field}`")).collect::<Vec<_>>().join(", ")
        };
        let passed: Vec<String> = ignore.iter().map(|(field, why)| format!("`{field}` ({why})")).collect();
        let passed = if passed.is_empty() { "none".to_owned() } else { passed.join(", ") };
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "### {name}\n\n- read: {}\n- passed over: {passed}\n- refused: {}\n",
            code(&take),
            code(&refuse)
        );
    }
    out
}

const MARK: &str = "<!-- From here on, written from the decoder by the test `table`: UPDATE_DOCS=1 cargo test -p outrigger-xds table -->\n\n";

#[test]
fn the_table_in_the_documentation_is_what_the_decoder_does() {
    let file = folder().join("../../docs/xds.md");
    let text = std::fs::read_to_string(&file).expect("docs/xds.md");
    let (head, table) = text.split_once(MARK).expect("the mark in docs/xds.md");
    let written = written();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&file, format!("{head}{MARK}{written}")).expect("written");
        return;
    }
    assert!(table == written, "docs/xds.md is not what the decoder does: run with UPDATE_DOCS=1");
}

#[test]
fn every_field_that_is_passed_over_says_why() {
    for (name, fields) in messages() {
        for (field, why) in fields.ignore {
            assert!(!why.is_empty(), "{name}.{field}");
        }
    }
}
