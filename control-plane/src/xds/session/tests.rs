//! What is sent when, rule by rule.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use outrigger_xds::envoy::config::cluster::v3::{Cluster, cluster::EdsClusterConfig};
use outrigger_xds::{Kind, Resource};
use tokio::time::Instant;

use super::requests::Violation;
use super::{Nack, Names, Now, Push, Request, Scope, Session};
use crate::fleet::{Form, Protocol, ProxyState, Refused, ResourceSet};
use crate::xds::limits::{ANSWER_WAIT, ENDPOINTS_WAIT, MAX_HELD_REMOVALS, MAX_NAMES, ORDER_WAIT};

use Kind::{Cluster as Cds, Endpoints as Eds, Listener as Lds, Route as Rds, Secret as Sds};
use Protocol::{Delta, StateOfTheWorld as World};

/// A session and the source behind it.
struct Case {
    session: Session,
    resources: Vec<Arc<Resource>>,
    generation: u64,
    now: Instant,
}

impl Case {
    fn new(protocol: Protocol, form: Form, resources: &[(Kind, &str, u32)]) -> Self {
        let resources: Vec<_> = resources.iter().map(|one| resource(*one)).collect();
        let session = Session::new(protocol, form, &ResourceSet::from_resources(1, resources.clone()));
        Self { session, resources, generation: 1, now: Instant::now() }
    }

    /// Replaces the source's resources.
    fn set(&mut self, resources: &[(Kind, &str, u32)]) {
        self.set_resources(resources.iter().map(|one| resource(*one)).collect());
    }

    fn set_resources(&mut self, resources: Vec<Arc<Resource>>) {
        self.resources = resources;
        self.generation += 1;
        let set = ResourceSet::from_resources(self.generation, self.resources.clone());
        self.session.retarget(&set, Scope::All, self.now);
    }

    fn request(&mut self, request: Request) {
        self.session.request(request, Now { instant: self.now, wall: SystemTime::UNIX_EPOCH }).unwrap();
    }

    /// Asks for these. None of them: for everything.
    fn ask(&mut self, kind: Kind, names: &[&str]) {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let names = match self.session.protocol {
            Delta => Names::Delta { subscribe: names, unsubscribe: Vec::new(), known: HashMap::new() },
            World => Names::World { names },
        };
        let last = self.session.channels[kind as usize].last_nonce.map(|nonce| nonce.to_string()).unwrap_or_default();
        let nonce = if self.session.protocol == World { last } else { String::new() };
        self.request(Request { kind, nonce, nack: None, names });
    }

    fn unask(&mut self, kind: Kind, names: &[&str]) {
        let unsubscribe = names.iter().map(ToString::to_string).collect();
        let names = Names::Delta { subscribe: Vec::new(), unsubscribe, known: HashMap::new() };
        self.request(Request { kind, nonce: String::new(), nack: None, names });
    }

    fn answer(&mut self, push: &Push, nack: Option<Nack>) {
        let names = match self.session.protocol {
            Delta => Names::Delta { subscribe: Vec::new(), unsubscribe: Vec::new(), known: HashMap::new() },
            World => {
                let subscription = self.session.channels[push.kind as usize].subscription.as_ref().unwrap();
                Names::World { names: subscription.names.iter().map(ToString::to_string).collect() }
            }
        };
        self.request(Request { kind: push.kind, nonce: push.nonce.to_string(), nack, names });
    }

    fn ack(&mut self, push: &Push) {
        self.answer(push, None);
    }

    fn nack(&mut self, push: &Push, names: &[&str]) {
        let refused =
            |name: &&str| Refused { resource: (*name).to_owned(), field: "f".to_owned(), reason: "r".to_owned() };
        self.answer(push, Some(Nack { refusals: names.iter().map(refused).collect() }));
    }

    fn next(&mut self) -> Option<Push> {
        self.session.next(self.now)
    }

    /// The next response, which is this.
    #[track_caller]
    fn sends(&mut self, expected: &str) -> Push {
        let push = self.next().unwrap_or_else(|| panic!("nothing is sent, and not {expected}"));
        assert_eq!(shown(&push), expected);
        push
    }

