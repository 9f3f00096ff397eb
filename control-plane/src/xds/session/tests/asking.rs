//! What is asked for is sent, and nothing twice.

use super::*;

#[test]
fn a_proxy_is_brought_up_in_order() {
    for protocol in [Delta, World] {
        for form in [Form::Outrigger, Form::Envoy] {
            synced(protocol, form);
        }
    }
}

#[test]
fn everything_asked_for_at_once_comes_in_order() {
    let mut case = Case::new(Delta, Form::Outrigger, &MESH);
    for kind in [Rds, Lds, Eds, Cds] {
        case.ask(kind, &["*"]);
    }
    let clusters = case.sends("Cluster a");
    let endpoints = case.sends("Endpoints a");
    case.is_silent();
    case.ack(&clusters);
    // They are on their way to clusters that are new.
    case.is_silent();
    case.ack(&endpoints);
    let listeners = case.sends("Listener in");
    case.sends_and_is_taken("Route r");
    assert_eq!(case.state(), ProxyState::Sent);
    case.ack(&listeners);
    assert_eq!(case.state(), ProxyState::Synced);
}

#[test]
fn a_grpc_client_asks_from_the_top() {
    for protocol in [Delta, World] {
        let mut case = Case::new(protocol, Form::Grpc, &MESH);
        case.ask(Lds, &["in"]);
        case.sends_and_is_taken("Listener in");
        case.ask(Rds, &["r"]);
        case.sends_and_is_taken("Route r");
        case.ask(Cds, &["a"]);
        case.sends_and_is_taken("Cluster a");
        case.ask(Eds, &["a"]);
        case.sends_and_is_taken("Endpoints a");
        assert_eq!(case.state(), ProxyState::Synced);
    }
}

#[test]
fn delta_sends_only_what_changed() {
    let mut case = Case::new(Delta, Form::Outrigger, &[(Cds, "a", 1), (Cds, "b", 1)]);
    case.ask(Cds, &[]);
    case.sends_and_is_taken("Cluster a b");
    case.set(&[(Cds, "a", 1), (Cds, "b", 2)]);
    case.sends_and_is_taken("Cluster b");
    case.set(&[(Cds, "b", 2)]);
    case.sends_and_is_taken("Cluster -a");
    case.is_silent();
}

#[test]
fn the_world_sends_all_clusters_and_listeners_and_only_the_changed_of_the_others() {
    for kind in [Cds, Lds] {
        let mut case = Case::new(World, Form::Grpc, &[(kind, "a", 1), (kind, "b", 1)]);
        case.ask(kind, &[]);
        case.sends_and_is_taken(&format!("{kind:?} a b"));
        case.set(&[(kind, "a", 1), (kind, "b", 2)]);
        case.sends_and_is_taken(&format!("{kind:?} a b"));
        case.set(&[(kind, "b", 2)]);
        case.sends_and_is_taken(&format!("{kind:?} b"));
        case.set(&[]);
        case.sends_and_is_taken(&format!("{kind:?}"));
        case.is_silent();
    }
    for kind in [Eds, Rds, Sds] {
        let mut case = Case::new(World, Form::Grpc, &[(kind, "a", 1), (kind, "b", 1)]);
        case.ask(kind, &["a", "b", "missing"]);
        case.sends_and_is_taken(&format!("{kind:?} a b"));
        case.set(&[(kind, "a", 1), (kind, "b", 2)]);
        case.sends_and_is_taken(&format!("{kind:?} b"));
        case.set(&[(kind, "b", 2)]);
        case.is_silent();
        case.set(&[(kind, "a", 1), (kind, "b", 2)]);
        case.sends_and_is_taken(&format!("{kind:?} a"));
    }
}

#[test]
fn an_empty_mesh_is_said_to_be_empty() {
    for protocol in [Delta, World] {
        let mut case = Case::new(protocol, Form::Envoy, &[]);
        case.ask(Cds, &[]);
        case.sends_and_is_taken("Cluster");
        case.ask(Lds, &[]);
        case.sends_and_is_taken("Listener");
        case.is_silent();
        assert_eq!(case.state(), ProxyState::Synced);
    }
}

#[test]
fn naming_nothing_means_everything_only_until_something_was_named() {
    // The four steps of the protocol's own example.
    let mut case = Case::new(World, Form::Envoy, &[(Cds, "a", 1), (Cds, "b", 1)]);
    case.ask(Cds, &[]);
    case.sends_and_is_taken("Cluster a b");
    case.ask(Cds, &["*", "a"]);
    let push = case.sends("Cluster a b");
    let names = Names::World { names: vec!["*".to_owned(), "a".to_owned()] };
    case.request(Request { kind: Cds, nonce: push.nonce.to_string(), nack: None, names });
    case.is_silent();
    case.ask(Cds, &["a"]);
    case.sends_and_is_taken("Cluster a");
    case.ask(Cds, &[]);
    case.set(&[(Cds, "a", 2), (Cds, "b", 2)]);
    case.is_silent();

    let mut case = Case::new(Delta, Form::Envoy, &[(Cds, "a", 1), (Cds, "b", 1)]);
    case.ask(Cds, &[]);
    case.sends_and_is_taken("Cluster a b");
    case.ask(Cds, &["a"]);
    case.sends_and_is_taken("Cluster a");
    case.unask(Cds, &["*"]);
    case.set(&[(Cds, "a", 2), (Cds, "b", 2)]);
    case.sends_and_is_taken("Cluster a");
    case.unask(Cds, &["a"]);
    case.ask(Cds, &[]);
    case.set(&[(Cds, "a", 3), (Cds, "b", 3)]);
    case.is_silent();
}

