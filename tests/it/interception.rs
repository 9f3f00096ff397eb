//! `deploy/iptables/outrigger-iptables` in network namespaces: what it catches, what it leaves alone, and that it leaves nothing
//! behind.

#[cfg(feature = "dev")]
mod meshed;
pub mod proxied;

use std::path::{Path, PathBuf};

use tokio::process::Child;

use crate::support::{Namespace, process};

/// The port that everything which leaves is redirected to, and the one for what arrives.
const OUTBOUND: &str = "15001";
const INBOUND: &str = "15006";

/// The user that the rules let pass.
const PROXY_USER: &str = "65532";

fn path(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name).display().to_string()
}

fn script() -> PathBuf {
    PathBuf::from(path("tests/it/python/redirected.py"))
}

async fn iptables(host: &Namespace, arguments: &[&str]) -> String {
    host.printed(&path("deploy/iptables/outrigger-iptables"), arguments).await
}

/// Listens on ports of a host and tells every caller where it was going.
async fn listen(host: &Namespace, arguments: &[&str]) -> Child {
    let mut command = host.command(process::python());
    command.arg(script()).arg("serve").args(arguments);
    host.start(command).await
}

/// What each port of an address answers to a user of a host: `LISTENER DESTINATION SOURCE`, or `nobody`.
async fn ask(host: &Namespace, user: &str, address: &str, ports: &[&str]) -> Vec<String> {
    let (python, script) = (process::python().display().to_string(), script().display().to_string());
    let who = ["--reuid", user, "--regid", user, "--clear-groups", &python, "-B", &script, "ask", address];
    host.printed("setpriv", &[&who, ports].concat()).await.lines().map(str::to_owned).collect()
}

/// The same by somebody, shortened to where the caller arrived and where it was going.
async fn arrived(host: &Namespace, address: &str, ports: &[&str]) -> Vec<String> {
    let shorten = |answer: String| answer.rsplit_once(' ').map_or(answer.clone(), |(rest, _)| rest.to_owned());
    ask(host, "1000", address, ports).await.into_iter().map(shorten).collect()
}

/// All rules, routes and tables of a host, without counters.
async fn everything(host: &Namespace) -> String {
    let mut all = String::new();
    for program in ["iptables-nft-save", "ip6tables-nft-save", "iptables-legacy-save", "ip6tables-legacy-save"] {
        all += &format!("# {program}\n{}", rules(&host.printed(program, &[]).await));
    }
    all += &host.printed("nft", &["--stateless", "list", "ruleset"]).await;
    for family in ["-4", "-6"] {
        all += &host.printed("ip", &[family, "rule", "show"]).await;
        // Addresses of the link alone come when the kernel has checked them.
        let routes = host.printed("ip", &[family, "route", "show", "table", "all"]).await;
        all.extend(routes.lines().filter(|line| !line.contains("fe80::")).flat_map(|line| [line, "\n"]));
    }
    all
}

/// A saved rule set without dates and counters. A table without rules of the older kind of iptables is no table: it cannot be
/// taken away again, and does nothing.
fn rules(saved: &str) -> String {
    let lines: Vec<String> = saved
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split(" [").next().unwrap_or_default().to_owned())
        .collect();
    lines
        .split_inclusive(|line| line == "COMMIT")
        .filter(|table| table.iter().any(|line| line.starts_with('-') || line.ends_with(" -")))
        .map(|table| table.join("\n") + "\n")
        .collect()
}

/// The lines are the same ones. Their order within a chain is kept by those of `iptables-save`; `nft` lists chains as they were made.
#[track_caller]
fn same(now: &str, then: &str, place: &str) {
    let missing: Vec<_> = then.lines().filter(|line| !now.lines().any(|other| other == *line)).collect();
    let more: Vec<_> = now.lines().filter(|line| !then.lines().any(|other| other == *line)).collect();
    assert!(missing.is_empty() && more.is_empty(), "{place}: missing {missing:#?}, more {more:#?}");
    let saved = |all: &str| all.lines().filter(|line| line.starts_with("-A")).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(saved(now), saved(then), "{place}");
}

