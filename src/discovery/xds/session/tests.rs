//! What is said and understood, step by step, and a model of a server against which any course of events is played.

use proptest::prelude::*;

use super::*;
use crate::discovery::xds::store::Store;

fn name(text: &str) -> Arc<str> {
    text.into()
}

fn incoming(name: &str, version: &str) -> Incoming {
    Incoming { name: name.into(), version: version.into(), body: Bytes::copy_from_slice(version.as_bytes()) }
}

fn response(kind: Kind, nonce: &str, resources: &[(&str, &str)]) -> Response {
    Response {
        kind,
        version: format!("v{nonce}"),
        nonce: nonce.to_owned(),
        resources: resources.iter().map(|(name, version)| incoming(name, version)).collect(),
        removed: Vec::new(),
        unreadable: Vec::new(),
    }
}

fn names(list: &[&str]) -> BTreeSet<Arc<str>> {
    list.iter().map(|text| name(text)).collect()
}

fn known(list: &[(&str, &str)]) -> BTreeMap<Arc<str>, Arc<str>> {
    list.iter().map(|(name, version)| ((*name).into(), (*version).into())).collect()
}

fn refusal(kind: Kind, of: &str) -> Refusal {
    Refusal { kind, name: name(of), field: String::new(), reason: "no".to_owned() }
}

fn of(requests: &[Request], kind: Kind) -> &Request {
    requests.iter().find(|request| request.kind == kind).expect("a request of this kind")
}

#[test]
fn a_stream_begins_with_everything_that_is_wanted_and_what_is_known_of_it() {
    let wanted = BTreeMap::from([(Kind::Route, names(&["a", "b"]))]);
    let versions = BTreeMap::from([
        (Kind::Cluster, known(&[("c", "1")])),
        (Kind::Route, known(&[("a", "2"), ("forgotten", "3")])),
    ]);
    let (_, requests) = Session::open(Variant::Delta, &wanted, &versions);
    let kinds: Vec<Kind> = requests.iter().map(|request| request.kind).collect();
    assert_eq!(kinds, [Kind::Cluster, Kind::Listener, Kind::Route]);
    assert_eq!(of(&requests, Kind::Cluster).known, [(name("c"), name("1"))]);
    assert!(of(&requests, Kind::Listener).subscribe.is_empty(), "everything");
    assert_eq!(of(&requests, Kind::Route).subscribe, [name("a"), name("b")]);
    assert_eq!(of(&requests, Kind::Route).known, [(name("a"), name("2"))]);

    let (_, requests) = Session::open(Variant::StateOfTheWorld, &wanted, &versions);
    assert_eq!(of(&requests, Kind::Route).names, [name("a"), name("b")]);
    assert!(requests.iter().all(|request| request.version.is_empty() && request.known.is_empty()));
}

#[test]
fn names_are_told_by_their_difference_or_all_at_once() {
    let (mut delta, _) = Session::open(Variant::Delta, &BTreeMap::new(), &BTreeMap::new());
    let first = delta.want(Kind::Endpoints, names(&["a", "b"]), &BTreeMap::new()).expect("asked");
    assert_eq!(first.subscribe, [name("a"), name("b")]);
    assert_eq!(delta.want(Kind::Endpoints, names(&["a", "b"]), &BTreeMap::new()), None);
    let second = delta.want(Kind::Endpoints, names(&["b", "c"]), &BTreeMap::new()).expect("asked");
    assert_eq!((second.subscribe, second.unsubscribe), (vec![name("c")], vec![name("a")]));
    assert!(second.nonce.is_empty());

    let (mut whole, _) = Session::open(Variant::StateOfTheWorld, &BTreeMap::new(), &BTreeMap::new());
    assert_eq!(whole.want(Kind::Endpoints, BTreeSet::new(), &BTreeMap::new()), None);
    whole.want(Kind::Endpoints, names(&["a"]), &BTreeMap::new()).expect("asked");
    let update = whole.receive(response(Kind::Endpoints, "1", &[("a", "1")]), &BTreeMap::new());
    // The nonce is not answered yet, and must not be by accident.
    assert_eq!(whole.want(Kind::Endpoints, names(&["a", "b"]), &BTreeMap::new()), None);
    assert!(whole.waits());
    let answer = whole.answer(update.receipt, Vec::new());
    assert_eq!((&*answer.nonce, &*answer.version, answer.names), ("1", "v1", vec![name("a"), name("b")]));
    assert!(!whole.waits());
    let later = whole.want(Kind::Endpoints, names(&["b"]), &BTreeMap::new()).expect("asked");
    assert_eq!((&*later.nonce, &*later.version, later.names), ("1", "v1", vec![name("b")]));
}

