//! Make before break: what waits for what, and for how long.

use super::*;

#[test]
fn routes_wait_for_the_clusters_that_they_may_need() {
    for protocol in [Delta, World] {
        let mut case = synced(protocol, Form::Envoy);
        case.set(&[(Cds, "a", 1), (Cds, "b", 1), (Eds, "a", 1), (Eds, "b", 1), (Lds, "in", 1), (Rds, "r", 2)]);
        let clusters = case.next().unwrap();
        assert_eq!(clusters.kind, Cds);
        case.is_silent();
        case.ack(&clusters);
        // The endpoints of the new cluster are still to be asked for.
        case.is_silent();
        case.ask(Eds, &["a", "b"][usize::from(protocol == Delta)..]);
        let endpoints = case.sends("Endpoints b");
        case.is_silent();
        case.ack(&endpoints);
        case.sends_and_is_taken("Route r");
        case.is_silent();
        assert_eq!(case.state(), ProxyState::Synced);
    }
}

#[test]
fn the_wait_for_clusters_and_for_endpoints_has_an_end() {
    let mut case = synced(Delta, Form::Envoy);
    case.set(&[(Cds, "a", 1), (Cds, "b", 1), (Eds, "a", 1), (Eds, "b", 1), (Lds, "in", 1), (Rds, "r", 2)]);
    let clusters = case.sends("Cluster b");
    case.is_silent();
    case.wait(ORDER_WAIT - Duration::from_millis(1));
    case.is_silent();
    assert_eq!(case.session.wakes_at(case.now), Some(case.now + Duration::from_millis(1)));
    case.wait(Duration::from_millis(1));
    case.sends_and_is_taken("Route r");
    case.ack(&clusters);

    let mut case = synced(Delta, Form::Envoy);
    case.set(&[(Cds, "a", 1), (Cds, "b", 1), (Eds, "a", 1), (Eds, "b", 1), (Lds, "in", 1), (Rds, "r", 2)]);
    case.sends_and_is_taken("Cluster b");
    case.is_silent();
    case.wait(ENDPOINTS_WAIT);
    case.sends_and_is_taken("Route r");
}

#[test]
fn endpoints_do_not_wait_for_other_clusters() {
    let mut case = synced(Delta, Form::Outrigger);
    case.set(&[(Cds, "a", 1), (Cds, "b", 1), (Eds, "a", 1), (Lds, "in", 1), (Rds, "r", 1)]);
    let _unanswered = case.sends("Cluster b");
    case.set(&[(Cds, "a", 1), (Cds, "b", 1), (Eds, "a", 2), (Lds, "in", 1), (Rds, "r", 1)]);
    case.sends_and_is_taken("Endpoints a");
}

#[test]
fn clusters_are_removed_when_nothing_needs_them() {
    let mut case = synced(Delta, Form::Outrigger);
    case.set(&[(Cds, "b", 1), (Eds, "b", 1), (Lds, "in", 2), (Rds, "r", 2)]);
    case.sends_and_is_taken("Cluster b");
    case.ask(Eds, &["b"]);
    case.sends_and_is_taken("Endpoints b");
    let listeners = case.sends("Listener in");
    let routes = case.sends("Route r");
    case.ack(&listeners);
    case.is_silent();
    case.ack(&routes);
    let removal = case.sends("Cluster -a");
    case.is_silent();
    case.ack(&removal);
    case.sends_and_is_taken("Endpoints -a");
    case.is_silent();
    assert_eq!(case.state(), ProxyState::Synced);
}

#[test]
fn the_world_keeps_an_old_cluster_until_nothing_needs_it() {
    let mut case = synced(World, Form::Envoy);
    case.set(&[(Cds, "b", 1), (Eds, "b", 1), (Lds, "in", 1), (Rds, "r", 2)]);
    case.sends_and_is_taken("Cluster a b");
    case.ask(Eds, &["a", "b"]);
    case.sends_and_is_taken("Endpoints b");
    let routes = case.sends("Route r");
    case.is_silent();
    case.ack(&routes);
    case.sends_and_is_taken("Cluster b");
    case.is_silent();
    assert_eq!(case.state(), ProxyState::Synced);
}

#[test]
fn a_refused_route_keeps_what_the_old_one_needs() {
    let mut case = synced(Delta, Form::Outrigger);
    case.set(&[(Lds, "in", 1), (Rds, "r", 2)]);
    let routes = case.sends("Route r");
    case.nack(&routes, &["r"]);
    case.wait(Duration::from_secs(3600));
    case.is_silent();
    assert_eq!(case.state(), ProxyState::Refused);
    case.set(&[(Lds, "in", 1), (Rds, "r", 3)]);
    case.sends_and_is_taken("Route r");
    case.sends_and_is_taken("Cluster -a");
    case.sends_and_is_taken("Endpoints -a");
}

#[test]
fn removals_are_not_held_back_without_limit() {
    let clusters: Vec<String> = (0..=MAX_HELD_REMOVALS).map(|n| n.to_string()).collect();
    let mut all: Vec<_> = clusters.iter().map(|name| (Cds, name.as_str(), 1)).collect();
    all.push((Rds, "r", 1));
    let mut case = Case::new(Delta, Form::Outrigger, &all);
    case.ask(Rds, &["r"]);
    let routes = case.next().unwrap();
    case.nack(&routes, &["r"]);
    case.ask(Cds, &[]);
    let push = case.next().unwrap();
    // A cluster that was taken gives the route another chance, which it does not use.
    case.ack(&push);
    let routes = case.sends("Route r");
    case.nack(&routes, &["r"]);
    case.set(&[(Cds, "0", 1), (Rds, "r", 1)]);
    case.is_silent();
    case.set(&[(Rds, "r", 1)]);
    let push = case.next().unwrap();
    assert_eq!((push.kind, push.removed.len()), (Cds, MAX_HELD_REMOVALS + 1));
}

#[test]
fn envoy_is_sent_the_endpoints_of_a_changed_cluster_again() {
    for protocol in [Delta, World] {
        for (form, again) in [(Form::Envoy, true), (Form::Outrigger, false)] {
            let mut case = synced(protocol, form);
            case.set(&[(Cds, "a", 2), (Eds, "a", 1), (Lds, "in", 1), (Rds, "r", 1)]);
            case.sends_and_is_taken("Cluster a");
            if again {
                case.sends_and_is_taken("Endpoints a");
            }
            case.is_silent();
        }
    }
}

#[test]
fn endpoints_are_found_by_the_service_name_of_their_cluster() {
    let cluster = |timeout: u64| {
        let config = EdsClusterConfig { service_name: "service".to_owned(), ..EdsClusterConfig::default() };
        let message = Cluster {
            name: "a".to_owned(),
            eds_cluster_config: Some(config),
            alt_stat_name: timeout.to_string(),
            ..Cluster::default()
        };
        Arc::new(Resource::new(Cds, "a".into(), &message))
    };
    let endpoints = resource((Eds, "service", 1));
    let mut case = Case::new(Delta, Form::Envoy, &[]);
    case.set_resources(vec![cluster(1), Arc::clone(&endpoints)]);
    case.ask(Cds, &[]);
    case.sends_and_is_taken("Cluster a");
    case.ask(Eds, &["service"]);
    case.sends_and_is_taken("Endpoints service");
    case.set_resources(vec![cluster(2), endpoints]);
    case.sends_and_is_taken("Cluster a");
    case.sends_and_is_taken("Endpoints service");
}
