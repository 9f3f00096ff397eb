//! The control plane of somebody else (`tests/it/python/ads.py`) as a child process. What it is told to serve is given as
//! JSON; what happens on its streams is kept.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use outrigger_xds::control;
use parking_lot::Mutex;
use prost::Message as _;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::support::{PATIENCE, eventually, process, within};

/// The variant of the protocol that a stream speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// Changes only.
    Delta,
    /// Everything, each time.
    Whole,
}

impl Variant {
    /// As the server calls it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Delta => "delta",
            Self::Whole => "whole",
        }
    }
}

/// A running control plane that is not ours. Gone when dropped.
pub struct Foreign {
    pub addr: SocketAddr,
    events: Arc<Mutex<Vec<Value>>>,
    stdin: ChildStdin,
    _child: Child,
}

/// What a client refused of a response.
#[derive(Debug, Clone)]
pub struct Refused {
    /// `Cluster`.
    pub kind: String,
    /// In words.
    pub message: String,
    /// Each refused resource by name and field, where the client is ours.
    pub named: Vec<control::Refusal>,
}

impl Foreign {
    /// A server that speaks both variants, without TLS.
    pub async fn start() -> Self {
        Self::with(json!({})).await
    }

    /// A server with options of its own: see the script.
    pub async fn with(options: Value) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/python/ads.py");
        let mut child = Command::new(process::python())
            .arg(script)
            .arg(options.to_string())
            // A crowded machine is no reason for gRPC to write to standard error.
            .env("GRPC_VERBOSITY", "NONE")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("start Python");
        let stdin = child.stdin.take().expect("piped");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let port = within(PATIENCE, "the control plane's port", lines.next_line()).await;
        let port: u16 = port.expect("readable").expect("a line").trim().parse().expect("a port");
        let events = Arc::new(Mutex::new(Vec::new()));
        tokio::spawn(keep(lines, Arc::clone(&events)));
        Self { addr: SocketAddr::from((Ipv4Addr::LOCALHOST, port)), events, stdin, _child: child }
    }

    /// Serves these resources, beside those that it serves already.
    pub async fn set(&mut self, resources: &[Value]) {
        self.tell(&json!({ "set": resources })).await;
    }

    /// Serves some and serves others no more, as one change.
    pub async fn change(&mut self, resources: &[Value], removed: &[(&str, &str)]) {
        self.tell(&json!({ "set": resources, "remove": removed })).await;
    }

    /// Ends every stream.
    pub async fn hang_up(&mut self) {
        self.tell(&json!({ "hang_up": true })).await;
    }

    async fn tell(&mut self, command: &Value) {
        let done = |events: &[Value]| {
            events.iter().filter(|event| event["event"] == "changed" || event["event"] == "wrong").count()
        };
        let before = done(&self.events.lock());
        within(PATIENCE, "telling the control plane", self.stdin.write_all(format!("{command}\n").as_bytes()))
            .await
            .expect("it listens");
        eventually(PATIENCE, "the control plane takes the change", || done(&self.events.lock()) > before).await;
        if let Some(wrong) = self.events().iter().find(|event| event["event"] == "wrong") {
            panic!("the test's resources are wrong: {}", wrong["why"]);
        }
    }

    /// Everything that happened so far.
    pub fn events(&self) -> Vec<Value> {
        self.events.lock().clone()
    }

    /// What happened of one sort.
    pub fn of(&self, event: &str) -> Vec<Value> {
        self.events().into_iter().filter(|one| one["event"] == event).collect()
    }

    /// How many events there were, for [`Self::since`].
    pub fn mark(&self) -> usize {
        self.events.lock().len()
    }

    /// What happened since then.
    pub fn since(&self, mark: usize) -> Vec<Value> {
        self.events.lock()[mark..].to_vec()
    }

    /// Waits until every response was answered, and gives what was refused since the mark.
    pub async fn settled(&self, mark: usize) -> Vec<Refused> {
        eventually(PATIENCE, "every response is answered", || unanswered(&self.events.lock()).is_empty()).await;
        self.since(mark).iter().filter_map(refused).collect()
    }

    /// Waits until something is refused after the mark.
    pub async fn refusal(&self, mark: usize) -> Refused {
        let find = || self.since(mark).iter().find_map(refused);
        eventually(PATIENCE, "something is refused", || find().is_some()).await;
        find().expect("just seen")
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let events = self.events.lock();
            eprintln!("--- what the control plane saw last ---");
            events.iter().skip(events.len().saturating_sub(30)).for_each(|event| eprintln!("{event}"));
            eprintln!("---");
        }
    }
}

/// Nonces of responses that have no answer. Those of streams that ended need none.
fn unanswered(events: &[Value]) -> Vec<String> {
    let mut open = Vec::new();
    for event in events {
        let nonce = event["nonce"].as_str().unwrap_or_default();
        match event["event"].as_str() {
            Some("response") => open.push(nonce.to_owned()),
            Some("request") => open.retain(|waiting| waiting != nonce),
            Some("close") => open.clear(),
            _ => {}
        }
    }
    open
}

fn refused(event: &Value) -> Option<Refused> {
    let error = event.get("error")?;
    let details = error["details"].as_array().expect("a list");
    let ours = details.iter().filter(|detail| detail[0] == "type.googleapis.com/outrigger.control.v1.Refusals");
    let named = ours.flat_map(|detail| {
        let bytes = data_encoding::BASE64.decode(detail[1].as_str().expect("text").as_bytes()).expect("base64");
        control::Refusals::decode(&*bytes).expect("our message").refusals
    });
    Some(Refused {
        kind: event["kind"].as_str().expect("text").to_owned(),
        message: error["message"].as_str().expect("text").to_owned(),
        named: named.collect(),
    })
}

async fn keep(mut lines: Lines<BufReader<ChildStdout>>, events: Arc<Mutex<Vec<Value>>>) {
    while let Ok(Some(line)) = lines.next_line().await {
        events.lock().push(serde_json::from_str(&line).expect("an event is JSON"));
    }
}
