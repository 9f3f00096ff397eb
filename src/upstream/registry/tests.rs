//! What is found again, and what is forgotten.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{LINGER, Registry};
use crate::telemetry::Metrics;
use crate::upstream::Cluster;
use crate::upstream::dns::{Answer, BoxFuture, Resolve};

/// `a.test` is 127.0.0.1 and 127.0.0.2, `b.test` is 127.0.0.2 and 127.0.0.3, others do not exist.
struct Fixed;

impl Resolve for Fixed {
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, Result<Answer, String>> {
        let last: &[u8] = match host {
            "a.test" => &[1, 2],
            "b.test" => &[2, 3],
            _ => return Box::pin(async { Err("no such name".to_owned()) }),
        };
        let addresses = last.iter().map(|last| [127, 0, 0, *last].into()).collect();
        Box::pin(async move { Ok(Answer { addresses, ttl: Duration::from_secs(60) }) })
    }
}

fn registry() -> Arc<Registry> {
    Registry::new(1, Metrics::new(), Box::new(Fixed))
}

/// Compiles the clusters of a configuration whose one cluster has these endpoints.
fn apply(registry: &Arc<Registry>, endpoints: &str, now: Instant) -> Vec<Arc<Cluster>> {
    let text = format!(
        "listeners: [{{ name: l, bind: 127.0.0.1:0, routes: r }}]\n\
         routes: {{ r: [{{ rules: [{{ backendRefs: [{{ cluster: c }}] }}] }}] }}\n\
         clusters: {{ c: {{ endpoints: [{endpoints}] }} }}\n"
    );
    let loaded = outrigger_config::load("test.yaml", &text).expect("valid");
    let clusters: Vec<_> = loaded.config.clusters.values().map(|cluster| registry.cluster(cluster, None)).collect();
    registry.activate(&loaded.config, &clusters, now);
    clusters
}

fn addresses(cluster: &Cluster) -> Vec<SocketAddr> {
    cluster.endpoints().members().iter().map(|member| member.state.address).collect()
}

#[test]
fn state_and_pools_are_found_again_by_their_key() {
    let registry = registry();
    let now = Instant::now();
    let first = apply(&registry, "127.0.0.1:1, 127.0.0.1:2", now);
    let second = apply(&registry, "127.0.0.1:2, 127.0.0.1:3", now);
    assert!(Arc::ptr_eq(first[0].state(), second[0].state()));
    let (old, new) = (first[0].endpoints(), second[0].endpoints());
    assert!(Arc::ptr_eq(&old.members()[1].state, &new.members()[0].state));
    assert!(Arc::ptr_eq(&old.members()[1].pool, &new.members()[0].pool));
    assert!(!Arc::ptr_eq(&old.members()[0].state, &new.members()[1].state));
}

fn endpoint(address: &str) -> outrigger_config::model::Endpoint {
    let target = outrigger_config::model::Target::Address(address.parse().expect("an address"));
    outrigger_config::model::Endpoint::at(target)
}

#[test]
fn assigned_endpoints_replace_those_of_the_configuration_and_keep_what_is_known_of_those_that_stay() {
    let registry = registry();
    let now = Instant::now();
    let first = apply(&registry, "127.0.0.1:1, 127.0.0.1:2", now);
    let before = first[0].endpoints();
    assert!(registry.assign("c", vec![endpoint("127.0.0.1:2"), endpoint("127.0.0.1:3")]));
    assert!(!registry.assign("other", Vec::new()), "it is not there");
    let after = first[0].endpoints();
    assert!(Arc::ptr_eq(&before.members()[1].state, &after.members()[0].state));
    assert!(Arc::ptr_eq(&before.members()[1].pool, &after.members()[0].pool));
    let ports = |cluster: &Cluster| addresses(cluster).iter().map(SocketAddr::port).collect::<Vec<_>>();
    assert_eq!(ports(&first[0]), [2, 3]);

    // The same configuration once more, as with a new certificate.
    let again = apply(&registry, "127.0.0.1:1, 127.0.0.1:2", now);
    assert_eq!((ports(&again[0]), registry.assigned("c").map(|of| of.len())), (vec![2, 3], Some(2)));
    registry.unassign();
    assert_eq!(ports(&again[0]), [2, 3], "what is in use stays until it is replaced");
    let next = apply(&registry, "127.0.0.1:4", now);
    assert_eq!((ports(&next[0]), registry.assigned("c")), (vec![4], None));
}

#[test]
fn one_changed_endpoint_among_ten_thousand_is_a_matter_of_milliseconds() {
    let registry = registry();
    let clusters = apply(&registry, "127.0.0.1:1", Instant::now());
    let all = |changed: u16| {
        let address = |n: u16| format!("127.{}.{}.1:{}", n / 250, n % 250, if n == 77 { changed } else { 80 });
        (0..10_000).map(|n| endpoint(&address(n))).collect::<Vec<_>>()
    };
    assert!(registry.assign("c", all(1)));
    let before = clusters[0].endpoints();
    let (next, began) = (all(2), Instant::now());
    assert!(registry.assign("c", next));
    let took = began.elapsed();
    let after = clusters[0].endpoints();
    let same = |at: usize| Arc::ptr_eq(&before.members()[at].pool, &after.members()[at].pool);
    assert_eq!((0..10_000).filter(|at| !same(*at)).collect::<Vec<_>>(), [77]);
    // With optimisation it takes a few milliseconds; this is without, and beside other tests.
    assert!(took < Duration::from_millis(500), "{took:?}");
}

#[test]
fn what_nobody_uses_stays_a_minute_however_old_it_is() {
    let registry = registry();
    let start = Instant::now();
    drop(apply(&registry, "127.0.0.1:1", start));
    // An hour later the endpoint is gone from the configuration.
    let later = start + Duration::from_secs(3600);
    let kept = apply(&registry, "127.0.0.1:2", later);
    assert_eq!(registry.endpoints.lock().len(), 2);
    registry.sweep(later + LINGER - Duration::from_secs(1));
    assert_eq!(registry.endpoints.lock().len(), 2, "it may come back with its history");
    registry.sweep(later + LINGER);
    assert_eq!(registry.endpoints.lock().len(), 1);
    registry.sweep(later + LINGER * 10);
    assert_eq!((registry.endpoints.lock().len(), registry.pools.lock().len()), (1, 1), "what is used stays");
    drop(kept);
}

#[tokio::test]
async fn two_names_for_one_address_are_one_endpoint() {
    let registry = registry();
    let text = "a.test:80, b.test:80, gone.test:80, 127.0.0.3:80";
    let clusters = apply(&registry, text, Instant::now());
    assert_eq!(addresses(&clusters[0]), ["127.0.0.3:80".parse().expect("an address")]);
    let known = async {
        while clusters[0].endpoints().members().len() < 3 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        () = registry.run() => unreachable!("it runs for ever"),
        done = tokio::time::timeout(Duration::from_secs(5), known) => done.expect("the names are found"),
    }
    let mut found = addresses(&clusters[0]);
    found.sort_unstable();
    assert_eq!(found, [1, 2, 3].map(|last| SocketAddr::from(([127, 0, 0, last], 80))));
    let status = &registry.status(Instant::now())[0];
    assert_eq!(status.resolution_errors.len(), 1, "{:?}", status.resolution_errors);
}
