//! `outrigger dev` (README command 1): control plane, proxies with certificates of its authority, and services come up; what
//! is printed works; a change of a manifest is in effect at once.

use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::support::proxy::free_port;
use crate::support::{PATIENCE, ms, proxy, within};

/// A mesh that runs, and what it printed.
struct Mesh {
    _child: Child,
    intro: String,
    manifests: PathBuf,
}

impl Mesh {
    async fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new(proxy::binary())
            .arg("dev")
            .args(arguments)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("start the mesh");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut intro = String::new();
        within(PATIENCE, "the whole introduction", async {
            while !intro.contains("Ctrl-C") {
                intro += &lines.next_line().await.expect("readable").expect("it goes on running");
                intro.push('\n');
            }
        })
        .await;
        // What the access log writes is read and thrown away, so that nobody waits for it.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let manifests = intro.split("manifests in ").nth(1).and_then(|rest| rest.lines().next()).expect("named").into();
        Self { _child: child, intro, manifests }
    }

    /// A printed command that begins so.
    fn printed(&self, beginning: &str) -> &str {
        let lines = self.intro.lines().map(str::trim);
        lines
            .into_iter()
            .find(|line| line.starts_with(beginning))
            .unwrap_or_else(|| panic!("{beginning}: {}", self.intro))
    }

    fn curl(&self, more: &str) -> String {
        let output = shell(&format!("{} --silent --include --max-time 5 {more}", self.printed("curl http")));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// A command of the control plane, with the settings that are printed.
    fn control(&self, command: &str) -> Output {
        let program = proxy::binary();
        shell(&format!("{}; {} control {command}", self.printed("export "), program.display()))
    }

    fn status(&self) -> Value {
        let output = self.control("status -o json");
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
    }
}

fn shell(command: &str) -> Output {
    std::process::Command::new("sh").args(["-c", command]).stdin(Stdio::null()).output().expect("run a shell")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_it_prints_works_and_a_saved_manifest_is_in_effect_within_a_second() {
    let mesh = Mesh::start(&[]).await;
    let reply = mesh.curl("");
    assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
    assert!(reply.contains("\"service\": \"payments\"") && reply.contains("/ns/demo/sa/shop"), "who called: {reply}");
    let refused = shell(&format!("{} --silent --max-time 5", mesh.printed("curl -ik https")));
    assert!(!refused.status.success(), "nobody gets in without a certificate: {refused:?}");
    let mut old = mesh.printed("curl http").replace("/v1/charges", "/old/charges");
    old.push_str(" --silent --include --max-time 5");
    let before = String::from_utf8_lossy(&shell(&old).stdout).into_owned();
    assert!(before.starts_with("HTTP/1.1 301") && before.contains("/v1/charges"), "{before}");

    let file = mesh.manifests.join("payments.yaml");
    let text = std::fs::read_to_string(&file).expect("the manifest");
    let edited =
        text.replace("replacePrefixMatch: /v1 }, statusCode: 301", "replacePrefixMatch: /v2 }, statusCode: 302");
    assert_ne!(text, edited);
    std::fs::write(&file, edited).expect("saved");
    let saved = Instant::now();
    loop {
        let now = String::from_utf8_lossy(&shell(&old).stdout).into_owned();
        if now.starts_with("HTTP/1.1 302") {
            assert!(now.contains("/v2/charges"), "{now}");
            break;
        }
        assert!(saved.elapsed() < Duration::from_secs(1), "after a second it is still so: {now}");
    }

    let waited = mesh.control("status --wait 2 --timeout 5s");
    assert!(waited.status.success(), "{waited:?}");
    let status = mesh.status();
    let rows = status["proxies"].as_array().expect("proxies");
    assert_eq!(rows.len(), 2, "{status:#}");
    for row in rows {
        assert_eq!((&row["state"], &row["accepted"]), (&"synced".into(), &2.into()), "{row:#}");
    }
    let explained = mesh.control("explain demo/shop-1 http://payments/v1/charges");
    assert!(String::from_utf8_lossy(&explained.stdout).contains("payments.yaml:"), "{explained:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_manifest_changes_nothing_and_a_new_workload_gets_a_proxy() {
    let mesh = Mesh::start(&[]).await;
    let file = mesh.manifests.join("payments.yaml");
    let text = std::fs::read_to_string(&file).expect("the manifest");
    std::fs::write(&file, text.replace("PathPrefix", "PathPrefixx")).expect("saved");
    within(PATIENCE, "the mistake is shown", async {
        while !String::from_utf8_lossy(&mesh.control("status").stdout).contains("PathPrefixx") {
            tokio::time::sleep(ms(20)).await;
        }
    })
    .await;
    let reply = mesh.curl("");
    assert!(reply.starts_with("HTTP/1.1 200"), "what was good stays: {reply}");

    // Not of those that the system gives to whoever asks next.
    let ports = [free_port(), free_port(), free_port()];
    let workload = format!(
        "apiVersion: outrigger.dev/v1\nkind: Workload\nmetadata: {{ name: late-1, namespace: demo, labels: {{ app: late }} }}\n\
         spec:\n  serviceAccount: late\n  address: 127.0.0.1\n  outbound: 127.0.0.1:{}\n  ports:\n    - {{ name: http, port: 8080, \
         inbound: {}, application: 127.0.0.1:{} }}\n",
        ports[0], ports[1], ports[2]
    );
    std::fs::write(mesh.manifests.join("late.yaml"), workload).expect("saved");
    within(PATIENCE, "the new proxy is in sync", async {
        loop {
            let status = mesh.status();
            let rows = status["proxies"].as_array().expect("proxies").clone();
            if rows.len() == 3 && rows.iter().all(|row| row["state"] == "synced") {
                return;
            }
            tokio::time::sleep(ms(20)).await;
        }
    })
    .await;
    let asked = shell(&format!(
        "curl --silent --include --max-time 5 http://127.0.0.1:{}/v1/charges -H 'host: payments'",
        ports[0]
    ));
    let reply = String::from_utf8_lossy(&asked.stdout).into_owned();
    assert!(reply.starts_with("HTTP/1.1 403"), "payments lets in nobody but shop: {reply}");
}

#[tokio::test]
async fn once_asks_through_both_proxies_and_ends() {
    let run = Command::new(proxy::binary()).args(["dev", "--once"]).stdin(Stdio::null()).output();
    let output = within(PATIENCE, "one answer", run).await.expect("it ran");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && said.contains("/ns/demo/sa/shop"), "{output:?}");
}

#[test]
fn a_directory_without_local_workloads_is_refused_with_the_reason() {
    let empty = tempfile::tempdir().expect("a folder");
    let output = std::process::Command::new(proxy::binary()).arg("dev").arg(empty.path()).output().expect("it ran");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("no workload"), "{said}");
}
