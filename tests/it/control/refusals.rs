//! What a proxy cannot do is shown by the control plane: which proxy, which resource, which field and why.

use std::net::TcpListener;

use super::load::{self, Load};
use super::plane::Plane;
use super::town::{API, Town, WEB};
use crate::support::{PATIENCE, ms};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_that_is_taken_is_shown_with_proxy_resource_field_and_reason() {
    let town = Town::found(Plane::start().await, load::application().await).await;
    let (web, _api) = town.proxies().await;
    for workload in [WEB, API] {
        town.plane.synced(workload, 1).await;
    }
    let load = Load::all(town.addr());
    load.more(20).await;

    // Somebody else has the port to which the outbound listener is to move.
    let taken = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let port = taken.local_addr().expect("an address").port();
    let old = format!("outbound: 127.0.0.1:{}", town.outbound);
    let generation = town.plane.apply(&town.manifests().replace(&old, &format!("outbound: 127.0.0.1:{port}"))).await;
    let start = std::time::Instant::now();
    let row = loop {
        let row = town.plane.proxy(WEB).await.unwrap_or_default();
        if row["state"] == "refused" {
            break row;
        }
        assert!(start.elapsed() < PATIENCE, "it is refused: {row:#}\n{}", web.stderr());
        tokio::time::sleep(ms(10)).await;
    };
    assert_eq!(row["generation"], generation, "{row:#}");
    let refusal = &row["refusals"][0];
    assert_eq!((&refusal["kind"], &refusal["resource"]), (&"Listener".into(), &"outbound".into()), "{row:#}");
    let (field, reason) = (refusal["field"].as_str().expect("a field"), refusal["reason"].as_str().expect("a reason"));
    assert!(field.contains("address"), "the field is named: {field}");
    assert!(reason.contains(&port.to_string()) && reason.contains("in use"), "the reason is told: {reason}");

    let output = town.plane.run(&["status", "--wait", &generation.to_string()]);
    assert_eq!(output.status.code(), Some(1), "whoever waits is told");
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}");
    for part in [WEB, "refused", "outbound", field, reason] {
        assert!(text.contains(part), "`{part}` in the status: {text}");
    }
    let answers = town.plane.get("/v1/answers?proxy=shop/web-1").await;
    assert!(answers.as_array().expect("a list").iter().any(|one| one["refusal"] == *refusal), "{answers:#}");

    // Nobody noticed, and what is put right is taken.
    load.more(20).await;
    let generation = town.plane.apply(&town.manifests()).await;
    town.plane.synced(WEB, generation).await;
    load.more(20).await;
    load.end().await;
}
