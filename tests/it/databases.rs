//! Databases and brokers as their own clients see them: Redis and PostgreSQL through `tcp` and mutual TLS between two proxies.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::support::proxy::free_port;
use crate::support::{Config, Mesh, Namespace, PATIENCE, Proxy, full, process, within};

/// Two proxies on the way to a server that speaks something of its own.
pub struct RawHop {
    /// Beside the caller: TCP in, mutual TLS out.
    pub outbound: Proxy,
    /// Beside the server: mutual TLS in, TCP out.
    pub inbound: Proxy,
    _mesh: Mesh,
}

impl RawHop {
    /// To this server.
    pub async fn to(server: SocketAddr) -> Self {
        let mesh = Mesh::new();
        let raw = |config: Config| config.listener("protocol: tcp").listener("tcp: { backendRefs: [{ cluster: c }] }");
        let inbound = raw(Config::new().cluster("c", "tcp", &[server]))
            .top(&mesh.identity("shop/db"))
            .listener("tls: { mode: strict }");
        let inbound = Proxy::start(&inbound).await;
        let outbound = raw(Config::new().cluster("c", "tcp", &[inbound.addr()]))
            .top(&mesh.identity("shop/web"))
            .upstream(&format!("tls: {{ peerIdentities: [\"{}\"] }}", mesh.id("shop/db")));
        let outbound = Proxy::start(&outbound).await;
        Self { outbound, inbound, _mesh: mesh }
    }

    /// Where the caller connects.
    pub fn addr(&self) -> SocketAddr {
        self.outbound.addr()
    }

    /// Both proxies let go of every connection.
    async fn is_empty(&self) {
        for proxy in [&self.outbound, &self.inbound] {
            let start = std::time::Instant::now();
            loop {
                let open = proxy.metric("outrigger_connections", &["listener=\"in\""]).await;
                if open == 0.0 {
                    break;
                }
                assert!(start.elapsed() < PATIENCE, "{open} connections are left");
                tokio::time::sleep(crate::support::ms(10)).await;
            }
        }
    }
}

