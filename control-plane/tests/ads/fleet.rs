//! A small fleet is kept in sync. The large one is a benchmark: `cargo bench -p outrigger-control --bench fleet`.

use std::time::Duration;

use crate::mesh::{Mesh, Shape, peer_at, workload};
use crate::proxy::{Proxy, versions};
use crate::support::{Control, PATIENCE};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_proxy_of_a_fleet_ends_with_exactly_what_is_there_for_it() {
    const PROXIES: usize = 60;
    let mut mesh = Mesh::new(Shape { proxies: PROXIES, services: 12, uses: 6, endpoints: 3 });
    let control = Control::start_for(std::sync::Arc::clone(&mesh.source), peer_at).await;
    let mut fleet = Vec::new();
    for number in 0..PROXIES {
        fleet.push(Proxy::connect(number, control.address).await.unwrap());
    }
    for round in 0..6 {
        match round % 3 {
            0 => assert_eq!(mesh.change_endpoints(), PROXIES / 2),
            1 => mesh.change_routes(),
            _ => mesh.change_everything(),
        }
        let in_sync = async {
            let is_synced = |(number, proxy): (usize, &Proxy)| {
                assert!(proxy.is_connected(), "proxy {number}");
                proxy.versions() == versions(&mesh.source.get(&workload(number)).unwrap())
            };
            while !fleet.iter().enumerate().all(is_synced) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, in_sync).await.expect("in sync in time");
        let outcome = control.fleet.await_synced(mesh.generation(), PATIENCE).await;
        assert_eq!((outcome.synced, outcome.is_complete()), (PROXIES, true), "{outcome:?}");
    }
    assert!(fleet.iter().all(|proxy| !proxy.take_ages().is_empty()));
    assert_eq!(control.fleet.connected(), PROXIES);
    assert!(control.records.denials.lock().unwrap().is_empty());
}
