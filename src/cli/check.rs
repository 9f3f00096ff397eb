//! `outrigger check`.

use std::io::{self, Read as _};
use std::path::Path;
use std::time::SystemTime;

use outrigger_config::model::ControlPlane;
use outrigger_config::{Diagnostic, Diagnostics, Loaded, Style, load};
use serde_json::{Value, json};

use super::Report;
use super::args::{CheckArgs, Format};
use crate::discovery::file;
use crate::discovery::material::{self, Entry};
use crate::net::tls::{CertificateStatus, ControlTls, MaterialError, Secrets, TlsSet};

/// A configuration that is right, with the certificates that it names, where they were read.
struct Right {
    loaded: Loaded,
    certificates: Vec<CertificateStatus>,
}

/// Checks files. `style` is for the problems, which go to standard error.
#[must_use]
pub fn run(args: &CheckArgs, style: Style) -> Report {
    let checked: Vec<(String, Result<Right, Diagnostics>)> = args
        .files
        .iter()
        .map(|path| {
            let (name, text) = text_of(path);
            let result = text.and_then(|text| check(&name, &text, !args.without_files));
            (name, result)
        })
        .collect();
    let code = u8::from(checked.iter().any(|(_, result)| result.is_err()));
    match args.format {
        Format::Text => text(&checked, style, code),
        Format::Json => {
            let list: Vec<Value> = checked.iter().map(|(name, result)| json_of(name, result)).collect();
            Report { out: format!("{:#}\n", Value::from(list)), err: String::new(), code }
        }
    }
}

/// A configuration that was read and loaded, or its problems. For commands that need no certificates.
pub(super) fn load_from(path: &Path) -> (String, Result<Loaded, Diagnostics>) {
    let (name, text) = text_of(path);
    let result = text.and_then(|text| load(&name, &text));
    (name, result)
}

fn text_of(path: &Path) -> (String, Result<String, Diagnostics>) {
    let (name, text) = if path == Path::new("-") {
        let mut text = String::new();
        ("standard input".to_owned(), io::stdin().read_to_string(&mut text).map(|_| text))
    } else {
        (path.display().to_string(), file::read(path))
    };
    let text = text.map_err(|error| {
        let message = format!("the file cannot be read: {error}");
        Diagnostic::for_file(&name, message, "check the path and who may read it".to_owned()).into()
    });
    (name, text)
}

fn check(name: &str, text: &str, files: bool) -> Result<Right, Diagnostics> {
    let loaded = load(name, text)?;
    if !files {
        return Ok(Right { loaded, certificates: Vec::new() });
    }
    if let Some(problems) = loaded.control_plane.as_ref().and_then(roots_of_control_plane) {
        return Err(material::diagnostics(&problems, text));
    }
    let secrets = Secrets::read(&loaded.config, &Secrets::default());
    match TlsSet::build(&loaded.config, &secrets, None, SystemTime::now()) {
        Ok(tls) => Ok(Right { certificates: tls.certificates().to_vec(), loaded }),
        Err(mut problems) => {
            material::locate(&mut problems, text);
            Err(material::diagnostics(&problems, text))
        }
    }
}

/// What is wrong with the roots that a control plane is verified by.
fn roots_of_control_plane(plane: &ControlPlane) -> Option<Vec<MaterialError>> {
    let roots = plane.trust_bundle.as_deref()?;
    let contents = std::fs::read(roots).ok().map(|content| (roots.to_owned(), content));
    let secrets = Secrets::from_contents(contents);
    ControlTls { expect: &plane.expect, roots, own: None, place: &plane.place }.build(&secrets, SystemTime::now()).err()
}

fn text(checked: &[(String, Result<Right, Diagnostics>)], style: Style, code: u8) -> Report {
    let mut report = Report { code, ..Report::default() };
    for (name, result) in checked {
        let problems = match result {
            Ok(Right { loaded, certificates }) => {
                let config = &loaded.config;
                let mut parts = match &loaded.control_plane {
                    Some(plane) => vec![
                        count(plane.servers.len(), "control plane server"),
                        "listeners, routes and clusters come from there".to_owned(),
                    ],
                    None => vec![
                        count(config.listeners.len(), "listener"),
                        count(config.routes.values().flat_map(|t| &t.hosts).map(|h| h.rules.len()).sum(), "rule"),
                        count(config.clusters.len(), "cluster"),
                    ],
                };
                let own: Vec<_> = certificates.iter().filter(|status| status.role.is_own()).collect();
                if let Some(end) = own.iter().map(|status| status.not_after).min() {
                    let valid = if own.len() == 1 { "valid" } else { "the first valid" };
                    parts.push(format!("{}, {valid} until {}", count(own.len(), "certificate"), material::date(end)));
                }
                report.out += &format!("{name}: ok ({})\n", parts.join(", "));
                for status in certificates {
                    for warning in &status.warnings {
                        report.err += &format!("{name}: `{}`: {warning}\n", status.file.display());
                    }
                }
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

fn json_of(name: &str, result: &Result<Right, Diagnostics>) -> Value {
    let now = SystemTime::now();
    match result {
        Ok(Right { loaded, certificates }) => {
            let certificates: Vec<Entry> = certificates.iter().map(|status| Entry::of(status, now)).collect();
            json!({
                "file": name,
                "ok": true,
                "hash": loaded.hash,
                "diagnostics": loaded.warnings,
                "certificates": certificates,
            })
        }
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
        (run(&CheckArgs { files, format, without_files: false }, Style::Plain), folder)
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
    fn a_file_that_leaves_the_rest_to_a_control_plane_is_right_when_its_roots_are() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("bundle.pem");
        let text = format!("controlPlane: {{ servers: [\"a:1\"], trustBundle: \"{}\" }}\n", path.display());
        let (report, _) = run_on(&[&text], Format::Text);
        assert!(report.code == 1 && report.err.contains("bundle.pem"), "{}", report.err);
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        std::fs::write(&path, params.self_signed(&key).expect("signed").pem()).expect("written");
        let (report, _) = run_on(&[&text], Format::Text);
        assert_eq!(report.code, 0, "{}", report.err);
        assert!(report.out.contains("1 control plane server"), "{}", report.out);
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
        let args = CheckArgs { files: vec!["/nonexistent.yaml".into()], format: Format::Text, without_files: false };
        let report = run(&args, Style::Plain);
        assert_eq!(report.code, 1);
        assert!(report.err.contains("/nonexistent.yaml") && report.err.contains("No such file"), "{}", report.err);
    }

    const MESH: &str = "
identity: { certificate: /nonexistent/a.pem, privateKey: /nonexistent/a.key, trustBundle: /nonexistent/b.pem }
listeners: [{ name: in, bind: 127.0.0.1:1, routes: r, tls: { mode: strict } }]
routes: { r: [{ rules: [{ backendRefs: [{ cluster: c }] }] }] }
clusters: { c: { endpoints: [127.0.0.1:2] } }
";

    #[test]
    fn certificates_that_are_not_there_are_named_at_their_place_unless_they_shall_not_be_read() {
        let (report, folder) = run_on(&[MESH], Format::Text);
        assert_eq!(report.code, 1);
        for part in
            ["0.yaml:2:", "`/nonexistent/a.pem`: it cannot be read", "/nonexistent/b.pem", "| identity:", "help:"]
        {
            assert!(report.err.contains(part), "{part}: {}", report.err);
        }
        let args = CheckArgs { files: vec![folder.path().join("0.yaml")], format: Format::Text, without_files: true };
        let report = run(&args, Style::Plain);
        assert_eq!((report.code, &*report.err), (0, ""), "{}", report.out);
    }
}