/// Runs a program to its end, which must be a good one, and gives what it printed.
pub async fn printed(command: &mut Command, input: &str) -> String {
    use tokio::io::AsyncWriteExt as _;
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let name = format!("{:?}", command.as_std());
    let mut child = command.spawn().unwrap_or_else(|e| panic!("{name}: {e}"));
    let mut stdin = child.stdin.take().expect("piped");
    let input = input.to_owned();
    let output = within(Duration::from_secs(120), &name, async move {
        stdin.write_all(input.as_bytes()).await.ok();
        drop(stdin);
        child.wait_with_output().await.expect("it runs")
    })
    .await;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{name}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

async fn listens(addr: SocketAddr) {
    let start = std::time::Instant::now();
    while tokio::net::TcpStream::connect(addr).await.is_err() {
        assert!(start.elapsed() < PATIENCE, "the server listens at {addr}");
        tokio::time::sleep(crate::support::ms(10)).await;
    }
}

// ---- Redis ---------------------------------------------------------------------------------------------------------------

struct Redis {
    addr: SocketAddr,
    _child: Child,
    _folder: TempDir,
}

impl Redis {
    async fn start() -> Self {
        let (folder, port) = (tempfile::tempdir().expect("make a folder"), free_port());
        let child = Command::new(process::tool("redis-server"))
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir"])
            .arg(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("start Redis");
        let addr = SocketAddr::from(([127, 0, 0, 1], port));
        listens(addr).await;
        Self { addr, _child: child, _folder: folder }
    }
}

fn redis(program: &str, addr: SocketAddr) -> Command {
    let mut command = Command::new(process::tool(program));
    command.args(["-h", &addr.ip().to_string(), "-p", &addr.port().to_string()]);
    command
}

#[tokio::test]
async fn redis_is_used_by_its_own_client() {
    let server = Redis::start().await;
    let hop = RawHop::to(server.addr).await;
    let script = "SET greeting hello\nGET greeting\nRPUSH list a b c\nLRANGE list 0 -1\nMULTI\nINCR n\nINCR n\nEXEC\n\
                  HSET map k v\nHGETALL map\nPING\n";
    let alone = printed(&mut redis("redis-cli", server.addr), &format!("FLUSHALL\n{script}")).await;
    let through = printed(&mut redis("redis-cli", hop.addr()), &format!("FLUSHALL\n{script}")).await;
    assert_eq!(through, alone);
    assert!(through.contains("hello") && through.trim_end().ends_with("PONG"), "{through}");

    // What one connection publishes, another that waits for it hears.
    let listener = redis("redis-cli", hop.addr())
        .args(["--csv", "SUBSCRIBE", "news"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let mut listener = listener.expect("start redis-cli");
    let mut lines =
        tokio::io::AsyncBufReadExt::lines(tokio::io::BufReader::new(listener.stdout.take().expect("piped")));
    until(&mut lines, "\"subscribe\",\"news\",1").await;
    printed(redis("redis-cli", hop.addr()).args(["PUBLISH", "news", "it works"]), "").await;
    until(&mut lines, "\"message\",\"news\",\"it works\"").await;
    listener.kill().await.expect("it stops");

    // A value of 8 MiB there and back.
    let value = "v".repeat(8 << 20);
    printed(redis("redis-cli", hop.addr()).args(["-x", "SET", "large"]), &value).await;
    assert_eq!(printed(redis("redis-cli", hop.addr()).args(["GET", "large"]), "").await.trim_end().len(), value.len());
    hop.is_empty().await;
}

/// Reads lines until this one.
async fn until(lines: &mut tokio::io::Lines<tokio::io::BufReader<tokio::process::ChildStdout>>, expected: &str) {
    let reading = async { while lines.next_line().await.expect("readable").expect("not the end") != expected {} };
    within(PATIENCE, expected, reading).await;
}

#[tokio::test]
async fn the_redis_benchmark_runs_to_its_end() {
    let server = Redis::start().await;
    let hop = RawHop::to(server.addr).await;
    let requests = if full() { "100000" } else { "5000" };
    for pipeline in ["1", "16"] {
        let report = printed(
            redis("redis-benchmark", hop.addr()).args([
                "-n",
                requests,
                "-c",
                "50",
                "-P",
                pipeline,
                "-t",
                "set,get,lpush",
                "--csv",
            ]),
            "",
        )
        .await;
        for test in ["\"SET\"", "\"GET\"", "\"LPUSH\""] {
            assert!(report.lines().any(|line| line.starts_with(test)), "{report}");
        }
        println!("pipeline {pipeline}: {report}");
    }
    hop.is_empty().await;
}

// ---- PostgreSQL ----------------------------------------------------------------------------------------------------------

/// A PostgreSQL of the tests' own; stopped when dropped.
pub struct Postgres {
    /// Where it listens.
    pub addr: SocketAddr,
    child: std::process::Child,
    _folder: TempDir,
}

impl Postgres {
    /// On loopback.
    pub async fn start() -> Self {
        let postgres = Self::launch(None, free_port()).await;
        let start = std::time::Instant::now();
        while !psql(postgres.addr).args(["-c", "select 1"]).output().await.is_ok_and(|output| output.status.success()) {
            assert!(start.elapsed() < PATIENCE, "PostgreSQL answers");
            tokio::time::sleep(crate::support::ms(50)).await;
        }
        postgres
    }

    /// On the loopback of another host, at its usual port.
    pub async fn on(host: &Namespace) -> Self {
        let postgres = Self::launch(Some(host), 5432).await;
        let to = "host=127.0.0.1 user=postgres dbname=postgres";
        let start = std::time::Instant::now();
        while !host.run("psql", &["--no-psqlrc", "-c", "select 1", to]).await.status.success() {
            assert!(start.elapsed() < PATIENCE, "PostgreSQL answers");
            tokio::time::sleep(crate::support::ms(50)).await;
        }
        postgres
    }

    async fn launch(host: Option<&Namespace>, port: u16) -> Self {
        let folder = tempfile::tempdir().expect("make a folder");
        let data = folder.path().join("data");
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(folder.path(), open).expect("open the folder");
        let data = data.display().to_string();
        let initdb =
            ["--pgdata", &data, "--username", "postgres", "--auth", "trust", "--no-sync", "--encoding", "UTF8"];
        printed(&mut Command::from(unprivileged(None, "initdb", &initdb)), "").await;
        let (folder_text, port_text) = (folder.path().display().to_string(), port.to_string());
        let settings = ["-D", &data, "-p", &port_text, "-k", &folder_text, "-h", "127.0.0.1", "-c", "fsync=off"];
        let child = unprivileged(host, "postgres", &settings)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start PostgreSQL");
        Self { addr: SocketAddr::from(([127, 0, 0, 1], port)), child, _folder: folder }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // Asked to stop at once, it takes its own children with it.
        process::signal(self.child.id(), "INT");
        self.child.wait().ok();
    }
}

/// PostgreSQL refuses to be root.
fn unprivileged(host: Option<&Namespace>, program: &str, arguments: &[&str]) -> std::process::Command {
    let mut words = Vec::new();
    if let Some(host) = host {
        words.extend([process::tool("ip"), "netns".into(), "exec".into(), host.name().into()]);
    }
    if std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0) {
        words.push(process::tool("setpriv"));
        words.extend(["--reuid", "65534", "--regid", "65534", "--clear-groups"].map(Into::into));
    }
    words.push(server_program(program));
    let mut command = std::process::Command::new(&words[0]);
    command.args(&words[1..]).args(arguments).current_dir("/");
    command
}

/// Debian keeps the server's programs in a folder for each version.
fn server_program(name: &str) -> std::path::PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let found = versions.map(|version| version.path().join("bin").join(name)).find(|path| path.is_file());
    found.unwrap_or_else(|| process::tool(name))
}

/// A client of PostgreSQL.
pub fn psql(addr: SocketAddr) -> Command {
    let mut command = Command::new(process::tool("psql"));
    let to = format!("host={} port={} user=postgres dbname=postgres", addr.ip(), addr.port());
    command.args(["--no-psqlrc", "--tuples-only", "--no-align", "--set", "ON_ERROR_STOP=1", &to]).stdin(Stdio::null());
    command
}

#[tokio::test]
async fn postgresql_is_used_by_its_own_clients() {
    let server = Postgres::start().await;
    let hop = RawHop::to(server.addr).await;
    let script = "create table things (id int primary key, name text);\n\
                  begin; insert into things select n, 'thing ' || n from generate_series(1, 5000) n; commit;\n\
                  select count(*), sum(id) from things;\n\
                  copy things (id, name) from stdin;\n6000\tcopied\n\\.\n\
                  select name from things where id = 6000;\n\
                  select length(string_agg(repeat(name, 100), '')) from things;\n\
                  drop table things;\n";
    let alone = printed(&mut psql(server.addr), script).await;
    let through = printed(&mut psql(hop.addr()), script).await;
    assert_eq!(through, alone);
    assert!(through.contains("5000|12502500") && through.contains("copied"), "{through}");

    // A query that is cancelled is cancelled: the client does that over a second connection.
    let slow = psql(hop.addr()).args(["-c", "set statement_timeout = 200; select pg_sleep(30)"]).output();
    let output = within(PATIENCE, "the query's end", slow).await.expect("run psql");
    assert!(String::from_utf8_lossy(&output.stderr).contains("statement timeout"), "{output:?}");

    let bench = |arguments: &[&str]| {
        let mut command = Command::new(server_program("pgbench"));
        command
            .args(["-h", "127.0.0.1", "-U", "postgres", "-p", &hop.addr().port().to_string()])
            .args(arguments)
            .arg("postgres");
        command
    };
    printed(&mut bench(&["-i", "-s", "1", "-q"]), "").await;
    let transactions = if full() { 2000 } else { 50 };
    for mode in ["simple", "prepared"] {
        let report = printed(&mut bench(&["-c", "8", "-t", &transactions.to_string(), "-M", mode, "-n"]), "").await;
        let expected = format!("number of transactions actually processed: {0}/{0}", 8 * transactions);
        assert!(report.contains(&expected), "{report}");
    }
    hop.is_empty().await;
}