/// What somebody else has set up before.
async fn furnish(host: &Namespace, backend: &str) {
    for name in [format!("iptables-{backend}-restore"), format!("ip6tables-{backend}-restore")] {
        let foreign = "*nat\n:THEIRS - [0:0]\n-A OUTPUT -p tcp --dport 9 -j THEIRS\n-A PREROUTING -p tcp --dport 9 -j THEIRS\n\
                       -A THEIRS -j RETURN\n-A POSTROUTING -o other -j MASQUERADE\nCOMMIT\n\
                       *mangle\n-A PREROUTING -p udp -j MARK --set-xmark 0x7/0xffffffff\nCOMMIT\n\
                       *filter\n:FORWARD DROP [0:0]\n-A INPUT -p tcp --dport 7 -j DROP\nCOMMIT\n";
        host.printed("sh", &["-c", &format!("printf '%s' '{foreign}' | {name}")]).await;
    }
    host.ip(&["rule", "add", "fwmark", "9", "lookup", "99"]);
    host.ip(&["route", "add", "local", "192.0.2.0/24", "dev", "lo", "table", "99"]);
}

#[tokio::test]
async fn undone_the_rule_set_is_what_it_was() {
    for backend in ["nft", "legacy"] {
        for mode in ["redirect", "tproxy"] {
            for furnished in [false, true] {
                let (host, _peer) = Namespace::pair();
                if furnished {
                    furnish(&host, backend).await;
                }
                let before = everything(&host).await;
                let place = format!("{backend} {mode} furnished={furnished}");
                let with = ["--backend", backend, "--inbound-mode", mode, "--exclude-outbound-ports", "22,8000:8010"];
                iptables(&host, &[&["apply"], &with[..]].concat()).await;
                let applied = everything(&host).await;
                assert_ne!(applied, before, "{place}");
                iptables(&host, &[&["apply"], &with[..]].concat()).await;
                same(&everything(&host).await, &applied, &format!("{place}: twice is once"));
                iptables(&host, &["remove"]).await;
                same(&everything(&host).await, &before, &format!("{place}: undone"));
                iptables(&host, &["remove"]).await;
                same(&everything(&host).await, &before, &format!("{place}: undone twice"));
            }
        }
    }
}

#[tokio::test]
async fn applied_again_with_other_options_only_those_hold() {
    let (host, _peer) = Namespace::pair();
    let before = everything(&host).await;
    iptables(&host, &["apply", "--inbound-mode", "tproxy", "--exclude-outbound-ports", "22"]).await;
    iptables(&host, &["apply", "--exclude-outbound-ports", "23"]).await;
    let both = everything(&host).await;
    iptables(&host, &["remove"]).await;
    same(&everything(&host).await, &before, "removed");
    iptables(&host, &["apply", "--exclude-outbound-ports", "23"]).await;
    let only = everything(&host).await;
    let ours = |all: &str| all.lines().filter(|line| line.contains("OUTRIGGER_")).collect::<Vec<_>>().join("\n");
    same(&ours(&both), &ours(&only), "applied again");
    iptables(&host, &["apply", "--outbound-port", "0"]).await;
    assert!(!iptables(&host, &["show"]).await.contains("OUTRIGGER_OUTBOUND"), "one direction alone");
}

#[tokio::test]
async fn what_leaves_is_caught_but_for_what_is_excluded() {
    let (host, peer) = Namespace::pair();
    let _proxy = listen(&host, &[OUTBOUND]).await;
    let _services = listen(&peer, &["80", "443", "5432", "8005"]).await;
    let (v4, v6) = ("10.77.0.2", "fd77::2");
    assert_eq!(arrived(&host, v4, &["80"]).await, ["80 10.77.0.2:80"], "nothing is caught without the rules");

    iptables(&host, &["apply", "--exclude-outbound-ports", "443,8000:8010"]).await;
    let caught = ["15001 10.77.0.2:80", "443 10.77.0.2:443", "15001 10.77.0.2:5432", "8005 10.77.0.2:8005"];
    assert_eq!(arrived(&host, v4, &["80", "443", "5432", "8005"]).await, caught);
    assert_eq!(arrived(&host, v6, &["80", "443"]).await, ["15001 fd77::2:80", "443 fd77::2:443"]);
    assert_eq!(arrived(&host, "203.0.113.9", &["80"]).await, ["15001 203.0.113.9:80"], "an address that nobody has");
    let direct = ask(&host, PROXY_USER, v4, &["80"]).await;
    assert_eq!(direct, ["80 10.77.0.2:80 10.77.0.1"], "what the proxy opens itself");
    assert_eq!(arrived(&host, "127.0.0.1", &["80"]).await, ["nobody"], "loopback");

    iptables(&host, &["apply", "--exclude-outbound-cidrs", "10.77.0.0/24"]).await;
    assert_eq!(arrived(&host, v4, &["80"]).await, ["80 10.77.0.2:80"]);
    assert_eq!(arrived(&host, v6, &["80"]).await, ["15001 fd77::2:80"], "the other family has its own");
    iptables(&host, &["apply", "--include-outbound-cidrs", "fd77::/64", "--include-outbound-ports", "80"]).await;
    assert_eq!(arrived(&host, v4, &["80"]).await, ["80 10.77.0.2:80"]);
    assert_eq!(arrived(&host, v6, &["80", "443"]).await, ["15001 fd77::2:80", "443 fd77::2:443"]);
    iptables(&host, &["apply", "--include-outbound-ports", "5432,8005"]).await;
    assert_eq!(arrived(&host, v4, &["80", "5432"]).await, ["80 10.77.0.2:80", "15001 10.77.0.2:5432"]);
    iptables(&host, &["apply", "--exclude-uids", "1000"]).await;
    assert_eq!(arrived(&host, v4, &["80"]).await, ["80 10.77.0.2:80"], "a user that is excluded");
    iptables(&host, &["apply", "--exclude-gids", "1000"]).await;
    assert_eq!(arrived(&host, v4, &["80"]).await, ["80 10.77.0.2:80"], "a group that is excluded");
    iptables(&host, &["apply", "--exclude-interfaces", "wire"]).await;
    assert_eq!(arrived(&host, v4, &["80"]).await, ["80 10.77.0.2:80"], "an interface that is excluded");
    iptables(&host, &["apply", "--ipv6", "off"]).await;
    assert_eq!(arrived(&host, v4, &["80"]).await, ["15001 10.77.0.2:80"]);
    assert_eq!(arrived(&host, v6, &["80"]).await, ["80 fd77::2:80"]);
    iptables(&host, &["remove"]).await;
    assert_eq!(arrived(&host, v4, &["80"]).await, ["80 10.77.0.2:80"], "nothing is caught any more");
}