#[test]
fn endpoints_and_routes_are_never_all_by_saying_nothing() {
    for protocol in [Delta, World] {
        let mut case = Case::new(protocol, Form::Envoy, &[(Eds, "a", 1)]);
        case.ask(Eds, &[]);
        case.is_silent();
    }
}

#[test]
fn what_is_asked_for_again_is_sent_again() {
    let mut case = Case::new(Delta, Form::Grpc, &[(Eds, "a", 1), (Eds, "b", 1)]);
    case.ask(Eds, &["a", "b"]);
    case.sends_and_is_taken("Endpoints a b");
    case.ask(Eds, &["a", "a"]);
    case.sends_and_is_taken("Endpoints a");
    case.is_silent();

    let mut case = Case::new(World, Form::Grpc, &[(Eds, "a", 1), (Eds, "b", 1)]);
    case.ask(Eds, &["a", "b", "a"]);
    case.sends_and_is_taken("Endpoints a b");
    case.ask(Eds, &["b"]);
    case.is_silent();
    case.ask(Eds, &["a", "b"]);
    case.sends_and_is_taken("Endpoints a");
    // The same names again are no change.
    case.ask(Eds, &["b", "a"]);
    case.is_silent();
}

#[test]
fn delta_says_what_does_not_exist_and_sends_it_when_it_does() {
    let mut case = Case::new(Delta, Form::Grpc, &[(Rds, "r", 1)]);
    case.ask(Rds, &["r", "missing"]);
    case.sends_and_is_taken("Route r -missing");
    case.is_silent();
    case.set(&[(Rds, "r", 1), (Rds, "missing", 1)]);
    case.sends_and_is_taken("Route missing");
    case.set(&[(Rds, "r", 1)]);
    case.sends_and_is_taken("Route -missing");
    case.is_silent();
}

#[test]
fn a_name_given_up_beside_the_wildcard_is_answered() {
    let mut case = Case::new(Delta, Form::Envoy, &[(Cds, "a", 1)]);
    case.ask(Cds, &["*", "a", "gone"]);
    case.sends_and_is_taken("Cluster a -gone");
    case.unask(Cds, &["a"]);
    case.sends_and_is_taken("Cluster a");
    case.unask(Cds, &["gone"]);
    case.sends_and_is_taken("Cluster -gone");
    // Names that were never asked for are no reason to say anything.
    case.unask(Cds, &["a", "other"]);
    case.is_silent();
}

#[test]
fn a_client_that_returns_gets_what_differs() {
    let mut case = Case::new(Delta, Form::Outrigger, &[(Cds, "a", 1), (Cds, "b", 2), (Cds, "d", 1)]);
    let version = |content| resource((Cds, "x", content)).version.to_string();
    let known = [("a", 1), ("b", 1), ("c", 1)].map(|(name, content)| (name.to_owned(), version(content)));
    let names = Names::Delta { subscribe: Vec::new(), unsubscribe: Vec::new(), known: known.into() };
    case.request(Request { kind: Cds, nonce: String::new(), nack: None, names });
    case.sends_and_is_taken("Cluster b d");
    case.sends_and_is_taken("Cluster -c");
    case.is_silent();
}

#[test]
fn a_client_that_returns_with_everything_gets_nothing_and_is_synced() {
    let mut case = Case::new(Delta, Form::Outrigger, &MESH);
    for (kind, name, content) in MESH {
        let known = HashMap::from([(name.to_owned(), resource((kind, name, content)).version.to_string())]);
        let names = Names::Delta { subscribe: vec!["*".to_owned()], unsubscribe: Vec::new(), known };
        case.request(Request { kind, nonce: String::new(), nack: None, names });
    }
    case.is_silent();
    assert_eq!(case.session.progress(case.now), (ProxyState::Synced, 1, Some(1)));
}

#[test]
fn a_named_resource_that_the_client_still_has_is_not_sent_when_it_returns() {
    let mut case = Case::new(Delta, Form::Envoy, &[(Eds, "a", 1), (Eds, "b", 1)]);
    let known = HashMap::from([("a".to_owned(), resource((Eds, "a", 1)).version.to_string())]);
    let names = Names::Delta { subscribe: vec!["a".to_owned(), "b".to_owned()], unsubscribe: Vec::new(), known };
    case.request(Request { kind: Eds, nonce: String::new(), nack: None, names });
    case.sends_and_is_taken("Endpoints b");
    case.is_silent();
}

#[test]
fn a_generation_that_changes_nothing_is_taken_at_once() {
    let mut case = synced(Delta, Form::Outrigger);
    case.set(&MESH);
    case.is_silent();
    assert_eq!(case.session.progress(case.now), (ProxyState::Synced, 2, Some(2)));
}

#[test]
fn names_are_limited_in_number_and_length() {
    let now = Now { instant: Instant::now(), wall: SystemTime::UNIX_EPOCH };
    for protocol in [Delta, World] {
        let ask = |names: Vec<String>| match protocol {
            Delta => Names::Delta { subscribe: names, unsubscribe: Vec::new(), known: HashMap::new() },
            World => Names::World { names },
        };
        let mut case = Case::new(protocol, Form::Grpc, &[]);
        let names: Vec<String> = (0..MAX_NAMES).map(|n| n.to_string()).collect();
        case.request(Request { kind: Eds, nonce: String::new(), nack: None, names: ask(names) });
        let request = |kind, names| Request { kind, nonce: String::new(), nack: None, names };
        let one_more = case.session.request(request(Rds, ask(vec!["r".to_owned()])), now);
        assert_eq!(one_more.unwrap_err(), Violation::ManyNames(MAX_NAMES + 1));
        let long = case.session.request(request(Rds, ask(vec!["r".repeat(1025)])), now);
        assert_eq!(long.unwrap_err(), Violation::LongName(1025));
    }
}
