//! A mesh for some weeks: workloads that renew at half-life, proxies that take up roots late, a root that is replaced.

use std::collections::BTreeMap;

use super::*;

struct Proxy {
    chain: Vec<CertificateDer<'static>>,
    not_after: SystemTime,
    renew_at: SystemTime,
    bundle: Arc<Bundle>,
    /// How many ticks it takes this one to take up roots.
    slowness: usize,
    waiting: usize,
}

struct Mesh(BTreeMap<WorkloadKey, Proxy>);

impl Confirmations for Mesh {
    fn unconfirmed(&self, bundle: &str) -> Vec<WorkloadKey> {
        self.0.iter().filter(|(_, proxy)| proxy.bundle.version() != bundle).map(|(key, _)| key.clone()).collect()
    }
}

#[test]
fn for_six_weeks_every_certificate_is_valid_and_believed_by_everybody() {
    const TICK: Duration = Duration::from_secs(600);
    let plane = Plane::with(|settings| settings.root_lifetime = 30 * DAY);
    let authority = &plane.authority;
    let renewed = |proxy: Option<&Proxy>, slowness: usize| {
        let signed = issue(authority);
        Proxy {
            chain: signed.chain,
            not_after: signed.not_after,
            renew_at: plane.clock.now() + signed.renew_after,
            bundle: proxy.map_or_else(|| authority.bundle(), |proxy| Arc::clone(&proxy.bundle)),
            slowness,
            waiting: 0,
        }
    };
    let mut mesh = Mesh((0..12).map(|n| (workload(&format!("w-{n}")), renewed(None, n))).collect());
    let (mut renewals, mut steps) = (0, Vec::new());
    let end = start() + 42 * DAY;
    while plane.clock.now() < end {
        plane.clock.advance(TICK);
        let now = plane.clock.now();
        if let Some(step) = authority.advance(&mesh).expect("no failure") {
            steps.push(step);
        }
        let mut fresh = Vec::new();
        for (key, proxy) in &mut mesh.0 {
            assert!(now < proxy.not_after, "{key} has run out");
            if proxy.renew_at <= now {
                let left = proxy.not_after.duration_since(now).expect("valid");
                assert!(left > 10 * HOUR, "renewed {left:?} before the end");
                *proxy = renewed(Some(proxy), proxy.slowness);
                fresh.push(proxy.chain.clone());
                renewals += 1;
            }
            if *proxy.bundle != *authority.bundle() {
                proxy.waiting += 1;
                if proxy.waiting > proxy.slowness {
                    (proxy.bundle, proxy.waiting) = (authority.bundle(), 0);
                    // Whoever has new roots must believe what everybody else has.
                    fresh.push(proxy.chain.clone());
                }
            }
        }
        let roots_changed = !fresh.is_empty();
        for proxy in mesh.0.values().filter(|_| roots_changed) {
            for chain in &fresh {
                assert_eq!(believes(&proxy.bundle, chain, now), Ok(()));
            }
        }
    }
    // A root of 30 days is replaced after 20, and the next one after another 20.
    let one = [Step::Introduce, Step::Sign, Step::Retire];
    assert_eq!(steps, [one, one].concat(), "{steps:?}");
    assert!((12 * 42 * 3 / 2..12 * 42 * 5 / 2).contains(&renewals), "{renewals} renewals");
    for proxy in mesh.0.values() {
        for other in mesh.0.values() {
            assert_eq!(believes(&proxy.bundle, &other.chain, plane.clock.now()), Ok(()));
        }
    }
}
