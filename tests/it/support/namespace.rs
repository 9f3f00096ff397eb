//! Hosts of the tests' own: network namespaces with addresses, routes and rules that nobody else sees. Made with `ip`, so the
//! tests that use them need root.

use std::process::{Output, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::process::{Child, Command};

use super::{PATIENCE, process, within};

/// A network namespace; gone when dropped.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// One with nothing but loopback.
    pub fn new() -> Self {
        static TIDY: Once = Once::new();
        TIDY.call_once(remove_left_over);
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{PREFIX}{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let namespace = Self { name };
        ip(&["netns", "add", &namespace.name]);
        namespace.ip(&["link", "set", "lo", "up"]);
        namespace
    }

    /// Two hosts on one wire: 10.77.0.1 and 10.77.0.2, and fd77::1 and fd77::2, each with a default route to the other.
    pub fn pair() -> (Self, Self) {
        let (one, other) = (Self::new(), Self::new());
        one.ip(&["link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", &other.name]);
        for (host, own, peer) in [(&one, "1", "2"), (&other, "2", "1")] {
            host.ip(&["address", "add", &format!("10.77.0.{own}/24"), "dev", "wire"]);
            // Without the check for duplicates the address can be used at once.
            host.ip(&["address", "add", &format!("fd77::{own}/64"), "dev", "wire", "nodad"]);
            host.ip(&["link", "set", "wire", "up"]);
            host.ip(&["route", "add", "default", "via", &format!("10.77.0.{peer}")]);
            host.ip(&["-6", "route", "add", "default", "via", &format!("fd77::{peer}")]);
        }
        (one, other)
    }

    /// What `ip netns` calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `ip` on this host.
    pub fn ip(&self, arguments: &[&str]) {
        ip(&[&["-n", &self.name], arguments].concat());
    }

    /// A program to be run on this host; gone when its handle is dropped.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(process::tool("ip"));
        command.args(["netns", "exec", &self.name]).arg(program).stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    /// Runs a program on this host to its end.
    pub async fn run(&self, program: &str, arguments: &[&str]) -> Output {
        let run = self.command(program).args(arguments).output();
        within(PATIENCE, program, run).await.unwrap_or_else(|e| panic!("{program} cannot be run: {e}"))
    }

    /// Runs a program on this host, which must succeed, and gives what it printed.
    pub async fn printed(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.run(program, arguments).await;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {arguments:?}: {}\n{text}{errors}", output.status);
        text
    }

    /// Starts a program on this host that prints a line when it is ready.
    pub async fn start(&self, mut command: Command) -> Child {
        use tokio::io::AsyncBufReadExt as _;
        let mut child = command.stdout(Stdio::piped()).spawn().expect("start a program");
        let mut lines = tokio::io::BufReader::new(child.stdout.take().expect("piped")).lines();
        let line = within(PATIENCE, "the program is ready", lines.next_line()).await.expect("readable");
        assert_eq!(line.as_deref(), Some("ready"));
        child
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        std::process::Command::new("ip").args(["netns", "del", &self.name]).stderr(Stdio::null()).status().ok();
    }
}

const PREFIX: &str = "outrigger-test-";

fn ip(arguments: &[&str]) {
    let output = std::process::Command::new(process::tool("ip")).args(arguments).output().expect("run ip");
    let why = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments:?}: {why}(network namespaces need root)");
}

/// Hosts of test processes that were killed.
fn remove_left_over() {
    let Ok(folder) = std::fs::read_dir("/run/netns") else { return };
    for name in folder.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if owner.is_some_and(|pid| !std::path::Path::new("/proc").join(pid).exists()) {
            drop(Namespace { name });
        }
    }
}