    #[track_caller]
    fn sends_and_is_taken(&mut self, expected: &str) {
        let push = self.sends(expected);
        self.ack(&push);
    }

    #[track_caller]
    fn is_silent(&mut self) {
        let next = self.next().map(|push| shown(&push));
        assert_eq!(next, None);
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
    }

    fn state(&self) -> ProxyState {
        self.session.progress(self.now).0
    }
}

fn resource((kind, name, content): (Kind, &str, u32)) -> Arc<Resource> {
    Arc::new(Resource::new(kind, name.into(), &content))
}

/// `Cluster a b -c`.
fn shown(push: &Push) -> String {
    let added = push.resources.iter().map(|resource| format!(" {}", resource.name));
    let removed = push.removed.iter().map(|name| format!(" -{name}"));
    std::iter::once(format!("{:?}", push.kind)).chain(added).chain(removed).collect()
}

const MESH: [(Kind, &str, u32); 4] = [(Cds, "a", 1), (Eds, "a", 1), (Lds, "in", 1), (Rds, "r", 1)];

/// A client that has taken the mesh, the way Envoy and our proxy do.
fn synced(protocol: Protocol, form: Form) -> Case {
    let mut case = Case::new(protocol, form, &MESH);
    case.ask(Cds, &[]);
    case.sends_and_is_taken("Cluster a");
    case.ask(Eds, &["a"]);
    case.sends_and_is_taken("Endpoints a");
    case.ask(Lds, &[]);
    case.sends_and_is_taken("Listener in");
    case.ask(Rds, &["r"]);
    case.sends_and_is_taken("Route r");
    case.is_silent();
    assert_eq!(case.state(), ProxyState::Synced);
    case
}

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
fn one_response_of_a_kind_is_unanswered_and_the_newest_state_follows() {
    let mut case = Case::new(Delta, Form::Outrigger, &[(Cds, "a", 1)]);
    case.ask(Cds, &[]);
    let first = case.sends("Cluster a");
    for content in 2..50 {
        case.set(&[(Cds, "a", content), (Cds, "b", content)]);
        case.is_silent();
    }
    case.ack(&first);
    let second = case.sends("Cluster a b");
    assert_eq!(second.resources[0].version, resource((Cds, "a", 49)).version);
    case.ack(&second);
    case.is_silent();
}

#[test]
fn a_stale_request_of_the_world_is_no_answer_and_gets_none() {
    let mut case = Case::new(World, Form::Grpc, &[(Eds, "a", 1), (Eds, "b", 1)]);
    case.ask(Eds, &["a"]);
    let first = case.sends("Endpoints a");
    case.ack(&first);
    case.set(&[(Eds, "a", 2), (Eds, "b", 1)]);
    let second = case.sends("Endpoints a");
    // Made before the second was seen.
    let names = Names::World { names: vec!["a".to_owned(), "b".to_owned()] };
    case.request(Request { kind: Eds, nonce: first.nonce.to_string(), nack: None, names });
    case.is_silent();
    assert_eq!(case.state(), ProxyState::Sent);
    let names = Names::World { names: vec!["a".to_owned(), "b".to_owned()] };
    case.request(Request { kind: Eds, nonce: second.nonce.to_string(), nack: None, names });
    case.sends_and_is_taken("Endpoints b");
}

#[test]
fn a_stale_request_of_delta_still_changes_what_is_asked_for() {
    let mut case = Case::new(Delta, Form::Grpc, &[(Eds, "a", 1), (Eds, "b", 1)]);
    case.ask(Eds, &["a"]);
    let first = case.sends("Endpoints a");
    let names = Names::Delta { subscribe: vec!["b".to_owned()], unsubscribe: Vec::new(), known: HashMap::new() };
    case.request(Request { kind: Eds, nonce: "77".to_owned(), nack: None, names });
    case.is_silent();
    case.ack(&first);
    case.sends_and_is_taken("Endpoints b");
}