#[test]
fn a_refusal_names_the_nonce_and_keeps_the_version() {
    let (mut whole, _) = Session::open(Variant::StateOfTheWorld, &BTreeMap::new(), &BTreeMap::new());
    let one = whole.receive(response(Kind::Cluster, "1", &[("a", "1")]), &BTreeMap::new());
    whole.answer(one.receipt, Vec::new());
    let two = whole.receive(response(Kind::Cluster, "2", &[("a", "2")]), &known(&[("a", "1")]));
    let answer = whole.answer(two.receipt, vec![refusal(Kind::Cluster, "a")]);
    assert_eq!((&*answer.nonce, &*answer.version, answer.refusals.len()), ("2", "v1", 1));

    let (mut delta, _) = Session::open(Variant::Delta, &BTreeMap::new(), &BTreeMap::new());
    let one = delta.receive(response(Kind::Cluster, "7", &[("a", "1")]), &BTreeMap::new());
    let answer = delta.answer(one.receipt, vec![refusal(Kind::Cluster, "a")]);
    assert_eq!((&*answer.nonce, answer.refusals.len(), answer.subscribe.len()), ("7", 1, 0));
}

#[test]
fn in_the_state_of_the_world_listeners_and_clusters_that_are_missing_are_gone_and_others_stay() {
    let (mut whole, _) = Session::open(Variant::StateOfTheWorld, &BTreeMap::new(), &BTreeMap::new());
    let held = known(&[("a", "1"), ("b", "1")]);
    let update = whole.receive(response(Kind::Listener, "1", &[("b", "1"), ("c", "1")]), &held);
    assert_eq!(update.removed, [name("a")]);
    assert_eq!(update.changed, [incoming("c", "1")], "what is known already is no change");
    let update = whole.receive(response(Kind::Route, "2", &[]), &held);
    assert!(update.removed.is_empty());
}

#[test]
fn a_resource_that_cannot_be_read_is_not_one_that_is_gone() {
    let (mut whole, _) = Session::open(Variant::StateOfTheWorld, &BTreeMap::new(), &BTreeMap::new());
    let mut damaged = response(Kind::Cluster, "1", &[("b", "1")]);
    damaged.unreadable.push(refusal(Kind::Cluster, "a"));
    let update = whole.receive(damaged, &known(&[("a", "1"), ("b", "1"), ("c", "1")]));
    assert_eq!((update.removed, update.refused.len()), (vec![name("c")], 1));
}

#[test]
fn two_resources_of_one_name_are_both_refused() {
    for variant in [Variant::Delta, Variant::StateOfTheWorld] {
        let (mut session, _) = Session::open(variant, &BTreeMap::new(), &BTreeMap::new());
        let twice = response(Kind::Cluster, "1", &[("a", "1"), ("a", "2"), ("b", "1")]);
        let update = session.receive(twice, &known(&[("a", "0")]));
        assert_eq!(update.changed, [incoming("b", "1")]);
        assert_eq!((update.refused.len(), &*update.refused[0].name), (1, "a"));
        assert!(update.removed.is_empty());
    }
}

/// A server that does what the specification says, in the simplest way. A version with an even number is good.
#[derive(Debug, Default)]
struct Server {
    resources: BTreeMap<Kind, BTreeMap<Arc<str>, u32>>,
    /// Of the stream: what the proxy has, or was sent.
    sent: BTreeMap<Kind, BTreeMap<Arc<str>, u32>>,
    asked: BTreeMap<Kind, Option<BTreeSet<Arc<str>>>>,
    /// Kinds of the state of the world that have to be sent again.
    stale: BTreeSet<Kind>,
    /// Nonces that were not answered.
    open: BTreeMap<(Kind, String), bool>,
    nonce: u32,
}

