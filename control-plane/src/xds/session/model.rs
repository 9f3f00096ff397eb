//! Whatever happens, a client that does what it is told ends with exactly what the source has.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use outrigger_xds::{Kind, Resource};
use proptest::prelude::*;
use tokio::time::Instant;

use super::{Nack, Names, Now, Push, Request, Scope, Session};
use crate::fleet::{Form, Protocol, ProxyState, Refused, ResourceSet};
use std::time::SystemTime;

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// A version that is taken or refused, by its number.
type Content = u32;

#[derive(Debug, Clone)]
enum Op {
    /// A resource changes, and is taken or refused from then on.
    Put(Kind, usize, Content),
    Remove(Kind, usize),
    /// The oldest response that the client has not seen arrives, and is answered.
    Deliver,
    /// The server sends what it can.
    Send,
    Wait(u64),
    Reconnect,
    /// Of a kind that is asked for by name, one more or one less.
    Toggle(Kind, usize),
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop::sample::select(Kind::ALL.to_vec())
}

fn named_kinds() -> impl Strategy<Value = Kind> {
    prop::sample::select(vec![Kind::Secret, Kind::Endpoints, Kind::Route])
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let one = prop_oneof![
        4 => (kinds(), 0..NAMES.len(), 0_u32..12).prop_map(|(kind, name, content)| Op::Put(kind, name, content)),
        2 => (kinds(), 0..NAMES.len()).prop_map(|(kind, name)| Op::Remove(kind, name)),
        6 => Just(Op::Deliver),
        6 => Just(Op::Send),
        1 => (0_u64..7000).prop_map(Op::Wait),
        1 => Just(Op::Reconnect),
        2 => (named_kinds(), 0..NAMES.len()).prop_map(|(kind, name)| Op::Toggle(kind, name)),
    ];
    prop::collection::vec(one, 1..120)
}

/// How a client refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusing {
    /// The resource by name, and takes the others.
    OneByOne,
    /// All of the response, and says not which was wrong.
    Whole,
}

struct Model {
    protocol: Protocol,
    form: Form,
    refusing: Refusing,
    source: BTreeMap<(Kind, &'static str), Content>,
    generation: u64,
    session: Session,
    now: Instant,
    /// What the client has, and what it asked for by name.
    has: BTreeMap<(Kind, Arc<str>), (Arc<str>, Content)>,
    asked: BTreeMap<Kind, BTreeSet<&'static str>>,
    on_the_way: Vec<Push>,
    last_nonce: HashMap<Kind, u64>,
}

impl Model {
    fn new(protocol: Protocol, form: Form, refusing: Refusing) -> Self {
        let set = ResourceSet::from_resources(0, []);
        let mut model = Self {
            protocol,
            form,
            refusing,
            source: BTreeMap::new(),
            generation: 0,
            session: Session::new(protocol, form, &set),
            now: Instant::now(),
            has: BTreeMap::new(),
            asked: BTreeMap::new(),
            on_the_way: Vec::new(),
            last_nonce: HashMap::new(),
        };
        model.connect();
        model
    }

    fn set(&self) -> ResourceSet {
        let resources = self.source.iter().map(|((kind, name), content)| Arc::new(resource(*kind, name, *content)));
        ResourceSet::from_resources(self.generation, resources)
    }

    fn connect(&mut self) {
        self.session = Session::new(self.protocol, self.form, &self.set());
        self.on_the_way.clear();
        self.last_nonce.clear();
        for kind in Kind::ALL {
            let asked = self.asked.get(&kind).cloned().unwrap_or_default();
            let is_wildcard = matches!(kind, Kind::Cluster | Kind::Listener);
            if !is_wildcard && asked.is_empty() {
                continue;
            }
            let names: Vec<String> = asked.iter().map(ToString::to_string).collect();
            let has = self.has.iter().filter(|((of, _), _)| *of == kind);
            let known = has.map(|((_, name), (version, _))| (name.to_string(), version.to_string())).collect();
            let names = match self.protocol {
                Protocol::Delta => Names::Delta { subscribe: names, unsubscribe: Vec::new(), known },
                Protocol::StateOfTheWorld => Names::World { names },
            };
            self.request(Request { kind, nonce: String::new(), nack: None, names });
        }
    }

    fn request(&mut self, request: Request) {
        let now = Now { instant: self.now, wall: SystemTime::UNIX_EPOCH };
        self.session.request(request, now).unwrap();
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Put(kind, name, content) => {
                self.source.insert((kind, NAMES[name]), content);
                self.changed(kind);
            }
            Op::Remove(kind, name) => {
                self.source.remove(&(kind, NAMES[name]));
                self.changed(kind);
            }
            Op::Deliver => self.deliver(),
            Op::Send => self.send(),
            Op::Wait(millis) => self.now += Duration::from_millis(millis),
            Op::Reconnect => self.connect(),
            Op::Toggle(kind, name) => self.toggle(kind, NAMES[name]),
        }
    }

    fn changed(&mut self, kind: Kind) {
        let scope = if kind == Kind::Endpoints { Scope::Endpoints } else { Scope::All };
        if scope == Scope::All {
            self.generation += 1;
        }
        let set = self.set();
        self.session.retarget(&set, scope, self.now);
    }

    fn send(&mut self) {
        while let Some(push) = self.session.next(self.now) {
            let unanswered = self.on_the_way.iter().filter(|other| other.kind == push.kind).count();
            assert_eq!(unanswered, 0, "two responses of {:?} are unanswered", push.kind);
            let names: BTreeSet<_> =
                push.resources.iter().map(|resource| &resource.name).chain(&push.removed).collect();
            assert_eq!(names.len(), push.resources.len() + push.removed.len(), "a name is twice in one response");
            self.on_the_way.push(push);
        }
    }

