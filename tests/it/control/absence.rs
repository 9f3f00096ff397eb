//! The control plane goes away: nothing changes on the data path, and what is too old is not used.

use super::load::{self, Load};
use super::plane::Plane;
use super::town::{API, Town, WEB};
use crate::support::proxy::Until;
use crate::support::{PATIENCE, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_control_planes_absence_changes_nothing_and_what_is_too_old_is_not_used() {
    let mut town = Town::found(Plane::start().await, load::application().await).await;
    let (web, api) = town.proxies().await;
    for workload in [WEB, API] {
        town.plane.synced(workload, 1).await;
    }
    let load = Load::all(town.addr());
    load.more(50).await;
    let generation = web.metric("outrigger_config_generation", &[]).await;
    town.plane.kill();
    for (name, proxy) in [("web", &web), ("api", &api)] {
        let start = std::time::Instant::now();
        while proxy.metric("outrigger_control_connected", &[]).await != 0.0 {
            assert!(start.elapsed() < PATIENCE, "{name} notices");
            tokio::time::sleep(crate::support::ms(5)).await;
        }
        assert_eq!(proxy.admin("/ready").await.0, 200, "{name} serves");
    }
    load.more(300).await;
    assert_eq!(web.metric("outrigger_config_generation", &[]).await, generation);
    let (requests, events) = load.end().await;
    assert!(requests > 300 && events > 10, "{requests} requests, {events} events");

    // What is on disk serves a start while it is younger than its limit …
    drop(web);
    let web = town.proxy(WEB, Until::Ready).await;
    let load = Load::requests(town.addr());
    load.more(20).await;
    load.end().await;
    assert!(web.metric("outrigger_config_age_seconds", &[]).await >= 0.0);
    drop(web);
    // … and not when it is older.
    let web = town.proxy_with(WEB, "maxAge: 1ms", Until::Up).await;
    web.logged("too old to be used").await;
    assert_eq!(web.admin("/ready").await.0, 503);
    assert!(tokio::net::TcpStream::connect(town.addr()).await.is_err(), "nothing is served");

    // Once the control plane is back, so is the proxy.
    town.plane.again().await;
    town.plane.synced(WEB, 1).await;
    assert_eq!(web.admin("/ready").await.0, 200);
    town.plane.synced(API, 1).await;
    let load = Load::requests(town.addr());
    load.more(20).await;
    load.end().await;
    eventually(PATIENCE, "the state is kept", || town.state(WEB).exists()).await;
}