#[tokio::test]
async fn what_arrives_is_caught_but_for_what_is_excluded() {
    let (caller, host) = Namespace::pair();
    let (v4, v6) = ("10.77.0.2", "fd77::2");
    let _services = listen(&host, &["80", "443", "5432"]).await;
    let _elsewhere = listen(&caller, &["80"]).await;
    for mode in ["redirect", "tproxy"] {
        let transparent: &[&str] = if mode == "tproxy" { &["--transparent"] } else { &[] };
        let proxy = listen(&host, &[transparent, &[INBOUND]].concat()).await;
        let with = |more: &[&'static str]| [&["apply", "--inbound-mode", mode], more].concat();
        iptables(&host, &with(&["--exclude-inbound-ports", "443"])).await;
        let caught = ["15006 10.77.0.2:80", "443 10.77.0.2:443", "15006 10.77.0.2:9999", "15006 10.77.0.2:15006"];
        assert_eq!(arrived(&caller, v4, &["80", "443", "9999", INBOUND]).await, caught, "{mode}");
        assert_eq!(arrived(&caller, v6, &["80", "443"]).await, ["15006 fd77::2:80", "443 fd77::2:443"], "{mode}");
        let seen = ask(&caller, "1000", v4, &["80"]).await;
        assert_eq!(seen, ["15006 10.77.0.2:80 10.77.0.1"], "{mode}: the caller's address is kept");
        // The proxy's own way to its application, and answers to what this host asks of others.
        assert_eq!(arrived(&host, v4, &["80"]).await, ["80 10.77.0.2:80"], "{mode}");
        assert_eq!(ask(&host, PROXY_USER, "10.77.0.1", &["80"]).await, ["80 10.77.0.1:80 10.77.0.2"], "{mode}");

        let seen = ask(&caller, "1000", v6, &["80"]).await;
        assert_eq!(seen, ["15006 fd77::2:80 fd77::1"], "{mode}: in both families");

        iptables(&host, &with(&["--exclude-inbound-cidrs", "10.77.0.0/24"])).await;
        assert_eq!(arrived(&caller, v4, &["80"]).await, ["80 10.77.0.2:80"], "{mode}");
        assert_eq!(arrived(&caller, v6, &["80"]).await, ["15006 fd77::2:80"], "{mode}");
        iptables(&host, &with(&["--exclude-inbound-cidrs", "fd77::/64"])).await;
        assert_eq!(arrived(&caller, v4, &["80"]).await, ["15006 10.77.0.2:80"], "{mode}");
        assert_eq!(arrived(&caller, v6, &["80"]).await, ["80 fd77::2:80"], "{mode}");
        iptables(&host, &with(&["--include-inbound-ports", "5432"])).await;
        assert_eq!(arrived(&caller, v4, &["80", "5432"]).await, ["80 10.77.0.2:80", "15006 10.77.0.2:5432"], "{mode}");
        iptables(&host, &with(&["--inbound-interfaces", "eth+"])).await;
        assert_eq!(arrived(&caller, v4, &["80"]).await, ["80 10.77.0.2:80"], "{mode}");
        iptables(&host, &with(&["--inbound-interfaces", "wire"])).await;
        assert_eq!(arrived(&caller, v4, &["80"]).await, ["15006 10.77.0.2:80"], "{mode}");
        iptables(&host, &["remove"]).await;
        assert_eq!(arrived(&caller, v4, &["80"]).await, ["80 10.77.0.2:80"], "{mode}");
        drop(proxy);
    }
}

/// Connections that are open while the rules come and go stay as they are.
#[tokio::test]
async fn open_connections_survive_apply_and_remove() {
    let (caller, host) = Namespace::pair();
    let mut talk = caller.command(process::python());
    // Echoes over one connection, a line for a line.
    talk.args(["-c", CALLER]).stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut serve = host.command(process::python());
    serve.args(["-c", ECHO]);
    let _server = host.start(serve).await;
    let mut talk = talk.spawn().expect("start Python");
    let mut say = talk.stdin.take().expect("piped");
    let mut heard = tokio::io::BufReader::new(talk.stdout.take().expect("piped"));
    let mut round = async |what: &str| {
        use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _};
        say.write_all(b"hello\n").await.unwrap();
        let mut line = String::new();
        crate::support::within(crate::support::PATIENCE, what, heard.read_line(&mut line)).await.unwrap();
        assert_eq!(line, "hello\n", "{what}");
    };
    round("before").await;
    for mode in ["redirect", "tproxy"] {
        iptables(&host, &["apply", "--inbound-mode", mode]).await;
        iptables(&caller, &["apply"]).await;
        round(mode).await;
        iptables(&host, &["remove"]).await;
        iptables(&caller, &["remove"]).await;
        round("removed").await;
    }
}