#[test]
fn what_was_refused_is_not_sent_again_before_it_changes() {
    for protocol in [Delta, World] {
        let mut case = Case::new(protocol, Form::Grpc, &[(Rds, "good", 1), (Rds, "bad", 1)]);
        case.ask(Rds, &["good", "bad"]);
        let push = case.sends("Route bad good");
        case.nack(&push, &["bad"]);
        case.is_silent();
        assert_eq!(case.state(), ProxyState::Refused);
        case.set(&[(Rds, "good", 2), (Rds, "bad", 1)]);
        case.sends_and_is_taken("Route good");
        assert_eq!(case.state(), ProxyState::Refused);
        let report = case.session.report(case.now);
        assert_eq!(report.kinds[0].refusals.len(), 1, "it is still shown: {report:?}");
        case.set(&[(Rds, "good", 2), (Rds, "bad", 2)]);
        case.sends_and_is_taken("Route bad");
        assert_eq!(case.state(), ProxyState::Synced);
        assert!(case.session.report(case.now).kinds[0].refusals.is_empty());
    }
}

#[test]
fn going_back_to_what_was_taken_ends_a_refusal() {
    let mut case = synced(Delta, Form::Outrigger);
    case.set(&[(Cds, "a", 1), (Eds, "a", 1), (Lds, "in", 1), (Rds, "r", 2)]);
    let push = case.sends("Route r");
    case.nack(&push, &["r"]);
    assert_eq!(case.session.progress(case.now), (ProxyState::Refused, 2, Some(1)));
    case.set(&MESH);
    case.sends_and_is_taken("Route r");
    assert_eq!(case.session.progress(case.now), (ProxyState::Synced, 3, Some(3)));
}

#[test]
fn a_response_refused_as_a_whole_is_tried_again_when_one_of_it_changes() {
    let mut case = Case::new(Delta, Form::Grpc, &[(Rds, "x", 1), (Rds, "y", 1), (Rds, "z", 1)]);
    case.ask(Rds, &["x", "y"]);
    let push = case.sends("Route x y");
    case.nack(&push, &[""]);
    case.ask(Rds, &["z"]);
    case.sends_and_is_taken("Route z");
    case.set(&[(Rds, "x", 1), (Rds, "y", 1), (Rds, "z", 2)]);
    case.sends_and_is_taken("Route z");
    case.set(&[(Rds, "x", 2), (Rds, "y", 1), (Rds, "z", 2)]);
    case.sends_and_is_taken("Route x y");
    assert_eq!(case.state(), ProxyState::Synced);
}

#[test]
fn a_route_refused_for_want_of_its_cluster_is_tried_again_when_clusters_are_taken() {
    let mut case = synced(Delta, Form::Outrigger);
    case.set(&[(Cds, "a", 2), (Eds, "a", 1), (Lds, "in", 1), (Rds, "r", 2)]);
    let push = case.sends("Cluster a");
    case.nack(&push, &["a"]);
    case.is_silent();
    case.wait(ORDER_WAIT);
    let push = case.sends("Route r");
    case.nack(&push, &["r"]);
    case.set(&[(Cds, "a", 3), (Eds, "a", 1), (Lds, "in", 1), (Rds, "r", 2)]);
    case.sends_and_is_taken("Cluster a");
    case.sends_and_is_taken("Route r");
    assert_eq!(case.state(), ProxyState::Synced);
}

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

#[test]
fn a_generation_that_changes_nothing_is_taken_at_once() {
    let mut case = synced(Delta, Form::Outrigger);
    case.set(&MESH);
    case.is_silent();
    assert_eq!(case.session.progress(case.now), (ProxyState::Synced, 2, Some(2)));
}

#[test]
fn a_response_without_an_answer_is_noticed() {
    let mut case = Case::new(Delta, Form::Outrigger, &[(Cds, "a", 1)]);
    case.ask(Cds, &[]);
    case.sends("Cluster a");
    case.wait(ANSWER_WAIT - Duration::from_millis(1));
    assert_eq!(case.session.unanswered(case.now), None);
    case.wait(Duration::from_millis(1));
    assert_eq!(case.session.unanswered(case.now), Some(Cds));
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
