//! What people are told about broken files. The files are in `tests/broken`, the messages in `snapshots`; after a
//! change on purpose, `INSTA_UPDATE=always cargo test -p outrigger-config` writes them anew.

use outrigger_config::{Severity, Style, load};

/// One test for each file: its diagnostics, whole.
macro_rules! broken {
    ($($name:ident)*) => {$(
        #[test]
        fn $name() {
            let text = include_str!(concat!("../broken/", stringify!($name), ".yaml"));
            let problems = load(concat!(stringify!($name), ".yaml"), text).expect_err("the file is broken");
            assert!(problems.errors() > 0);
            insta::assert_snapshot!(stringify!($name), problems.render(Style::Plain));
        }
    )*};
}

broken! {
    a_list a_word aliases answers authorization authorizers balancing breakers cluster_tls conditions cors dangling_references
    duplicate_keys duplicate_names empty empty_clusters empty_values endpoints filters grpc header_edits health hostile_text
    hostnames http3 identity listener_tls missing missing_fields no_backends no_identity odd_keys one_long_line only_comments opaque
    overlapping_binds passthrough paths patterns process ranges rates retries second_document syntax_in_several_sections
    syntax_indentation syntax_of_the_whole syntax_tab tokens unknown_fields unsupported upgrades wrong_types wrong_units
}

#[test]
fn every_broken_file_has_its_test() {
    let listed = include_str!("diagnostics.rs");
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/broken");
    for file in std::fs::read_dir(folder).expect("the folder") {
        let path = file.expect("an entry").path();
        let stem = path.file_stem().and_then(|s| s.to_str()).expect("a name");
        assert!(listed.split_whitespace().any(|word| word == stem), "{stem}");
    }
}

/// One test for each file that only gets warnings.
macro_rules! doubtful {
    ($($name:ident)*) => {$(
        #[test]
        fn $name() {
            let text = include_str!(concat!("../broken/", stringify!($name), ".yaml"));
            let loaded = load(concat!(stringify!($name), ".yaml"), text).expect("only warnings");
            assert!(loaded.warnings.iter().all(|w| w.severity == Severity::Warning));
            insta::assert_snapshot!(stringify!($name), loaded.warnings.render(Style::Plain));
        }
    )*};
}

doubtful! { early_data guards guards_of_nothing no_effect unguarded warnings }

#[test]
fn colours_appear_only_when_asked_for() {
    let text = "listeners: [{ name: a, bind: 127.0.0.1:1, routes: r, nmae: b }]";
    let problems = load("a.yaml", text).expect_err("broken");
    assert!(!problems.render(Style::Plain).contains('\x1b'));
    let coloured = problems.render(Style::Ansi);
    assert!(coloured.contains("\x1b[31m"));
    let mut stripped = String::new();
    let mut rest = coloured.as_str();
    while let Some((before, after)) = rest.split_once('\x1b') {
        stripped.push_str(before);
        rest = after.split_once('m').map_or("", |(_, tail)| tail);
    }
    stripped.push_str(rest);
    assert_eq!(stripped, problems.render(Style::Plain));
}

#[test]
fn as_json_a_problem_is_an_object_with_its_place_and_fix() {
    let problems = load("a.yaml", "workers: two\nworkers: 3\n").expect_err("broken");
    let json = serde_json::to_value(&problems).expect("serialises");
    insta::assert_snapshot!(serde_json::to_string_pretty(&json).expect("prints"));
}

#[test]
fn aliases_that_multiply_are_stopped() {
    let mut text = String::from("node: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for i in 1..12 {
        text.push_str(&format!("k{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 10].join(", ")));
    }
    let problems = load("bomb.yaml", &text).expect_err("a bomb");
    insta::assert_snapshot!(problems.render(Style::Plain));
}

#[test]
fn brackets_inside_each_other_are_stopped() {
    for opening in ["[", "{a: ", "- ", "? "] {
        let problems = load("deep.yaml", &opening.repeat(100_000)).expect_err("too deep");
        assert!(problems.errors() > 0, "{opening}");
    }
}

#[test]
fn aliases_cannot_build_what_is_too_deep_to_write() {
    let mut text = String::from("node: &a0 [x]\n");
    for i in 1..100 {
        text.push_str(&format!("k{i}: &a{i} [[[[[*a{}]]]]]\n", i - 1));
    }
    let problems = load("deep.yaml", &text).expect_err("too deep");
    assert!(problems.iter().any(|p| p.message.contains("inside each other")), "{problems}");
}

#[test]
fn a_text_beyond_the_limit_is_refused_unread() {
    let text = "#".repeat(outrigger_config::limits::MAX_TEXT_BYTES + 1);
    let problems = load("large.yaml", &text).expect_err("too large");
    assert!(problems.iter().next().is_some_and(|p| p.message.contains("too large")), "{problems}");
}

#[test]
fn problems_beyond_the_limit_are_counted() {
    let mut text = String::from("listeners: [{ name: a, bind: 127.0.0.1:1, routes: r }]\nclusters:\n");
    for i in 0..1000 {
        text.push_str(&format!("  c{i}: {{ endpoints: [nowhere] }}\n"));
    }
    let problems = load("many.yaml", &text).expect_err("broken");
    assert_eq!(problems.errors(), outrigger_config::limits::MAX_DIAGNOSTICS);
    assert_eq!(problems.errors() + problems.left_out(), 1001);
    assert!(problems.render(Style::Plain).ends_with(&format!("… and {} more\n", problems.left_out())));
}