impl Server {
    fn take(&mut self, variant: Variant, request: &Request) {
        let Request { kind, subscribe, unsubscribe, known, names, nonce, refusals, .. } = request;
        if !nonce.is_empty()
            && let Some(good) = self.open.remove(&(*kind, nonce.clone()))
        {
            assert_eq!(refusals.is_empty(), good, "what is wrong is refused and what is right is not");
        }
        let whole = is_whole(*kind);
        match variant {
            Variant::Delta => {
                let of_kind = self.sent.entry(*kind).or_default();
                of_kind.extend(known.iter().map(|(n, v)| (Arc::clone(n), v.parse::<u32>().expect("a version"))));
                let asked = self.asked.entry(*kind).or_insert_with(|| (!whole).then(BTreeSet::new));
                if let Some(asked) = asked {
                    asked.extend(subscribe.iter().cloned());
                    for gone in unsubscribe {
                        asked.remove(gone);
                        of_kind.remove(gone);
                    }
                }
            }
            Variant::StateOfTheWorld => {
                let asked = (!whole).then(|| names.iter().cloned().collect());
                if self.asked.insert(*kind, asked.clone()) != Some(asked) {
                    self.stale.insert(*kind);
                }
            }
        }
    }

    fn wants(&self, kind: Kind, name: &Arc<str>) -> bool {
        match self.asked.get(&kind) {
            Some(Some(asked)) => asked.contains(name),
            Some(None) => true,
            None => false,
        }
    }

    /// What there is to say of a kind.
    fn say(&mut self, variant: Variant, kind: Kind) -> Option<Response> {
        self.asked.get(&kind)?;
        let resources = self.resources.get(&kind).cloned().unwrap_or_default();
        let sent = self.sent.entry(kind).or_default().clone();
        let wanted: BTreeMap<Arc<str>, u32> =
            resources.into_iter().filter(|(name, _)| self.wants(kind, name)).collect();
        let changed: Vec<(Arc<str>, u32)> = match variant {
            Variant::Delta => wanted.clone().into_iter().filter(|(n, v)| sent.get(n) != Some(v)).collect(),
            Variant::StateOfTheWorld => wanted.clone().into_iter().collect(),
        };
        let removed: Vec<Arc<str>> = match variant {
            Variant::Delta => sent.keys().filter(|name| !wanted.contains_key(*name)).cloned().collect(),
            Variant::StateOfTheWorld => Vec::new(),
        };
        let silent = match variant {
            Variant::Delta => changed.is_empty() && removed.is_empty(),
            Variant::StateOfTheWorld => !self.stale.remove(&kind),
        };
        if silent {
            return None;
        }
        self.sent.insert(kind, wanted);
        self.nonce += 1;
        let nonce = self.nonce.to_string();
        let known_good = changed.iter().all(|(_, version)| version % 2 == 0);
        self.open.insert((kind, nonce.clone()), known_good);
        let resources = changed.iter().map(|(name, version)| incoming(name, &version.to_string())).collect();
        Some(Response { kind, version: nonce.clone(), nonce, resources, removed, unreadable: Vec::new() })
    }

    fn hang_up(&mut self) {
        self.sent.clear();
        self.asked.clear();
        self.stale.clear();
        self.open.clear();
    }
}

/// A proxy that refuses odd versions. Every listener `n` wants the route `n`.
#[derive(Debug)]
struct Proxy {
    session: Session,
    store: Store,
    receipts: Vec<(Receipt, Vec<Refusal>)>,
}

impl Proxy {
    fn wanted(store: &Store) -> BTreeMap<Kind, BTreeSet<Arc<str>>> {
        BTreeMap::from([(Kind::Route, store.newest(Kind::Listener).into_keys().collect())])
    }

    fn receive(&mut self, response: Response) -> Vec<Request> {
        let known = self.store.newest(response.kind);
        let update = self.session.receive(response, &known);
        self.store.stage(&update);
        let odd = |version: &str| version.parse::<u32>().expect("a number") % 2 == 1;
        let bad = update.contents.iter().filter(|(_, version)| odd(version));
        let bad = bad.map(|(name, _)| refusal(update.kind, name)).collect();
        self.receipts.push((update.receipt, bad));
        self.want()
    }

    fn want(&mut self) -> Vec<Request> {
        let mut requests = Vec::new();
        for (kind, names) in Self::wanted(&self.store) {
            self.store.keep_only(kind, &names);
            requests.extend(self.session.want(kind, names, &self.store.versions()));
        }
        requests
    }

    fn apply(&mut self) -> Vec<Request> {
        let refused: BTreeSet<_> = self
            .store
            .pending()
            .iter()
            .filter(|(_, held)| held.as_ref().is_some_and(|held| held.version.parse::<u32>().expect("one") % 2 == 1))
            .map(|(id, _)| id.clone())
            .collect();
        self.store.commit(&refused);
        let receipts = std::mem::take(&mut self.receipts);
        let mut requests: Vec<Request> =
            receipts.into_iter().map(|(receipt, bad)| self.session.answer(receipt, bad)).collect();
        requests.extend(self.want());
        requests
    }
}

