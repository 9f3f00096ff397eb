//! The command line: what `check` and `explain` print (snapshots), exit codes, help.

use std::path::PathBuf;
use std::process::Output;

use serde_json::{Value, json};

use crate::support::pki;
use crate::support::{h1_client, proxy};

struct Files(tempfile::TempDir);

impl Files {
    fn new(yaml: &str) -> Self {
        let folder = tempfile::tempdir().expect("make a folder");
        std::fs::write(folder.path().join("proxy.yaml"), yaml).expect("write a file");
        Self(folder)
    }

    /// Runs the program in the folder of the files, so that its output names them relatively.
    fn run(&self, args: &[&str]) -> Output {
        std::process::Command::new(proxy::binary())
            .args(args)
            .current_dir(self.0.path())
            .env("NO_COLOR", "1")
            .env("COLUMNS", "120")
            .output()
            .expect("run the program")
    }
}

fn text(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes).into_owned();
    assert!(!text.contains('\u{1b}'), "no colours when it is not a terminal: {text:?}");
    text
}

const GOOD: &str = r#"
node: { id: test }
admin: { address: 127.0.0.1:15000 }
listeners:
  - { name: outbound, bind: 127.0.0.1:15001, routes: outbound }
routes:
  outbound:
    - hostnames: [payments, payments.shop.svc]
      rules:
        - name: charges
          matches: [{ path: { prefix: /v1/charges }, method: POST }]
          timeouts: { request: 2s, backendRequest: 500ms }
          retry: { attempts: 2, on: [connect-failure, refused-stream, unavailable] }
          backendRefs: [{ cluster: payments-v1, weight: 95 }, { cluster: payments-v2, weight: 5 }]
        - name: canary
          matches: [{ headers: [{ name: x-canary, exact: "true" }] }]
          backendRefs: [{ cluster: payments-v2 }]
        - name: rest
          backendRefs: [{ cluster: payments-v1 }]
    - hostnames: ["*.shop.svc"]
      rules:
        - name: shop
          filters: [{ redirect: { scheme: https, status: 301 } }]
clusters:
  payments-v1:
    protocol: http2
    loadBalancing: { policy: leastRequest }
    endpoints: [10.0.0.7:15006, { address: 10.0.0.8:15006, weight: 2, zone: eu-1b }]
  payments-v2:
    endpoints: [10.0.0.9:15006]
"#;

const BAD: &str = r#"
listeners:
  - { name: in, bind: 127.0.0.1:15001, routes: main, maxHeadBytes: 64KB }
  - { name: in, bind: 127.0.0.1:15001, routes: missing }
routes:
  main:
    - hostnames: [a.example]
      rules:
        - matches: [{ path: { prefix: v1 } }]
          timeouts: { request: 5parsecs }
          retires: { attempts: 2 }
          backendRefs: [{ cluster: nowhere }]
clusters:
  empty: { endpoints: [] }
  twice: { endpoints: [127.0.0.1:1] }
  twice: { endpoints: [127.0.0.1:2] }
"#;

