//! The program killed at random instants of pushes: what was acknowledged is there, and nothing is half there.

use std::fs;
use std::hash::{BuildHasher as _, RandomState};
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use outrigger_control::api::wire::{ApplyRequest, ChangeResponse, DocumentText, ObjectBody, StatusBody};
use outrigger_control::cli::client::{Client, Settings};

/// How often it is killed.
const KILLS: u32 = 100;

fn serve(folder: &Path) -> (Child, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_outrigger-control"))
        .current_dir(folder)
        .args(["serve", "--data", "data", "--grpc", "127.0.0.1:0", "--api", "127.0.0.1:0", "--log-level", "off"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let api = lines.nth(1).expect("two lines").expect("text");
    (child, api.strip_prefix("API ").expect("where it listens").to_owned())
}

fn client(folder: &Path, server: &str) -> Client {
    let token = fs::read_to_string(folder.join("data/admin.token")).expect("readable");
    let settings = Settings { server: server.to_owned(), token: Some(token), ..Settings::default() };
    Client::new(&settings).expect("it is right")
}

/// Three Services whose ports are the number of the push.
fn push(number: u64) -> ApplyRequest {
    let text = ["a", "b", "c"].map(|name| {
        format!("apiVersion: v1\nkind: Service\nmetadata: {{ name: {name}, namespace: shop }}\nspec: {{ ports: [{{ port: {number} }}] }}\n")
    });
    let documents = vec![DocumentText { name: "all.yaml".to_owned(), text: text.join("---\n") }];
    ApplyRequest { documents, message: number.to_string(), ..ApplyRequest::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_it_is_pushed_to_no_accepted_generation_is_lost_and_none_is_half_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut random = RandomState::new().hash_one(1) | 1;
    let mut acknowledged = 0;
    for round in 0..=KILLS {
        let (mut child, server) = serve(folder.path());
        let api = client(folder.path(), &server);
        let status: StatusBody = api.get("/v1/status").await.expect("it answers");
        assert!(status.generation >= acknowledged, "round {round}: {acknowledged} was acknowledged: {status:?}");
        let objects: Vec<ObjectBody> = api.get("/v1/objects").await.expect("it answers");
        let wanted = format!("port: {} ", status.generation);
        let whole = objects.iter().filter(|object| object.text.contains(&wanted)).count();
        assert_eq!(whole, if status.generation == 0 { 0 } else { 3 }, "round {round}: {objects:?}");
        if round == KILLS {
            child.kill().expect("SIGKILL");
            child.wait().expect("it is ended");
            break;
        }
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let life = Duration::from_micros(20_000 + random % 60_000);
        let killing = std::thread::spawn(move || {
            let end = Instant::now() + life;
            while let Some(left) = end.checked_duration_since(Instant::now()) {
                std::thread::sleep(left);
            }
            child.kill().expect("SIGKILL");
            child.wait().expect("it is ended");
        });
        let mut number = status.generation;
        loop {
            number += 1;
            match api.post::<ChangeResponse>("/v1/apply", &push(number)).await {
                Ok(response) => {
                    assert_eq!(response.generation, Some(number));
                    acknowledged = number;
                }
                // It was killed within this one, which may be there or not.
                Err(_) => break,
            }
        }
        killing.join().expect("no panic");
    }
    assert!(acknowledged > 0, "pushes were acknowledged between the kills");
}
