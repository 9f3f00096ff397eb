//! The `openssl` program: a TLS client that is not ours, and a maker of certificates that our library refuses
//! to make.

use std::net::SocketAddr;
use std::process::Stdio;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::pki::{Authority, Credential, Files};
use super::{PATIENCE, within};

/// What `openssl s_client` said, both outputs together.
#[derive(Debug)]
pub struct Said {
    /// Whether it ended with status 0.
    pub success: bool,
    /// Its outputs.
    pub text: String,
}

impl Said {
    /// The value of a `Name: value` or `Name = value` line.
    pub fn line(&self, name: &str) -> Option<&str> {
        self.text.lines().find_map(|line| line.trim().strip_prefix(name)).map(|rest| rest.trim_matches([':', ' ', '=']))
    }

    /// Whether an answer of HTTP/1.1 came.
    pub fn served(&self) -> bool {
        self.text.contains("HTTP/1.1 200 ")
    }
}

/// Connects with these arguments, sends `GET / HTTP/1.1` and reads until the other side closes.
pub async fn s_client(addr: SocketAddr, arguments: &[&str]) -> Said {
    let request = "GET / HTTP/1.1\r\nhost: a.example\r\nconnection: close\r\n\r\n";
    let addr = addr.to_string();
    let mut all = vec!["s_client", "-connect", &addr, "-ign_eof"];
    all.extend(arguments);
    run(&all, request).await
}

/// Runs `openssl` with this on its standard input, which then ends.
pub async fn run(arguments: &[&str], input: &str) -> Said {
    run_with(arguments, input, Input::Ends).await
}

/// The same with a standard input that stays open, so that `openssl` reads commands from it.
pub async fn run_commanded(arguments: &[&str], input: &str) -> Said {
    run_with(arguments, input, Input::StaysOpen).await
}

/// What becomes of the standard input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Input {
    Ends,
    StaysOpen,
}

async fn run_with(arguments: &[&str], text: &str, input: Input) -> Said {
    let mut child = Command::new("openssl")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("openssl is installed: tests/tools/install");
    let mut stdin = child.stdin.take().expect("piped");
    let output = within(PATIENCE, "openssl", async {
        // It may have ended without reading, which is an answer too.
        stdin.write_all(text.as_bytes()).await.ok();
        let held = (input == Input::StaysOpen).then_some(stdin);
        let output = child.wait_with_output().await.expect("openssl runs");
        drop(held);
        output
    })
    .await;
    let text = [output.stdout, output.stderr].map(|out| String::from_utf8_lossy(&out).into_owned()).concat();
    Said { success: output.status.success(), text }
}

/// A certificate with an RSA key of this many bits for an identity, which openssl makes without a murmur.
pub async fn rsa_credential(bits: u32, authority: &Authority, uri: &str) -> Credential {
    let files = Files::new();
    files.write("ca.pem", &authority.pem);
    files.write("ca.key", &authority.key);
    files.write(
        "extensions",
        format!(
            "subjectAltName=URI:{uri}\nextendedKeyUsage=serverAuth,clientAuth\nkeyUsage=critical,digitalSignature\n\
             basicConstraints=critical,CA:FALSE\n"
        ),
    );
    let path = |name: &str| files.path(name).display().to_string();
    let (key, request, leaf) = (path("leaf.key"), path("leaf.csr"), path("leaf.pem"));
    let bits = format!("rsa:{bits}");
    let made =
        run(&["req", "-new", "-newkey", &bits, "-nodes", "-keyout", &key, "-subj", "/CN=rsa", "-out", &request], "")
            .await;
    assert!(made.success, "{}", made.text);
    let (ca, ca_key, extensions) = (path("ca.pem"), path("ca.key"), path("extensions"));
    let mut arguments = vec!["x509", "-req", "-sha256", "-days", "1", "-in", &request, "-CA", &ca, "-CAkey", &ca_key];
    arguments.extend(["-CAcreateserial", "-extfile", &extensions, "-out", &leaf]);
    let signed = run(&arguments, "").await;
    assert!(signed.success, "{}", signed.text);
    let read = |path: &str| std::fs::read_to_string(path).expect("openssl wrote it");
    Credential { chain: read(&leaf) + &authority.pem, key: read(&key), serial: 0 }
}
