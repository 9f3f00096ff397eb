//! Texts to objects. Every object is read and checked by itself, with a list of problems of its own, so that a broken one
//! does not hold back the others.

use std::collections::BTreeMap;
use std::sync::Arc;

use outrigger_config::language::{Document as Yaml, Field, Node, Part, Sink, Span, nearest, parts, quoted};
use outrigger_config::model::Place;
use outrigger_config::{Diagnostic, Diagnostics};

use super::check::{self, Context};
use super::limits::{MAX_DOCUMENT_BYTES, MAX_LABELS};
use super::raw::{EndpointSliceManifest, Manifest, ObjectMeta};
use super::words::Words;
use super::{Document, Kind, Object, ObjectId, Spec, raw};

/// One manifest of a document.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    /// Which object it is, as far as that could be read.
    pub(crate) id: Option<ObjectId>,
    /// That is only what it most likely is.
    pub(crate) guessed: bool,
    /// Where it begins.
    pub(crate) place: Place,
    /// `None` where it is broken.
    pub(crate) object: Option<Arc<Object>>,
    /// What it would be for, where it is broken and that could be read: a policy then refuses everything there.
    pub(crate) selector: Option<super::object::Selector>,
    /// What was wrong with it, warnings included.
    pub(crate) problems: Diagnostics,
}

impl Item {
    /// Nothing could be taken of it.
    fn unread(id: Option<ObjectId>, place: Place, problems: Diagnostics) -> Self {
        Self { id, guessed: false, place, object: None, selector: None, problems }
    }
}

/// Reads a document. A pure function of its name, line and text.
pub(crate) fn read(document: &Document) -> Vec<Item> {
    let start = Place { file: Arc::clone(&document.name), line: document.line.max(1), column: 1 };
    if document.text.len() > MAX_DOCUMENT_BYTES {
        let message = format!("the document has {} bytes of at most {MAX_DOCUMENT_BYTES}", document.text.len());
        let problem = Diagnostic::for_file(&document.name, message, "split it into several".to_owned());
        return vec![Item::unread(None, start, problem.into())];
    }
    parts(&document.text).into_iter().flat_map(|part| read_part(document, part)).collect()
}

fn read_part(document: &Document, part: Part<'_>) -> Vec<Item> {
    let before = document.line.saturating_sub(1).saturating_add(part.before);
    let source = Source { document, text: part.text, before };
    let sink = source.sink();
    let parsed = Yaml::parse(&sink);
    // Duplicate keys and the like are not the fault of one entry of a list: nothing is taken then.
    let malformed = sink.has_errors();
    let place = sink.place(parsed.as_ref().map_or(Span::START, |parsed| parsed.root().span()));
    let known = parsed.as_ref().and_then(|parsed| identify(parsed.root()));
    let Some(parsed) = parsed.filter(|_| !malformed) else {
        let guessed = known.is_none();
        let id = known.or_else(|| guess(part.text));
        return vec![Item { guessed, ..Item::unread(id, place, sink.into_diagnostics()) }];
    };
    let root = parsed.root();
    if root.get("kind").and_then(|kind| kind.text()) != Some("List") {
        return vec![source.object(root, part.text.into(), before)];
    }
    let mut out = Vec::new();
    for (key, span) in root.keys() {
        if !matches!(key, "apiVersion" | "kind" | "metadata" | "items") {
            let fix = "remove it; a List has apiVersion, kind, metadata and items";
            sink.error(span, format!("unknown field `{}` in a List", quoted(key)), fix);
        }
    }
    match root.get("items").map(|items| (items.items(), items.span())) {
        Some((Some(items), _)) => {
            out.extend(items.into_iter().map(|item| {
                let (text, before) = source.cut(item.span());
                source.object(item, text, before)
            }));
        }
        Some((None, span)) => sink.error(span, "`items` must be a list", "write one manifest an entry"),
        None => sink.error(root.span(), "this List has no `items`", "add `items`, or remove the List"),
    }
    if sink.has_errors() {
        out.push(Item::unread(None, place, sink.into_diagnostics()));
    }
    out
}

/// The text of one part.
struct Source<'a> {
    document: &'a Document,
    text: &'a str,
    before: u32,
}

