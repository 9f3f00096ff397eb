//! `outrigger check`.

use std::io::{self, Read as _};
use std::path::Path;

use outrigger_config::{Diagnostic, Diagnostics, Loaded, Style, load};
use serde_json::{Value, json};

use super::Report;
use super::args::{CheckArgs, Format};
use crate::discovery::file;

/// Checks files. `style` is for the problems, which go to standard error.
#[must_use]
pub fn run(args: &CheckArgs, style: Style) -> Report {
    let checked: Vec<(String, Result<Loaded, Diagnostics>)> = args.files.iter().map(|path| check(path)).collect();
    let code = u8::from(checked.iter().any(|(_, result)| result.is_err()));
    match args.format {
        Format::Text => text(&checked, style, code),
        Format::Json => {
            let list: Vec<Value> = checked.iter().map(|(name, result)| json_of(name, result)).collect();
            Report { out: format!("{:#}\n", Value::from(list)), err: String::new(), code }
        }
    }
}

/// A file that was read and loaded, or its problems. Used by every command that takes a configuration.
pub(super) fn check(path: &Path) -> (String, Result<Loaded, Diagnostics>) {
    let (name, text) = if path == Path::new("-") {
        let mut text = String::new();
        ("standard input".to_owned(), io::stdin().read_to_string(&mut text).map(|_| text))
    } else {
        (path.display().to_string(), file::read(path))
    };
    let result = match text {
        Ok(text) => load(&name, &text),
        Err(error) => {
            let message = format!("the file cannot be read: {error}");
            Err(Diagnostic::for_file(&name, message, "check the path and who may read it".to_owned()).into())
        }
    };
    (name, result)
}

fn text(checked: &[(String, Result<Loaded, Diagnostics>)], style: Style, code: u8) -> Report {
    let mut report = Report { code, ..Report::default() };
    for (name, result) in checked {
        let problems = match result {
            Ok(loaded) => {
                let config = &loaded.config;
                let parts = [
                    count(config.listeners.len(), "listener"),
                    count(config.routes.values().flat_map(|t| &t.hosts).map(|h| h.rules.len()).sum(), "rule"),
                    count(config.clusters.len(), "cluster"),
                ];
                report.out += &format!("{name}: ok ({})\n", parts.join(", "));
                &loaded.warnings
            }
            Err(problems) => problems,
        };
        if !problems.is_empty() {
            let errors = count(problems.errors() + problems.left_out(), "error");
            let warnings = count(problems.warnings(), "warning");
            let summary = if result.is_err() { format!("{errors}, {warnings}") } else { warnings };
            report.err += &format!("{}\n{name}: {summary}\n", problems.render(style));
        }
    }
    report
}

fn json_of(name: &str, result: &Result<Loaded, Diagnostics>) -> Value {
    match result {
        Ok(loaded) => json!({ "file": name, "ok": true, "hash": loaded.hash, "diagnostics": loaded.warnings }),
        Err(problems) => json!({ "file": name, "ok": false, "diagnostics": problems }),
    }
}

fn count(number: usize, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    const GOOD: &str = "
listeners: [{ name: in, bind: 127.0.0.1:1, routes: r }]
routes: { r: [{ rules: [{ backendRefs: [{ cluster: c }] }] }] }
clusters: { c: { endpoints: [127.0.0.1:2] } }
";

    fn run_on(texts: &[&str], format: Format) -> (Report, tempfile::TempDir) {
        let folder = tempfile::tempdir().expect("a folder");
        let files: Vec<PathBuf> = (0..texts.len()).map(|i| folder.path().join(format!("{i}.yaml"))).collect();
        for (path, text) in files.iter().zip(texts) {
            std::fs::write(path, text).expect("written");
        }
        (run(&CheckArgs { files, format }, Style::Plain), folder)
    }

    #[test]
    fn one_bad_file_among_good_ones_fails_and_all_are_reported() {
        let bad = GOOD.replace("cluster: c", "cluster: d");
        let (report, _) = run_on(&[GOOD, &bad, GOOD], Format::Text);
        assert_eq!(report.code, 1);
        assert_eq!(report.out.matches(": ok (1 listener, 1 rule, 1 cluster)").count(), 2);
        assert!(report.err.contains("1.yaml:3:") && report.err.contains("1 error"), "{}", report.err);
    }

    #[test]
    fn json_lists_every_file_with_its_problems() {
        let (report, _) = run_on(&[GOOD, "listeners: ["], Format::Json);
        let list: Value = serde_json::from_str(&report.out).expect("JSON");
        assert_eq!((report.code, list[0]["ok"].clone(), list[1]["ok"].clone()), (1, json!(true), json!(false)));
        assert!(list[1]["diagnostics"][0]["line"].is_u64(), "{list}");
        assert_eq!(report.err, "");
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let args = CheckArgs { files: vec!["/nonexistent.yaml".into()], format: Format::Text };
        let report = run(&args, Style::Plain);
        assert_eq!(report.code, 1);
        assert!(report.err.contains("/nonexistent.yaml") && report.err.contains("No such file"), "{}", report.err);
    }
}
