//! Resources from any control plane: nothing that is sent makes the decoder panic, and what it takes can be encoded and
//! decoded again, to the same.

use outrigger_config::model::Cluster;
use outrigger_xds::decode::{DecodedCluster, What};
use outrigger_xds::encode::{self, Form, Policies};
use outrigger_xds::{Context, Kind, decode};
use std::collections::BTreeMap;

/// The first byte chooses the kind, the rest is the message.
pub fn check(input: &[u8]) {
    let Some((&first, body)) = input.split_first() else { return };
    let kind = Kind::ALL[usize::from(first) % Kind::ALL.len()];
    let context = Context { folder: "/state".into() };
    let decoded = match decode(kind, "name", body, &context) {
        Ok(decoded) => decoded,
        Err(refusals) => {
            assert!(!refusals.is_empty(), "refused for no reason");
            return;
        }
    };
    for file in &decoded.files {
        assert!(file.path.starts_with("/state"), "{} lies elsewhere", file.path.display());
    }
    let again = |name: &str, resource: &outrigger_xds::Resource| {
        let again = decode(resource.kind, name, &resource.body, &context);
        again.unwrap_or_else(|refusals| panic!("what was taken is refused when it is said again: {refusals:?}")).what
    };
    match &decoded.what {
        What::Routes(table) => {
            assert_eq!(again(&table.name, &encode::routes(table, Form::Outrigger)), decoded.what);
        }
        What::Endpoints(list) => {
            assert_eq!(again("name", &encode::endpoints(&"name".into(), list, Form::Outrigger)), decoded.what);
        }
        What::Cluster(one) => {
            let DecodedCluster { cluster, .. } = &**one;
            let What::Cluster(read) = again(&cluster.name, &encode::cluster(cluster, Form::Outrigger)) else {
                panic!("another kind")
            };
            // Endpoints that are addresses become a resource of their own.
            let bare = |cluster: &Cluster| Cluster { endpoints: Vec::new(), ..cluster.clone() };
            assert_eq!(bare(&read.cluster), bare(cluster));
        }
        What::Listener(one) => {
            let named = |policy: &_| {
                BTreeMap::from([(one.listener.authorization.clone().unwrap_or_default(), Clone::clone(policy))])
            };
            let policies = one.authorization.as_ref().map(named).unwrap_or_default();
            let providers = one.jwt_providers.iter().map(|one| (one.name.clone(), one.clone())).collect();
            let authorizers = one.external_authorizer.iter().map(|one| (one.name.clone(), one.clone())).collect();
            let services = one.rate_limit_services.iter().cloned().collect();
            let policies = Policies {
                authorization: &policies,
                jwt_providers: &providers,
                external_authorizers: &authorizers,
                rate_limit_services: &services,
            };
            let What::Listener(read) =
                again(&one.listener.name, &encode::listener(&one.listener, &policies, Form::Outrigger))
            else {
                panic!("another kind")
            };
            assert_eq!((&read.listener, &read.authorization), (&one.listener, &one.authorization));
            assert_eq!(
                (&read.jwt_providers, &read.external_authorizer),
                (&one.jwt_providers, &one.external_authorizer)
            );
        }
        What::Secret => {}
    }
}