impl<'a> Source<'a> {
    fn sink(&self) -> Sink<'a> {
        Sink::of_part(Arc::clone(&self.document.name), self.text, self.before)
    }

    /// The text of one entry, indented as it stands, and the lines above it.
    fn cut(&self, span: Span) -> (Arc<str>, u32) {
        let text = self.text.get(span.start as usize..span.end as usize).unwrap_or_default();
        let blanks = " ".repeat(span.column.saturating_sub(1) as usize);
        (format!("{blanks}{text}").into(), self.before + span.line.saturating_sub(1))
    }

    fn object(&self, node: Node<'_, '_>, text: Arc<str>, before: u32) -> Item {
        let sink = self.sink();
        let known = identify(node);
        let guessed = known.is_none();
        let id = known.or_else(|| nameless(node));
        let place = sink.place(node.span());
        let read = if node.is_map() {
            kind(&sink, node).and_then(|kind| read_kind(&sink, node, kind))
        } else {
            sink.error(node.span(), "this is no manifest", "write a mapping with apiVersion, kind, metadata and spec");
            None
        };
        let (object, selector) = match read {
            Some(Checked { id, labels, created, spec: Some(spec), selector }) if !sink.has_errors() => {
                let name = Arc::clone(&self.document.name);
                let source = Document { name, line: before.saturating_add(1), text };
                (Some(Arc::new(Object { id, labels, created, place: place.clone(), spec, source })), selector)
            }
            Some(Checked { selector, .. }) => (None, selector),
            None => (None, None),
        };
        Item { id, guessed, place, object, selector, problems: sink.into_diagnostics() }
    }
}

/// Which object a value is, without a word about what is wrong with it.
fn identify(node: Node<'_, '_>) -> Option<ObjectId> {
    let kind = Kind::named(node.get("kind")?.text()?)?;
    let metadata = node.get("metadata")?;
    let name = metadata.get("name")?.text()?;
    let namespace = metadata.get("namespace").and_then(|n| n.text()).unwrap_or(DEFAULT_NAMESPACE);
    let fits = |text: &str| text.len() <= check::MAX_NAME;
    (fits(name) && fits(namespace)).then(|| ObjectId::new(kind, namespace, name))
}

/// A policy without a name that can be read, under one that no object has: what it is for must not be let through.
fn nameless(node: Node<'_, '_>) -> Option<ObjectId> {
    let kind = Kind::named(node.get("kind")?.text()?).filter(|kind| kind.refuses_unread())?;
    let namespace = node.get("metadata").and_then(|metadata| metadata.get("namespace")?.text());
    let namespace = namespace.unwrap_or(DEFAULT_NAMESPACE);
    (namespace.len() <= check::MAX_NAME).then(|| ObjectId::new(kind, namespace, "?"))
}

/// Which object a malformed text was most likely to be: by the first words that say so. Only used where nothing better is
/// known, to say whose it is and to keep what a broken policy is for from being let through.
fn guess(text: &str) -> Option<ObjectId> {
    let value = |key: &str| {
        let mut found = text.match_indices(key).filter_map(|(at, _)| {
            let inside = |before: char| before.is_ascii_alphanumeric() || "-./".contains(before);
            let rest = text[at + key.len()..].trim_start_matches(['"', '\'']);
            rest.strip_prefix(':').filter(|_| !text[..at].ends_with(inside))
        });
        let word = found.next()?.trim_start_matches([' ', '"', '\'']);
        let end = word.find(|c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '.')).unwrap_or(word.len());
        (end > 0 && end <= check::MAX_NAME).then(|| &word[..end])
    };
    let kind = Kind::named(value("kind")?)?;
    Some(ObjectId::new(kind, value("namespace").unwrap_or(DEFAULT_NAMESPACE), value("name")?))
}

/// Where an object without a namespace is.
pub(crate) const DEFAULT_NAMESPACE: &str = "default";

fn kind(sink: &Sink<'_>, node: Node<'_, '_>) -> Option<Kind> {
    let version = node.get("apiVersion").and_then(|node| Some((node.text()?, node.span())));
    let Some((text, at)) = node.get("kind").and_then(|node| Some((node.text()?, node.span()))) else {
        let at = node.get("kind").map_or(node.span(), |kind| kind.span());
        sink.error(at, "this manifest has no `kind`", "add `apiVersion` and `kind`, such as `kind: Service`");
        return None;
    };
    let Some(kind) = Kind::named(text) else {
        let (message, fix) = unsupported(text);
        sink.error(at, message, fix);
        return None;
    };
    let expected = kind.api_versions()[0];
    match version {
        Some((version, _)) if kind.api_versions().contains(&version) => Some(kind),
        Some((version, at)) => {
            let message = format!("there is no {kind} in `{}`", quoted(version));
            sink.error(at, message, format!("write `apiVersion: {expected}`"));
            None
        }
        None => {
            let at = node.get("apiVersion").map_or(at, |node| node.span());
            sink.error(at, "this manifest has no `apiVersion`", format!("add `apiVersion: {expected}`"));
            None
        }
    }
}

fn unsupported(kind: &str) -> (String, String) {
    let message = format!("the kind `{}` is not supported", quoted(kind));
    let fix = match kind {
        "Gateway" | "GatewayClass" => "leave it out: routes are attached to Services".to_owned(),
        "UDPRoute" => "leave it out: the mesh carries TCP; a file of a proxy has `protocol: udp`".to_owned(),
        "Endpoints" => "write an EndpointSlice".to_owned(),
        "PeerAuthentication" => "write a MeshPolicy with `mtls`".to_owned(),
        "DestinationRule" => "write a TrafficPolicy".to_owned(),
        "VirtualService" => "write an HTTPRoute".to_owned(),
        "RequestAuthentication" => "write a JwtPolicy".to_owned(),
        other => match nearest(other, Kind::ALL.iter().map(|kind| kind.as_str())) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("leave it out; the kinds are {}", Kind::ALL.map(Kind::as_str).join(", ")),
        },
    };
    (message, fix)
}