    fn deliver(&mut self) {
        if self.on_the_way.is_empty() {
            return;
        }
        let mut push = self.on_the_way.remove(0);
        // A client passes over what it does not ask for any more.
        push.resources.retain(|resource| self.is_asked(push.kind, &resource.name));
        let bad: Vec<_> = push.resources.iter().filter(|resource| is_bad(content(resource))).collect();
        let take_none = !bad.is_empty() && self.refusing == Refusing::Whole;
        let full = self.protocol == Protocol::StateOfTheWorld && matches!(push.kind, Kind::Cluster | Kind::Listener);
        if full && !take_none {
            let names: BTreeSet<_> = push.resources.iter().map(|resource| &resource.name).collect();
            self.has.retain(|(kind, name), _| *kind != push.kind || names.contains(name));
        }
        for resource in push.resources.iter().filter(|resource| !take_none && !is_bad(content(resource))) {
            let has = (Arc::clone(&resource.version), content(resource));
            self.has.insert((push.kind, Arc::clone(&resource.name)), has);
        }
        for name in &push.removed {
            self.has.remove(&(push.kind, Arc::clone(name)));
        }
        self.last_nonce.insert(push.kind, push.nonce);
        let refused =
            |name: &str| Refused { resource: name.to_owned(), field: String::new(), reason: "bad".to_owned() };
        let nack = (!bad.is_empty()).then(|| match self.refusing {
            Refusing::OneByOne => Nack { refusals: bad.iter().map(|resource| refused(&resource.name)).collect() },
            Refusing::Whole => Nack { refusals: vec![refused("")] },
        });
        let names = match self.protocol {
            Protocol::Delta => Names::Delta { subscribe: Vec::new(), unsubscribe: Vec::new(), known: HashMap::new() },
            Protocol::StateOfTheWorld => Names::World { names: self.asked_names(push.kind) },
        };
        self.request(Request { kind: push.kind, nonce: push.nonce.to_string(), nack, names });
    }

    fn toggle(&mut self, kind: Kind, name: &'static str) {
        let asked = self.asked.entry(kind).or_default();
        let more = asked.insert(name);
        if !more {
            asked.remove(name);
            self.has.remove(&(kind, name.into()));
        }
        let one = vec![name.to_owned()];
        let (subscribe, unsubscribe) = if more { (one, Vec::new()) } else { (Vec::new(), one) };
        let nonce = self.last_nonce.get(&kind).map(ToString::to_string).unwrap_or_default();
        let (nonce, names) = match self.protocol {
            Protocol::Delta => (String::new(), Names::Delta { subscribe, unsubscribe, known: HashMap::new() }),
            Protocol::StateOfTheWorld => (nonce, Names::World { names: self.asked_names(kind) }),
        };
        self.request(Request { kind, nonce, nack: None, names });
    }

    fn asked_names(&self, kind: Kind) -> Vec<String> {
        self.asked.get(&kind).into_iter().flatten().map(ToString::to_string).collect()
    }

    /// Makes everything good, and lets the two talk until they have nothing more to say.
    fn settle(&mut self) {
        self.generation += 1;
        for content in self.source.values_mut().filter(|content| is_bad(**content)) {
            *content += 100;
        }
        let set = self.set();
        self.session.retarget(&set, Scope::All, self.now);
        for _ in 0..100 {
            self.send();
            if self.on_the_way.is_empty() {
                match self.session.wakes_at(self.now) {
                    Some(at) => self.now = at,
                    None => break,
                }
            }
            while !self.on_the_way.is_empty() {
                self.deliver();
            }
        }
    }

    fn is_asked(&self, kind: Kind, name: &str) -> bool {
        matches!(kind, Kind::Cluster | Kind::Listener) || self.asked.get(&kind).is_some_and(|all| all.contains(name))
    }

    fn check(&self) {
        let wanted: BTreeMap<(Kind, &str), Content> = self
            .source
            .iter()
            .filter(|((kind, name), _)| self.is_asked(*kind, name))
            .map(|((kind, name), content)| ((*kind, *name), *content))
            .collect();
        // State of the world has no words for removing what was asked for by name.
        let may_linger =
            |kind: Kind| self.protocol == Protocol::StateOfTheWorld && !matches!(kind, Kind::Cluster | Kind::Listener);
        let has: BTreeMap<(Kind, &str), Content> = self
            .has
            .iter()
            .map(|((kind, name), (_, content))| ((*kind, &**name), *content))
            .filter(|(key, _)| wanted.contains_key(key) || !may_linger(key.0))
            .collect();
        assert_eq!(has, wanted);
        let (state, generation, accepted) = self.session.progress(self.now + Duration::from_secs(60));
        assert_eq!((state, accepted), (ProxyState::Synced, Some(generation)));
    }
}

fn resource(kind: Kind, name: &str, content: Content) -> Resource {
    Resource::new(kind, name.into(), &content)
}

fn content(resource: &Resource) -> Content {
    <u32 as prost::Message>::decode(&*resource.body).unwrap()
}

/// Every fourth content is one that the client refuses.
fn is_bad(content: Content) -> bool {
    content < 100 && content % 4 == 3
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn a_client_ends_with_exactly_what_the_source_has(
        ops in ops(),
        protocol in prop::sample::select(vec![Protocol::Delta, Protocol::StateOfTheWorld]),
        form in prop::sample::select(vec![Form::Outrigger, Form::Envoy, Form::Grpc]),
        refusing in prop::sample::select(vec![Refusing::OneByOne, Refusing::Whole]),
    ) {
        let mut model = Model::new(protocol, form, refusing);
        for op in &ops {
            model.apply(op);
        }
        model.settle();
        model.check();
    }
}
