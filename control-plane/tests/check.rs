//! `outrigger-control check`, as people run it.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

const GOOD: &str = "\
listeners: [{ name: in, bind: 127.0.0.1:1, routes: r }]
routes: { r: [{ rules: [{ backendRefs: [{ cluster: c }] }] }] }
clusters: { c: { endpoints: [127.0.0.1:2] } }
";

fn check(folder: &Path, paths: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger-control"));
    command.current_dir(folder).arg("check").args(paths).output().expect("the program runs")
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).expect("text")
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

fn write(folder: &Path, name: &str, text: impl AsRef<[u8]>) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
    fs::write(path, text).expect("a file");
}

#[test]
fn the_examples_are_accepted() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/examples");
    let count = fs::read_dir(&examples).expect("the examples").count();
    let output = check(&examples, &["."]);
    assert_eq!(stdout(&output), format!("checked {count} files: 0 errors, 0 warnings\n"));
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn every_problem_of_every_file_is_shown_and_the_exit_code_is_1() {
    let folder = folder();
    write(folder.path(), "good.yaml", GOOD);
    write(folder.path(), "team/a.yaml", GOOD.replace("cluster: c", "cluster: d"));
    write(folder.path(), "team/deep/b.yml", GOOD.replace("routes: r }", "routes: r, http3: true }"));
    let output = check(folder.path(), &["."]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        stdout(&output),
        "\
error: there is no cluster named `d`
 --> ./team/a.yaml:2:52
  |
2 | routes: { r: [{ rules: [{ backendRefs: [{ cluster: d }] }] }] }
  |                                                    ^
  = help: define it under `clusters`, or refer to `c`

error: HTTP/3 is always encrypted, and this listener has no TLS
 --> ./team/deep/b.yml:1:62
  |
1 | listeners: [{ name: in, bind: 127.0.0.1:1, routes: r, http3: true }]
  |                                                              ^^^^
  = help: add `tls: { mode: strict }`, or remove `http3`

checked 3 files: 2 errors, 0 warnings
"
    );
}

#[test]
fn warnings_alone_are_no_failure() {
    let folder = folder();
    write(
        folder.path(),
        "a.yaml",
        format!("{GOOD}node: {{}}\n").replace("clusters: {", "clusters: { idle: { endpoints: [127.0.0.1:3] },"),
    );
    let output = check(folder.path(), &["a.yaml"]);
    assert!(stdout(&output).starts_with("warning: nothing uses the cluster `idle`\n"), "{}", stdout(&output));
    assert!(stdout(&output).ends_with("\nchecked 1 file: 0 errors, 1 warning\n"));
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn checking_nothing_is_a_failure() {
    let folder = folder();
    write(folder.path(), "empty/notes.txt", "x");
    for path in ["empty", "absent.yaml"] {
        let output = check(folder.path(), &[path]);
        assert!(stdout(&output).ends_with("\nchecked 0 files: 1 error, 0 warnings\n"), "{}", stdout(&output));
        assert_eq!(output.status.code(), Some(1), "{path}");
    }
    let output = check(folder.path(), &[]);
    assert_eq!(output.status.code(), Some(2), "no path is wrong usage");
}

#[test]
fn a_file_that_cannot_be_read_is_a_failure_and_stops_nothing() {
    let folder = folder();
    write(folder.path(), "a.yaml", b"node: {}\n# \xff\n");
    write(folder.path(), "b.yaml", GOOD);
    write(folder.path(), "c.yaml", vec![b'#'; outrigger_config::limits::MAX_TEXT_BYTES + 1]);
    let output = check(folder.path(), &["."]);
    assert!(stdout(&output).contains("cannot be read: line 2 is not UTF-8\n --> ./a.yaml:1:1"), "{}", stdout(&output));
    assert!(stdout(&output).contains("cannot be read: it is larger than 4194304 bytes"), "{}", stdout(&output));
    assert!(stdout(&output).ends_with("\nchecked 1 file: 2 errors, 0 warnings\n"), "{}", stdout(&output));
    assert_eq!(output.status.code(), Some(1));
}

#[cfg(unix)]
#[test]
fn a_mounted_config_map_is_checked_once_and_circles_of_links_end() {
    use std::os::unix::fs::symlink;
    let folder = folder();
    write(folder.path(), "..2026_11_21/proxy.yaml", GOOD);
    symlink("..2026_11_21", folder.path().join("..data")).expect("a link");
    symlink("..data/proxy.yaml", folder.path().join("proxy.yaml")).expect("a link");
    symlink(".", folder.path().join("again")).expect("a link");
    let output = check(folder.path(), &[".", "proxy.yaml"]);
    assert_eq!(stdout(&output), "checked 1 file: 0 errors, 0 warnings\n");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn a_file_is_checked_under_any_name_when_it_is_named() {
    let folder = folder();
    write(folder.path(), ".hidden.conf", GOOD);
    assert_eq!(stdout(&check(folder.path(), &[".hidden.conf"])), "checked 1 file: 0 errors, 0 warnings\n");
}
