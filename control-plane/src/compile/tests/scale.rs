//! Ten thousand endpoints, five hundred proxies: what one change makes new.

use std::fmt::Write as _;
use std::sync::Arc;

use crate::compile::{Compiled, Compiler};
use crate::fleet::Form;
use crate::manifest::{Document, Mesh, load};

const PROXIES: usize = 500;
const SERVICES: usize = 10;
const SLICES: usize = 10;
const ENDPOINTS: usize = 100;

fn address(service: usize, slice: usize, endpoint: usize) -> String {
    format!("10.{service}.{slice}.{endpoint}")
}

fn documents() -> Vec<Document> {
    let mut services = String::new();
    let mut slices = Vec::new();
    for service in 0..SERVICES {
        let _ = write!(
            services,
            "apiVersion: v1\nkind: Service\nmetadata: {{ name: s{service}, namespace: shop }}\nspec: {{ ports: [{{ port: 80 }}] }}\n---\n"
        );
        for slice in 0..SLICES {
            let mut text = format!(
                "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{ name: s{service}-{slice}, namespace: shop, \
                 labels: {{ kubernetes.io/service-name: s{service} }} }}\naddressType: IPv4\nports: [{{ port: 8080 }}]\nendpoints:\n"
            );
            for endpoint in 0..ENDPOINTS {
                let _ = writeln!(text, "  - {{ addresses: [{}] }}", address(service, slice, endpoint));
            }
            slices.push(Document::new(&format!("slices/{service}-{slice}.yaml"), &text));
        }
    }
    let mut workloads = String::new();
    for number in 0..PROXIES {
        let ip = format!("10.200.{}.{}", number / 250, number % 250 + 1);
        let _ = write!(
            workloads,
            "apiVersion: outrigger.dev/v1\nkind: Workload\nmetadata: {{ name: w{number}, namespace: shop }}\n\
             spec: {{ serviceAccount: w, address: {ip}, ports: [{{ port: 8080, inbound: 15006 }}] }}\n---\n"
        );
    }
    slices.push(Document::new("services.yaml", &services));
    slices.push(Document::new("workloads.yaml", &workloads));
    slices
}

fn loaded(documents: &[Document], previous: Option<&Mesh>) -> Arc<Mesh> {
    let outcome = load(documents, previous);
    assert!(outcome.problems.is_empty());
    outcome.mesh
}

/// Parts of a generation by their addresses, and how many of them another generation does not have.
fn new_parts(before: &Compiled, after: &Compiled) -> (usize, usize, usize, usize) {
    fn count<'a, T: 'a>(
        (before, after): (&'a Compiled, &'a Compiled),
        parts: impl Fn(&'a crate::compile::ProxyConfig) -> &'a [Arc<T>],
    ) -> usize {
        let all = |compiled: &'a Compiled| -> std::collections::HashSet<*const T> {
            compiled.workloads().values().flat_map(|proxy| parts(proxy)).map(Arc::as_ptr).collect()
        };
        all(after).difference(&all(before)).count()
    }
    let both = (before, after);
    (
        count(both, |proxy| &proxy.listeners),
        count(both, |proxy| &proxy.routes),
        count(both, |proxy| &proxy.clusters),
        count(both, |proxy| &proxy.endpoints),
    )
}

#[test]
fn one_endpoint_of_ten_thousand_makes_one_new_part_for_five_hundred_proxies() {
    let mut documents = documents();
    let before_mesh = loaded(&documents, None);
    let mut compiler = Compiler::new();
    let before = compiler.compile(&before_mesh);
    assert_eq!(before.workloads().len(), PROXIES);
    let endpoints: usize = {
        let first = before.workloads().values().next().expect("a proxy");
        first.endpoints.iter().map(|part| part.value.endpoints.len()).sum()
    };
    // Those of all Services, and the proxy's own application.
    assert_eq!(endpoints, SERVICES * SLICES * ENDPOINTS + 1);

    let changed = &mut documents[42];
    let text = changed.text.replacen(&address(4, 2, 7), "10.99.99.99", 1);
    assert_ne!(text, *changed.text);
    changed.text = text.into();
    let after_mesh = loaded(&documents, Some(&before_mesh));
    let after = compiler.compile(&after_mesh);
    assert_eq!(new_parts(&before, &after), (0, 0, 0, 1));

    // What is sent is one resource: that of the Service's endpoints. The first use encodes, the others share.
    let some = |compiled: &Compiled| compiled.workloads().values().next().expect("a proxy").resources(Form::Outrigger);
    let (old, new) = (some(&before), some(&after));
    let fresh: Vec<_> = new.iter().filter(|new| !old.iter().any(|old| Arc::ptr_eq(old, new))).collect();
    let [fresh] = &fresh[..] else { panic!("one resource") };
    assert_eq!((fresh.kind, &*fresh.name), (outrigger_xds::Kind::Endpoints, "shop/s4:80"));
    let last = after.workloads().values().next_back().expect("a proxy").resources(Form::Outrigger);
    assert!(last.iter().any(|other| Arc::ptr_eq(other, fresh)), "shared by every proxy");

    // And nothing at all where nothing changed.
    let again = compiler.compile(&loaded(&documents, Some(&after_mesh)));
    assert_eq!(new_parts(&after, &again), (0, 0, 0, 0));
    for (name, proxy) in again.workloads() {
        assert!(Arc::ptr_eq(proxy, after.workload(name).expect("the same workloads")));
    }
}
