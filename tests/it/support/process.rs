//! Small views on other processes: memory, `curl`, tools that `tests/tools/install` brings.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use super::{PATIENCE, within};

/// Resident memory of a process in bytes.
pub fn rss(pid: u32) -> u64 {
    status_kib(pid, "VmRSS:") * 1024
}

/// Threads of a process.
pub fn threads(pid: u32) -> u64 {
    status_kib(pid, "Threads:")
}

fn status_kib(pid: u32, key: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process lives");
    status
        .lines()
        .find_map(|line| line.strip_prefix(key))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|value| value.parse().ok())
        .unwrap_or_else(|| panic!("{key} is in /proc/{pid}/status"))
}

/// Processor time of a process so far, in ticks of 10 ms.
pub fn cpu_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process lives");
    // The name in parentheses may contain blanks; user and system time are the 12th and 13th field behind it.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields[at].parse::<u64>().expect("a number");
    ticks(11) + ticks(12)
}

/// Open file descriptors of a process.
pub fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).expect("the process lives").count()
}

/// Sends a signal by name (`TERM`, `HUP`).
pub fn signal(pid: u32, name: &str) {
    let done =
        std::process::Command::new("sh").args(["-c", &format!("kill -{name} {pid}")]).status().expect("run kill");
    assert!(done.success(), "kill -{name} {pid}");
}

/// Runs `curl` and gives what it printed. Fails when curl itself could not be run.
pub async fn curl(args: &[&str]) -> Output {
    let child = tokio::process::Command::new("curl")
        .args(["--silent", "--show-error", "--max-time", "10"])
        .args(args)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    within(PATIENCE, "curl", child).await.expect("curl is installed")
}

/// A program from `target/tools` (see `tests/tools/install`) or the search path.
/// Panics with what to do when there is none.
pub fn tool(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools");
    let local = ["bin", "venv/bin", "usr/bin", "usr/sbin", "root/usr/bin", "root/usr/sbin"]
        .map(|folder| root.join(folder).join(name));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let global = std::env::split_paths(&path).map(|folder| folder.join(name)).collect::<Vec<_>>();
    local
        .into_iter()
        .chain(global)
        .find(|candidate| candidate.is_file())
        .unwrap_or_else(|| panic!("`{name}` is missing: run tests/tools/install"))
}

/// A Python that can `import grpc`.
pub fn python() -> PathBuf {
    let venv = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/venv/bin/python3");
    let candidate = if venv.is_file() { venv } else { PathBuf::from("python3") };
    let check = std::process::Command::new(&candidate).args(["-c", "import grpc"]).stderr(Stdio::null()).status();
    assert!(check.is_ok_and(|status| status.success()), "no Python with grpcio: run tests/tools/install");
    candidate
}
