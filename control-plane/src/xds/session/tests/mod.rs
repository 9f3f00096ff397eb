//! What is sent when, rule by rule.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

mod answers;
mod asking;
mod order;

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