const ECHO: &str = "
import socket
s = socket.create_server(('', 80)); print('ready', flush=True)
c, _ = s.accept()
while data := c.recv(100): c.sendall(data)
";
const CALLER: &str = "
import socket, sys
c = socket.create_connection(('10.77.0.2', 80)); f = c.makefile()
for line in sys.stdin:
    c.sendall(line.encode()); print(f.readline(), end='', flush=True)
";

#[tokio::test]
async fn a_dry_run_changes_nothing_and_says_what_would_be_done() {
    let (host, _peer) = Namespace::pair();
    let before = everything(&host).await;
    let text = iptables(&host, &["apply", "--dry-run", "--inbound-mode", "tproxy"]).await;
    for part in ["REDIRECT --to-ports 15001", "TPROXY --on-port 15006", "ip -6 rule add fwmark 1506 lookup 1506"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    iptables(&host, &["remove", "--dry-run"]).await;
    same(&everything(&host).await, &before, "a dry run");
    // What it prints is what is set up.
    host.printed("sh", &["-eu", "-c", &text]).await;
    let printed = everything(&host).await;
    iptables(&host, &["remove"]).await;
    iptables(&host, &["apply", "--inbound-mode", "tproxy"]).await;
    let applied = everything(&host).await;
    // What is printed does not know whether there are tables.
    let applied: String =
        applied.lines().filter(|line| !line.contains("OUTRIGGER_NEW")).map(|l| format!("{l}\n")).collect();
    same(&printed, &applied, "printed and set up");
}

#[tokio::test]
async fn what_cannot_be_meant_is_refused_and_changes_nothing() {
    let host = Namespace::new();
    let before = everything(&host).await;
    for (arguments, why) in [
        (["--exclude-outbound-ports", "22 -j ACCEPT"], "is not a list separated by commas"),
        (["--exclude-outbound-ports", "70000"], "70000 is more than 65535"),
        (["--exclude-outbound-ports", "9:8"], "its end is before its beginning"),
        (["--exclude-outbound-cidrs", "10.0.0.0/8,-j"], "'-j' cannot be used"),
        (["--exclude-outbound-cidrs", "10.0.0.0/99"], "taken away again"),
        (["--inbound-mode", "transparent"], "is none of: redirect tproxy"),
        (["--proxy-uid", ""], "would be redirected to itself"),
        (["--inbound-port", "x"], "'x' is not a number"),
        (["--everything", "yes"], "there is no such option"),
    ] {
        let script = path("deploy/iptables/outrigger-iptables");
        let output = host.run(&script, &[&["apply"], &arguments[..]].concat()).await;
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && text.contains(why), "{arguments:?}: {text}");
        same(&everything(&host).await, &before, &format!("{arguments:?}"));
    }
}