/// What a manifest came to.
struct Checked {
    id: ObjectId,
    labels: BTreeMap<Arc<str>, Arc<str>>,
    created: Option<Arc<str>>,
    spec: Option<Spec>,
    selector: Option<super::object::Selector>,
}

fn read_kind(sink: &Sink<'_>, node: Node<'_, '_>, kind: Kind) -> Option<Checked> {
    macro_rules! with_spec {
        ($spec:ty, $check:path) => {{
            let read: Field<Manifest<$spec>> = node.read(sink, &Words);
            let (Manifest { metadata, spec, .. }, span) = read.here()?;
            let meta = Meta::check(sink, (node, span), kind, metadata)?;
            let lack = "this manifest has no `spec`";
            let context = Context::new(sink, &meta.id, &meta.labels);
            let spec = context.check.required(spec, span, (lack, "add `spec`"));
            let selector = spec.and_then(|(spec, _)| check::selector_of(spec));
            let spec = spec.and_then(|(spec, at)| $check(&context, spec, at));
            Some(Checked { id: meta.id, labels: meta.labels, created: meta.created, spec, selector })
        }};
    }
    match kind {
        Kind::Service => with_spec!(raw::ServiceSpec, check::service),
        Kind::HttpRoute => with_spec!(raw::HttpRouteSpec, check::http_route),
        Kind::GrpcRoute => with_spec!(raw::GrpcRouteSpec, check::grpc_route),
        Kind::TcpRoute => with_spec!(raw::TcpRouteSpec, check::tcp_route),
        Kind::TlsRoute => with_spec!(raw::TlsRouteSpec, check::tls_route),
        Kind::ReferenceGrant => with_spec!(raw::ReferenceGrantSpec, check::reference_grant),
        Kind::BackendTlsPolicy => with_spec!(raw::BackendTlsSpec, check::backend_tls),
        Kind::Workload => with_spec!(raw::WorkloadSpec, check::workload),
        Kind::MeshPolicy => with_spec!(raw::MeshPolicySpec, check::mesh_policy),
        Kind::TrafficPolicy => with_spec!(raw::TrafficPolicySpec, check::traffic_policy),
        Kind::AuthorizationPolicy => with_spec!(raw::AuthorizationPolicySpec, check::authorization_policy),
        Kind::JwtPolicy => with_spec!(raw::JwtPolicySpec, check::jwt_policy),
        Kind::EndpointSlice => {
            let read: Field<EndpointSliceManifest> = node.read(sink, &Words);
            let (slice, span) = read.here()?;
            let meta = Meta::check(sink, (node, span), kind, &slice.metadata)?;
            let context = Context::new(sink, &meta.id, &meta.labels);
            let spec = check::endpoint_slice(&context, slice, span);
            Some(Checked { id: meta.id, labels: meta.labels, created: meta.created, spec, selector: None })
        }
    }
}

/// Checked metadata.
struct Meta {
    id: ObjectId,
    labels: BTreeMap<Arc<str>, Arc<str>>,
    created: Option<Arc<str>>,
}

impl Meta {
    fn check(sink: &Sink<'_>, at: (Node<'_, '_>, Span), kind: Kind, field: &Field<ObjectMeta>) -> Option<Self> {
        let (node, span) = at;
        let check = outrigger_config::language::Checker::new(sink);
        let lack = ("this manifest has no `metadata`", "add `metadata: { name: …, namespace: … }`");
        let (metadata, at) = check.required(field, span, lack)?;
        let lack = ("this object has no `name`", "add `name` to `metadata`");
        let (name, name_at) = check.required(&metadata.name, at, lack)?;
        let rule = if kind == Kind::Service { check::label } else { check::subdomain };
        check::named(&check, (name, name_at), ("name", rule));
        let namespace = match metadata.namespace.here() {
            Some((namespace, at)) => {
                check::named(&check, (namespace, at), ("namespace", check::label));
                namespace.as_str()
            }
            None => DEFAULT_NAMESPACE,
        };
        let labels = check::labels(&check, (&metadata.labels, "labels", MAX_LABELS));
        let created = node.get("metadata").and_then(|m| m.get("creationTimestamp"));
        let created = created.and_then(|node| Some((node.text()?, node.span())));
        if let Some((text, at)) = created
            && !check::is_time(text)
        {
            check.error(at, format!("`{}` is not a time", quoted(text)), "write it as `2026-01-31T12:00:00Z`");
        }
        let created = created.map(|(text, _)| Arc::from(text));
        Some(Self { id: ObjectId::new(kind, namespace, name), labels, created })
    }
}