#[test]
fn check_accepts_a_good_file() {
    let files = Files::new(GOOD);
    let output = files.run(&["check", "proxy.yaml"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    insta::assert_snapshot!("check_good", text(&output.stdout) + &text(&output.stderr));
}

#[test]
fn check_reports_every_problem_with_its_place_and_a_fix() {
    let files = Files::new(BAD);
    let output = files.run(&["check", "proxy.yaml"]);
    assert_eq!(output.status.code(), Some(1));
    let report = text(&output.stderr);
    for word in ["64KB", "missing", "5parsecs", "retires", "nowhere", "empty", "twice", "^"] {
        assert!(report.contains(word), "`{word}` in:\n{report}");
    }
    insta::assert_snapshot!("check_bad", report);
}

#[test]
fn check_says_what_is_wrong_with_a_file_that_is_not_there() {
    let files = Files::new(GOOD);
    let output = files.run(&["check", "nothing.yaml"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("nothing.yaml"));
}

#[test]
fn explain_shows_the_way_of_a_request_and_why_the_other_rules_lost() {
    let files = Files::new(GOOD);
    for (name, args) in [
        ("explain_post", vec!["POST", "http://payments/v1/charges/7"]),
        ("explain_get", vec!["http://payments.shop.svc:80/v1/charges/7"]),
        ("explain_header", vec!["GET", "http://payments/", "-H", "X-Canary: true"]),
        ("explain_redirect", vec!["http://cart.shop.svc/x?q=1"]),
        ("explain_no_route", vec!["http://elsewhere.example/"]),
    ] {
        let mut all = vec!["explain", "--config", "proxy.yaml"];
        all.extend(args);
        let output = files.run(&all);
        assert!(output.stderr.is_empty() || !output.status.success(), "{}", text(&output.stderr));
        insta::assert_snapshot!(name, text(&output.stdout) + &text(&output.stderr));
    }
}

#[test]
fn explain_refuses_what_the_proxy_would_refuse() {
    let files = Files::new(GOOD);
    for (args, word) in [
        (vec!["http://u@payments/"], "user"),
        (vec!["--listener", "missing", "http://payments/"], "missing"),
        (vec!["not a url"], "not a url"),
    ] {
        let mut all = vec!["explain", "--config", "proxy.yaml"];
        all.extend(args.clone());
        let output = files.run(&all);
        let said = text(&output.stdout) + &text(&output.stderr);
        assert!(!output.status.success(), "{args:?}: {said}");
        assert!(said.contains(word), "{args:?}: {said}");
    }
}

#[test]
fn the_schema_is_json_and_knows_the_examples() {
    let files = Files::new(GOOD);
    let output = files.run(&["schema"]);
    assert!(output.status.success());
    let schema: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    for key in ["listeners", "routes", "clusters", "admin"] {
        assert!(schema["properties"][key].is_object(), "{key} in {schema}");
    }
}

#[test]
fn every_example_is_accepted() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("config/examples");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&folder).expect("the examples are there") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|e| e == "yaml") {
            // The certificates that they name are nowhere but in the documentation.
            let mut command = std::process::Command::new(proxy::binary());
            let output = command.args(["check", "--without-files"]).arg(&path).output().expect("run the program");
            assert!(output.status.success(), "{}: {}", path.display(), text(&output.stderr));
            names.push(path);
        }
    }
    assert!(names.len() >= 5, "minimal, gRPC, canary, header routing, two hops: {names:?}");
}

#[test]
fn help_names_every_command() {
    let files = Files::new(GOOD);
    let output = files.run(&["--help"]);
    assert!(output.status.success());
    let help = text(&output.stdout);
    for command in ["run", "check", "explain", "schema", "dev", "control", "completions"] {
        assert!(help.lines().any(|l| l.trim_start().starts_with(command)), "{command} in:\n{help}");
        let output = files.run(&[command, "--help"]);
        assert!(output.status.success() && output.stdout.len() > 100, "{command} --help");
    }
    for shell in ["bash", "zsh", "fish"] {
        let output = files.run(&["completions", shell]);
        assert!(output.status.success() && text(&output.stdout).contains("explain"), "{shell}");
    }
    assert_eq!(files.run(&["--version"]).status.code(), Some(0));
    assert_eq!(files.run(&["fly"]).status.code(), Some(2), "an unknown command is a usage error");
}

#[test]
fn run_refuses_a_broken_file_at_its_start() {
    let files = Files::new(BAD);
    let output = files.run(&["run", "--config", "proxy.yaml"]);
    assert!(!output.status.success());
    let report = text(&output.stderr);
    assert!(report.contains("nowhere") && report.contains('^'), "{report}");
}

#[test]
fn check_sums_up_the_certificates_that_a_configuration_names() {
    let mesh = pki::Mesh::new();
    let svid = mesh.svid("shop/web");
    let files = Files::new(&format!(
        "identity: {{ certificate: svid.pem, privateKey: svid.key, trustBundle: bundle.pem }}\n{GOOD}"
    ));
    for (name, text) in [("svid.pem", &svid.chain), ("svid.key", &svid.key), ("bundle.pem", &mesh.root.pem)] {
        std::fs::write(files.0.path().join(name), text).expect("write a file");
    }
    let said = text(&files.run(&["check", "proxy.yaml"]).stdout);
    assert!(said.contains(", 1 certificate, valid until 2"), "{said}");
    let list: Value =
        serde_json::from_slice(&files.run(&["check", "--format", "json", "proxy.yaml"]).stdout).expect("JSON");
    assert_eq!(list[0]["certificates"][0]["identity"], json!(mesh.id("shop/web")));
    assert!(!list.to_string().contains("PRIVATE KEY"));
}