#[derive(Debug, Clone)]
enum Step {
    Set(Kind, u8, u32),
    Remove(Kind, u8),
    Say(Kind),
    Apply,
    HangUp,
}

fn step() -> impl Strategy<Value = Step> {
    let kind = prop_oneof![Just(Kind::Listener), Just(Kind::Route), Just(Kind::Cluster)];
    prop_oneof![
        5 => (kind.clone(), 0..4_u8, 0..1000_u32).prop_map(|(kind, at, version)| Step::Set(kind, at, version)),
        2 => (kind.clone(), 0..4_u8).prop_map(|(kind, at)| Step::Remove(kind, at)),
        5 => kind.prop_map(Step::Say),
        4 => Just(Step::Apply),
        1 => Just(Step::HangUp),
    ]
}

/// Names are apart by kind, apart from routes, which are named as their listener.
fn id(kind: Kind, at: u8) -> Arc<str> {
    match kind {
        Kind::Cluster => format!("c{at}").into(),
        _ => format!("l{at}").into(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn whatever_happens_the_proxy_ends_with_what_the_server_has(
        steps in proptest::collection::vec(step(), 1..60),
        delta in any::<bool>(),
    ) {
        let variant = if delta { Variant::Delta } else { Variant::StateOfTheWorld };
        play(variant, &steps);
    }
}

fn play(variant: Variant, steps: &[Step]) {
    let mut server = Server::default();
    let (session, requests) = Session::open(variant, &BTreeMap::new(), &BTreeMap::new());
    let mut proxy = Proxy { session, store: Store::default(), receipts: Vec::new() };
    requests.iter().for_each(|request| server.take(variant, request));
    let give = |server: &mut Server, requests: Vec<Request>| {
        requests.iter().for_each(|request| server.take(variant, request));
    };
    for step in steps {
        match step {
            Step::Set(kind, at, version) => {
                server.resources.entry(*kind).or_default().insert(id(*kind, *at), *version);
                server.stale.insert(*kind);
            }
            Step::Remove(kind, at) => {
                server.resources.entry(*kind).or_default().remove(&id(*kind, *at));
                server.stale.insert(*kind);
            }
            Step::Say(kind) => {
                if let Some(response) = server.say(variant, *kind) {
                    let requests = proxy.receive(response);
                    give(&mut server, requests);
                }
            }
            Step::Apply => {
                let requests = proxy.apply();
                give(&mut server, requests);
            }
            Step::HangUp => {
                server.hang_up();
                proxy.receipts.clear();
                proxy.store.discard();
                let versions = proxy.store.versions();
                let (session, requests) = Session::open(variant, &Proxy::wanted(&proxy.store), &versions);
                proxy.session = session;
                give(&mut server, requests);
            }
        }
    }
    // Then everything is said, in the order of a sensible server, until there is nothing more to say.
    for round in 0.. {
        assert!(round < 20, "it comes to rest");
        let mut quiet = true;
        for kind in Kind::ALL {
            while let Some(response) = server.say(variant, kind) {
                quiet = false;
                let requests = proxy.receive(response);
                give(&mut server, requests);
                let requests = proxy.apply();
                give(&mut server, requests);
            }
        }
        let requests = proxy.apply();
        quiet &= requests.is_empty();
        give(&mut server, requests);
        if quiet {
            break;
        }
    }
    assert!(server.open.is_empty(), "every response was answered: {:?}", server.open);
    let versions = proxy.store.versions();
    let held = |kind: Kind, name: &Arc<str>| versions.get(&kind).and_then(|of| of.get(name)).cloned();
    for kind in [Kind::Listener, Kind::Cluster, Kind::Route] {
        let has = server.resources.get(&kind).cloned().unwrap_or_default();
        for (name, version) in &has {
            let held = held(kind, name).map(|version| version.parse::<u32>().expect("a number"));
            if version % 2 == 0 && server.wants(kind, name) {
                assert_eq!(held, Some(*version), "{kind:?} {name}");
            }
            assert!(held.is_none_or(|held| held % 2 == 0), "nothing refused is in effect");
        }
        for name in versions.get(&kind).into_iter().flat_map(BTreeMap::keys) {
            // A route that the server dropped stays until nobody wants it: only so does the state of the world say it.
            assert!(has.contains_key(name) || kind == Kind::Route, "{kind:?} {name} is gone");
        }
    }
}
