//! The watched directory of a control plane that runs.

use std::fs;
use std::os::unix::fs::symlink;

use http::StatusCode;
use serde_json::{Value, json};

use crate::support::{Control, SERVICE, documents, route, until};

async fn watching() -> Control {
    Control::start_with(|mut options, folder| {
        let directory = folder.join("manifests");
        fs::create_dir_all(&directory).expect("a folder");
        fs::write(directory.join("service.yaml"), SERVICE).expect("written");
        options.directory = Some(directory);
        options
    })
    .await
}

async fn status(control: &Control) -> Value {
    let (status, body) = control.ask(&control.admin, "GET", "/v1/status", &Value::Null).await;
    assert_eq!(status, StatusCode::OK, "{body:#}");
    body
}

fn file<'a>(status: &'a Value, name: &str) -> Option<&'a Value> {
    status["directory"]["files"].as_array()?.iter().find(|file| file["file"] == name)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_saved_is_taken_and_a_broken_file_keeps_its_good_objects() {
    let control = watching().await;
    assert_eq!(control.generation().await, 1);
    control.write("manifests/team/route.yaml", &route("2s"));
    until("the new file is taken", async || (control.generation().await == 2).then_some(())).await;

    // One file is broken, and another one is changed at the same time.
    control.write("manifests/team/route.yaml", &route("soon"));
    control.write(
        "manifests/service.yaml",
        &SERVICE.replace("namespace: shop }", "namespace: shop, labels: { team: pay } }"),
    );
    let now = until("both are looked at", async || {
        let now = status(&control).await;
        let broken = file(&now, "team/route.yaml").is_some_and(|file| file["problems"][0]["line"] == 9);
        (broken && now["generation"].as_u64() >= Some(3)).then_some(now)
    })
    .await;
    let broken = file(&now, "team/route.yaml").expect("it is shown");
    assert_eq!((&broken["namespaces"], &broken["objects"]), (&json!(["shop"]), &json!(1)), "{broken:#}");
    let (_, objects) = control.ask(&control.admin, "GET", "/v1/objects?kind=HTTPRoute", &Value::Null).await;
    assert!(objects[0]["text"].as_str().is_some_and(|text| text.contains("request: 2s")), "{objects:#}");

    control.write("manifests/team/route.yaml", &route("3s"));
    until("the repaired file is taken", async || {
        let now = status(&control).await;
        file(&now, "team/route.yaml").is_some_and(|file| file["problems"] == json!([])).then_some(())
    })
    .await;
    fs::remove_file(control.folder.path().join("manifests/team/route.yaml")).expect("removed");
    until("a removed file takes its objects along", async || (status(&control).await["objects"] == 1).then_some(()))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swapped_link_is_taken_as_in_a_mounted_config_map() {
    let control = Control::start_with(|mut options, folder| {
        let directory = folder.join("mounted");
        fs::create_dir_all(directory.join("..one")).expect("a folder");
        fs::write(directory.join("..one/service.yaml"), SERVICE).expect("written");
        symlink("..one", directory.join("..data")).expect("a link");
        symlink("..data/service.yaml", directory.join("service.yaml")).expect("a link");
        options.directory = Some(directory);
        options
    })
    .await;
    assert_eq!(status(&control).await["objects"], 1);
    control.write("mounted/..two/service.yaml", &SERVICE.replace("port: 80", "port: 81"));
    let directory = control.folder.path().join("mounted");
    symlink("..two", directory.join("..new")).expect("a link");
    fs::rename(directory.join("..new"), directory.join("..data")).expect("swapped");
    until("the swap is heard", async || (control.generation().await == 2).then_some(())).await;
    let (_, objects) = control.ask(&control.admin, "GET", "/v1/objects", &Value::Null).await;
    assert!(objects[0]["text"].as_str().is_some_and(|text| text.contains("port: 81")), "{objects:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_does_not_touch_what_stands_in_the_directory() {
    let control = watching().await;
    let push = documents(&[("pushed.yaml", &SERVICE.replace("port: 80", "port: 99"))]);
    let (status, body) = control.ask(&control.admin, "POST", "/v1/apply", &push).await;
    assert_eq!((status, &body["code"]), (StatusCode::CONFLICT, &json!("conflict")), "{body:#}");
    assert!(body["message"].as_str().is_some_and(|message| message.contains("service.yaml:1")), "{body:#}");
    // Nor does a new file take over what was pushed.
    control.apply(&[("route.yaml", &route("2s"))]).await;
    control.write("manifests/thief.yaml", &route("9s"));
    let now = until("the file is looked at", async || {
        let now = self::status(&control).await;
        file(&now, "thief.yaml").is_some_and(|file| file["problems"] != json!([])).then_some(now)
    })
    .await;
    let message = &file(&now, "thief.yaml").expect("it is shown")["problems"][0]["message"];
    assert!(message.as_str().is_some_and(|message| message.contains("was pushed, from route.yaml:1")), "{message}");
    let (_, objects) = control.ask(&control.admin, "GET", "/v1/objects?kind=HTTPRoute", &Value::Null).await;
    assert!(objects[0]["text"].as_str().is_some_and(|text| text.contains("request: 2s")), "{objects:#}");
}
