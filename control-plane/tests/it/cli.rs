//! The commands, as people run them.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

use outrigger_control::store::Role;
use serde_json::Value;

use crate::support::{Control, SERVICE, WORKLOADS, route, stderr, stdout};

async fn filled() -> Control {
    let control = Control::start().await;
    control.write("shop/all.yaml", &format!("{SERVICE}---\n{WORKLOADS}"));
    control.write("shop/route.yaml", &route("2s"));
    control
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_pushed_shown_and_taken_back() {
    let control = filled().await;
    let output = control.command(&["apply", "-f", "shop", "-m", "first"]);
    assert_eq!((output.status.code(), &*stderr(&output)), (Some(0), ""));
    assert!(stdout(&output).ends_with("+ Workload shop/web-1\ngeneration 1\n"), "{}", stdout(&output));

    control.write("shop/route.yaml", &route("9s"));
    let output = control.command(&["diff", "-f", "shop/route.yaml"]);
    let text = stdout(&output);
    assert!(text.contains("+      timeouts: { request: 9s }"), "{text}");
    assert!(text.ends_with("would change: 1 route on 2 proxies, 0 connections dropped, 0 pools rebuilt\n"), "{text}");
    let output = control.command(&["apply", "-f", "shop/route.yaml", "-o", "json"]);
    let value: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(value["generation"], 2);

    let history = stdout(&control.command(&["history"]));
    assert!(history.lines().nth(2).is_some_and(|line| line.starts_with("1 ") && line.ends_with("first")), "{history}");
    let output = control.command(&["rollback", "1"]);
    assert_eq!(stdout(&output), "~ HTTPRoute shop/payments\ngeneration 3\n");
    let yaml = stdout(&control.command(&["get", "httproute", "payments", "-n", "shop", "-o", "yaml"]));
    assert!(yaml.contains("request: 2s"), "{yaml}");
    let table = stdout(&control.command(&["get", "httproutes"]));
    assert!(
        table.lines().nth(1).is_some_and(|line| line.starts_with("HTTPRoute  shop") && line.contains("  ok  ")),
        "{table}"
    );
    let output = control.command(&["delete", "HTTPRoute", "payments", "-n", "shop"]);
    assert_eq!(stdout(&output), "- HTTPRoute shop/payments\ngeneration 4\n");
    let output = control.command(&["get", "HTTPRoute", "payments"]);
    assert_eq!((output.status.code(), &*stderr(&output)), (Some(1), "error: there is none\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_are_shown_with_carets_on_standard_error_and_the_exit_status_is_1() {
    let control = filled().await;
    control.write("shop/route.yaml", &route("soon"));
    let output = control.command(&["apply", "-f", "shop"]);
    assert_eq!((output.status.code(), &*stdout(&output)), (Some(1), ""));
    let text = stderr(&output);
    assert!(text.contains("--> shop/route.yaml:9:"), "{text}");
    assert!(text.contains("^^^^"), "{text}");
    assert!(text.ends_with("error: the manifests have a problem; nothing was changed\n"), "{text}");
    let viewer = control.token("eyes", Role::Viewer, None);
    let output = control.command_as(&viewer, &["apply", "-f", "shop/all.yaml"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stderr(&output), "error: token:eyes has the role viewer, and this needs pusher\n");
    assert_eq!(control.command(&["apply"]).status.code(), Some(2), "wrong arguments");
    let output = control.command(&["status", "--server", "http://127.0.0.1:1"]);
    assert!(stderr(&output).starts_with("error: http://127.0.0.1:1/ cannot be reached: "), "{}", stderr(&output));
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_made_listed_and_revoked() {
    let control = filled().await;
    let output = control.command(&["token", "create", "ci", "--role", "pusher", "-n", "shop", "--valid-for", "10m"]);
    let token = stdout(&output).trim().to_owned();
    let output = control.command_as(&token, &["apply", "-f", "shop"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let list = stdout(&control.command(&["token", "list"]));
    let line = list.lines().find(|line| line.contains(" ci ")).expect("it is listed");
    assert!(line.contains("pusher") && line.contains("active"), "{line}");
    let id = line.split_whitespace().next().expect("an id");
    assert_eq!(stdout(&control.command(&["token", "revoke", id])), format!("revoked {id}\n"));
    assert_eq!(control.command_as(&token, &["status"]).status.code(), Some(1));
    let audit = stdout(&control.command(&["audit"]));
    assert!(audit.contains("token revoke") && audit.contains("unauthenticated"), "{audit}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_joined_for_renewed_and_good_for_the_api() {
    let control = Control::start_with(|mut options, _| {
        options.api_tls = true;
        options.roles.insert("spiffe://mesh.local/ns/shop/sa/web".to_owned(), Role::Admin);
        options
    })
    .await;
    control.write("all.yaml", &format!("{SERVICE}---\n{WORKLOADS}"));
    let server = format!("https://{}", control.running.api());
    let (ca, grpc) = ("data/bundle.pem", control.running.grpc().to_string());
    let secure = |arguments: &[&str]| control.command(&[arguments, &["--server", &*server, "--ca", ca]].concat());
    let output = secure(&["apply", "-f", "all.yaml"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let output = secure(&["token", "create", "--join", "shop/web-1"]);
    let token = stdout(&output).trim().to_owned();
    assert!(token.starts_with("outrigger-join-"), "{}", stderr(&output));

    let join = ["join", "--grpc", &grpc, "--ca", ca, "--out", "svid"];
    let output = control.command(&[&join[..], &["--token", &token]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stdout(&output).starts_with("shop/web-1: wrote svid.pem"), "{}", stdout(&output));
    let key = control.folder.path().join("svid/svid.key");
    assert_eq!(key.metadata().expect("it is there").permissions().mode() & 0o777, 0o600);
    let output = control.command(&[&join[..], &["--token", &token]].concat());
    assert_eq!(output.status.code(), Some(1), "a join token is good once");
    let before = fs::read(&key).expect("readable");
    let output = control.command(&join);
    assert_eq!(output.status.code(), Some(0), "renewed: {}", stderr(&output));
    assert_ne!(fs::read(&key).expect("readable"), before);

    // The certificate has a role of its own; no token is sent with it.
    let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger-control"));
    command.current_dir(control.folder.path()).env_clear().env("HOME", control.folder.path());
    command.args([
        "history",
        "--server",
        &server,
        "--ca",
        ca,
        "--certificate",
        "svid/svid.pem",
        "--key",
        "svid/svid.key",
    ]);
    let output = command.output().expect("the program runs");
    assert!(stdout(&output).contains("token:admin"), "{}", stderr(&output));
    let audit = stdout(&secure(&["audit"]));
    assert!(audit.contains("certificate.issue"), "{audit}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rotation_of_roots_is_driven_and_shown() {
    let control = filled().await;
    let status = stdout(&control.command(&["ca", "status"]));
    assert!(status.contains("phase         stable"), "{status}");
    let output = control.command(&["ca", "rotate"]);
    assert!(stdout(&output).contains("phase         introduced"), "{}", stderr(&output));
    let output = control.command(&["ca", "rotate", "sign"]);
    assert_eq!(output.status.code(), Some(1), "it is too early");
    crate::support::until("the file follows", async || {
        let bundle = fs::read_to_string(control.folder.path().join("data/bundle.pem")).expect("readable");
        (bundle.matches("BEGIN CERTIFICATE").count() == 2).then_some(())
    })
    .await;
}

#[test]
fn a_server_is_run_stopped_and_never_tells_its_token() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut child = Command::new(env!("CARGO_BIN_EXE_outrigger-control"))
        .current_dir(folder.path())
        .args(["serve", "--data", "data", "--grpc", "127.0.0.1:0", "--api", "127.0.0.1:0"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let lines: Vec<String> =
        BufReader::new(child.stdout.take().expect("piped")).lines().take(3).map(|line| line.expect("text")).collect();
    assert_eq!(lines[2], "the first admin token is in data/admin.token");
    let api = lines[1].strip_prefix("API ").expect("where it listens");
    let path = folder.path().join("data/admin.token");
    assert_eq!(path.metadata().expect("it is there").permissions().mode() & 0o777, 0o600);
    let token = fs::read_to_string(&path).expect("readable");
    let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger-control"));
    command.current_dir(folder.path()).env_clear().env("HOME", folder.path());
    let output = command.args(["status", "--server", api, "--token-file", "data/admin.token"]).output().expect("runs");
    assert_eq!(stdout(&output), "generation 0, 0 objects\n\nno proxy has connected\n", "{}", stderr(&output));
    let terminate = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().expect("kill runs");
    assert!(terminate.success());
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(0));
    assert!(!stderr(&output).contains(token.trim()), "the token is in no log");
}
