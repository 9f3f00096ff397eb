//! What happens to a request, top to bottom: prepare, limit, authenticate, find its rule, authorize, limit, filter, set
//! the deadline, attempt, answer.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use outrigger_config::model::Criticality;

use super::affinity::Affinity;
use super::answer::AnswerBody;
use super::attempt::hedge::Hedging;
use super::attempt::marks::Spent;
use super::attempt::{self, Answered, Carried, CarriedField, Exchange, Failure, TimeField};
use super::authorize::{authorize, authorize_preflight, claims};
use super::early::Early;
use super::external::{Denied, Passed, Refused, Surroundings};
use super::gates::Arrival;
use super::limiting::{OverLimit, Rates, spread};
use super::local::{self, Caller};
use super::mirror;
use super::prepare::{self, Unfit};
use super::reason::Reason;
use super::record::Record;
use super::tracked::{Limits, TrackedBody};
use super::tunnel::TunnelBody;
use super::{ConnectionHandler, advertise, authn, criticality, external, filters, tunnel, with_random};
use crate::base::clock;
use crate::base::drain::Watch;
use crate::codec::headers::strip_hop_by_hop;
use crate::codec::{Body, Handler, Interim, Refusal, Request, RequestHead, Response, ResponseHead};
use crate::policy::cors::CorsDecision;
use crate::policy::deadline::{self, parse_grpc_timeout};
use crate::policy::jwt;
use crate::policy::overload;
use crate::policy::path;
use crate::policy::rng::Rng;
use crate::policy::route::RouteQuery;
use crate::snapshot::{Action, Backend, External, Listener, Rule};
use crate::telemetry::metrics::BreakerScope;
use crate::upstream::admission::Cause;
use crate::upstream::{Applicant, Outcome, Passage, Permit, PickHint, Place, Shed};

/// Memory is not freed sooner than connections are closed.
const OUT_OF_MEMORY_RETRY: Duration = Duration::from_secs(2);

/// An answer before it is tracked: made here, or an upstream's.
pub(super) struct Answer {
    pub(super) response: Response<Body>,
    permit: Option<Permit>,
    limits: Limits,
    /// It opens a tunnel.
    tunnel: Option<Box<tunnel::Asked>>,
}

impl Answer {
    /// An answer of which nothing is to be kept but itself.
    fn plain(response: Response<Body>) -> Self {
        Self { response, permit: None, limits: Limits::default(), tunnel: None }
    }

    /// Makes a local answer to a gRPC call one with another status.
    pub(super) fn set_grpc_status(&mut self, status: u8, record: &mut Record) {
        record.grpc_status = Some(status);
        local::set_grpc_status(&mut self.response.head.headers, status);
    }
}

/// An answer that the proxy makes because it cannot do better.
pub(super) struct Local {
    pub(super) reason: Reason,
    pub(super) status: StatusCode,
    pub(super) sentence: &'static str,
    pub(super) code: &'static str,
    /// A field of the answer.
    pub(super) field: Option<Box<(HeaderName, HeaderValue)>>,
    /// When it is worth asking again.
    pub(super) retry_after: Option<Duration>,
    /// It was tried again, or could not be.
    pub(super) retried: Option<Spent>,
}

impl Local {
    /// A request whose token is not believed, or that has none.
    fn unauthenticated(refusal: jwt::Refusal, head: &RequestHead) -> Self {
        let reason = match refusal {
            jwt::Refusal::NoKeys => Reason::NoKeys,
            _ => Reason::Unauthenticated,
        };
        Self {
            sentence: refusal.sentence(),
            code: refusal.code(),
            field: authn::challenge(head, refusal).map(Box::new),
            ..reason.into()
        }
    }

    /// A request that is over a rate limit.
    pub(super) fn over_limit(OverLimit { after }: OverLimit) -> Self {
        Self { retry_after: Some(with_random(|random| spread(after, random))), ..Reason::RateLimited.into() }
    }

    /// Any request that is not critical, while memory is short.
    fn out_of_memory() -> Self {
        let random = with_random(Rng::next_u64);
        Self { retry_after: Some(overload::spread(OUT_OF_MEMORY_RETRY, random)), ..Reason::OutOfMemory.into() }
    }

    /// An upstream that answers a request for a tunnel as if it had been another one, to a caller who would take that for
    /// the tunnel.
    fn not_switched() -> Self {
        Self {
            sentence: "The upstream did not switch to the protocol that was asked for.",
            code: "not_switched",
            ..Reason::UpstreamProtocol.into()
        }
    }

    /// A request for which its cluster had no place.
    fn shed(shed: Shed) -> Self {
        let reason = match shed.cause {
            Cause::Deadline => Reason::Deadline,
            Cause::Limit | Cause::Class | Cause::QueueFull | Cause::QueueTimeout => Reason::Shed,
        };
        // Whose time is over will not come back.
        let retry_after = (reason == Reason::Shed).then_some(shed.retry_after);
        Self { code: shed.cause.code(), retry_after, ..reason.into() }
    }
}

impl From<Reason> for Local {
    fn from(reason: Reason) -> Self {
        Self {
            reason,
            status: reason.status(),
            sentence: reason.sentence(),
            code: "",
            field: None,
            retry_after: None,
            retried: None,
        }
    }
}

impl From<Refusal> for Local {
    fn from(refusal: Refusal) -> Self {
        let Refusal { status, code, detail } = refusal;
        Self {
            reason: Reason::DownstreamProtocol,
            status,
            sentence: detail,
            code,
            field: None,
            retry_after: None,
            retried: None,
        }
    }
}

impl From<Unfit> for Local {
    fn from(unfit: Unfit) -> Self {
        match unfit {
            Unfit::Refused(refusal) => refusal.into(),
            Unfit::Loop => Reason::Loop.into(),
        }
    }
}

impl Handler for ConnectionHandler {
    type Body = AnswerBody;

    async fn handle(&self, mut request: Request, interim: &dyn Interim) -> Response<AnswerBody> {
        let (listener, early) = self.settle(&mut request).await;
        let Request { mut head, body, started } = request;
        let tunnel = tunnel::Kind::of(&head);
        let caller = if tunnel.is_some() { Caller::Http } else { Caller::of(&head.headers) };
        let asked_head = head.method == Method::HEAD;
        let mut record = Record::new(Arc::clone(&listener), &self.origin.proxy.log, Some(&head), started, &self.origin);
        let mut rates = Rates::default();
        let answered = match early {
            Ok(early) => {
                record.early = early;
                self.answer(&listener, &mut head, body, interim, (&mut record, &mut rates), caller).await
            }
            Err(refusal) => Err(refusal.into()),
        };
        let mut answer = match answered {
            Ok(answer) => answer,
            Err(local) => self.local(&listener, &local, caller, &mut record),
        };
        if let Some(kind) = tunnel
            && answer.tunnel.is_none()
            && kind.is_misleading(&head, answer.response.head.status)
        {
            answer = self.local(&listener, &Local::not_switched(), caller, &mut record);
        }
        advertise::http3(&listener, &self.origin, &mut answer.response.head.headers);
        if !rates.is_empty() {
            rates.tell(&mut answer.response.head.headers);
        }
        if answer.permit.is_some() {
            record.watch.keep(head);
        }
        finish(answer, asked_head, caller, record)
    }

    fn drained_by(&self, drain: &Watch) {
        self.origin.drain.get_or_init(|| drain.clone());
    }

    fn refuse(&self, refusal: Refusal) -> Response<AnswerBody> {
        let listener = self.listener();
        let mut record = Record::new(Arc::clone(&listener), &self.origin.proxy.log, None, Instant::now(), &self.origin);
        let answer = self.local(&listener, &refusal.into(), Caller::Http, &mut record);
        finish(answer, false, Caller::Http, record)
    }
}

impl ConnectionHandler {
    async fn answer<'a>(
        &self,
        listener: &'a Arc<Listener>,
        head: &mut RequestHead,
        body: Body,
        interim: &dyn Interim,
        (record, rates): (&mut Record, &mut Rates<'a>),
        caller: Caller,
    ) -> Result<Answer, Local> {
        let tunnel = tunnel::Kind::of(head);
        if let Some(kind) = tunnel {
            kind.check(listener, head)?;
        }
        // What goes up a tunnel is no content of the request.
        let (body, up) = if tunnel.is_some() { (Body::Empty, body) } else { (body, Body::Empty) };
        prepare::normalise_path(head, listener)?;
        let claimed = criticality::claimed(&head.headers, listener.config.trust, &self.origin);
        with_random(|random| prepare::set_forwarding(head, listener, &self.origin, random))?;
        authn::remove_forged(listener, &mut head.headers);
        record.note_head(head);
        if !listener.rate_limits.is_empty() {
            let limits = &listener.rate_limits;
            self.limit(limits, listener, head, rates, record, Instant::now()).map_err(Local::over_limit)?;
        }
        let token = authn::authenticate(listener, head).map_err(|refusal| Local::unauthenticated(refusal, head))?;
        let (hit, cors) = {
            // Routing and authorization see one request, because there is only this one.
            let authority = prepare::host_of(head)?;
            let (path, query) = path::split(head.path.as_str());
            let route = RouteQuery {
                host: &authority.host,
                port: authority.port,
                path,
                query,
                method: &head.method,
                headers: &head.headers,
                is_grpc: caller == Caller::Grpc,
            };
            let hit = listener.table.find(&route).map(|hit| (&listener.rules[hit.rule], hit.prefix_len));
            let cors = hit.and_then(|(rule, _)| rule.cors.as_ref());
            let cors = cors.map(|cors| (cors, cors.decide(route.method, route.headers)));
            if let Some((_, CorsDecision::Preflight(_))) = cors {
                authorize_preflight(listener, &route, &self.origin, record)?;
            } else {
                authn::require(listener, &token).map_err(|refusal| Local::unauthenticated(refusal, head))?;
                authorize(listener, &route, &self.origin, claims(token.as_ref()), record)?;
            }
            (hit, cors)
        };
        let (rule, prefix_len) = hit.ok_or(Reason::NoRoute)?;
        let class = criticality::effective(claimed, rule.config.criticality);
        if self.origin.proxy.pressure().refuses() && class != Criticality::Critical {
            return Err(Local::out_of_memory());
        }
        record.watch.admit(head, token, record.started());
        let config = &rule.config;
        let grant = match cors {
            None => None,
            Some((cors, CorsDecision::Pass(grant))) => Some((cors, grant)),
            Some((_, CorsDecision::Preflight(headers))) => {
                record.note_route(rule, listener.route_metrics(rule, None), None);
                return Ok(preflight(headers));
            }
        };
        let (body, changes) = match &listener.external {
            Some(external) if config.external_authorization => {
                match Box::pin(self.ask(external, listener, head, body, interim, record)).await {
                    Ok(Passed { body, changes }) => (body, Some(Box::new(changes))),
                    Err(refused) => {
                        record.note_route(rule, listener.route_metrics(rule, None), None);
                        return refused_externally(refused, caller, record);
                    }
                }
            }
            _ => (body, None),
        };
        let affinity = Affinity::of(rule, head, listener.config.trust, &self.origin);
        let bound = affinity.as_ref().and_then(|affinity| affinity.backend(&rule.action));
        let backend = bound.or_else(|| rule.action.choose(with_random(Rng::next_u64)));
        let cluster = backend.map(|backend| &backend.cluster.config().name);
        record.note_route(rule, listener.route_metrics(rule, backend), cluster);
        let passed = match &rule.gates {
            Some(gates) => {
                let arrival = Arrival { listener, rule, cluster: cluster.map(|name| &**name), caller };
                self.pass(gates, arrival, head, rates, record).await
            }
            None => Ok(None),
        };
        let now = passed.as_ref().ok().copied().flatten();
        let mut answer = match &rule.action {
            _ if let Err(answer) = passed => *answer,
            Action::Redirect(redirect) => Answer::plain(filters::redirect(redirect, head, prefix_len)),
            Action::Direct(direct) => Answer::plain(filters::direct(direct)),
            Action::Forward(_) => {
                let backend = backend.ok_or(Reason::NoEndpoint)?;
                record.watch.before_filters(&config.filters, &head.headers);
                record.watch.before_filters(&backend.filters, &head.headers);
                filters::apply_to_request(&config.filters, head, prefix_len);
                let body = match tunnel {
                    Some(_) => up,
                    None => mirror::send_copies(&rule.mirrors, head, body, self.origin.caller),
                };
                filters::apply_to_request(&backend.filters, head, prefix_len);
                criticality::tell(&mut head.headers, claimed.or(config.criticality).and(Some(class)));
                let now = now.unwrap_or_else(Instant::now);
                let backend = (backend, affinity.as_deref());
                match self.forward(listener, rule, backend, class, head, body, interim, record, caller, now).await {
                    Ok(answer) => answer,
                    Err(local) => self.local(listener, &local, caller, record),
                }
            }
        };
        let headers = &mut answer.response.head.headers;
        if let Some((cors, grant)) = &grant {
            cors.apply(grant, headers);
        }
        filters::apply_to_response(&config.filters, headers);
        if let Some(changes) = changes {
            changes.apply_to_response(headers);
        }
        Ok(answer)
    }

    /// Asks an external authorizer, and changes the request as it says.
    async fn ask(
        &self,
        external: &External,
        listener: &Listener,
        head: &mut RequestHead,
        body: Body,
        interim: &dyn Interim,
        record: &mut Record,
    ) -> Result<Passed, Refused> {
        let began = SystemTime::now() - record.started().elapsed();
        let idle = Some(listener.config.limits.stream_idle_timeout).filter(|idle| !idle.is_zero());
        let surroundings = Surroundings { origin: &self.origin, began, idle };
        let watch = &mut record.watch;
        external::check(external, &surroundings, head, body, interim, |name, headers| watch.before_edit(name, headers))
            .await
    }

    #[expect(clippy::too_many_arguments, reason = "one call site; the parts are borrowed from there")]
    async fn forward(
        &self,
        listener: &Listener,
        rule: &Rule,
        (backend, affinity): (&Backend, Option<&Affinity<'_>>),
        class: Criticality,
        head: &mut RequestHead,
        body: Body,
        interim: &dyn Interim,
        record: &mut Record,
        caller: Caller,
        now: Instant,
    ) -> Result<Answer, Local> {
        let (whole, attempt_limit, carried) = time_limits(listener, rule, head, caller, record.started());
        let (limits, asked, body) = match tunnel::Kind::of(head) {
            None => (whole, None, body),
            Some(kind) => {
                let asked = Box::new(tunnel::Asked::enter(kind, body, listener, &self.origin)?);
                (whole.to_the_answer(), Some(asked), Body::Empty)
            }
        };
        let hint = affinity.map_or_else(PickHint::default, |affinity| affinity.hint(backend));
        let hint = PickHint { subset: backend.subset.as_ref(), ..hint };
        let applicant = Applicant { class, caller: self.origin.caller, deadline: limits.answer_until() };
        let passage = pass_breakers(rule, backend, now).map_err(|failure| noted(&failure, record))?;
        let place = backend.cluster.admit(applicant, now).await.map_err(Local::shed)?;
        let now = place.as_ref().map_or(now, Place::since);
        let hedging = backend.hedge_times.as_deref().zip(rule.config.hedge.as_ref());
        let hedging = hedging.filter(|_| asked.is_none()).map(|(times, hedge)| Hedging { hedge, times });
        let cluster = &backend.cluster;
        let tunnel = asked.as_ref().map(|asked| &asked.up);
        let early = record.early == Early::Marked;
        let rule = &rule.config;
        let exchange = Exchange { cluster, rule, limits, attempt_limit, carried, caller, hedging, hint, tunnel, early };
        let answered = match &asked {
            Some(asked) if asked.ends_here(listener) => tunnel::connect(&exchange, asked, record).await,
            _ => attempt::run(&exchange, head, body, interim, record, now).await,
        };
        let answered = match answered {
            Ok(refused) if early && refused.response.head.status == StatusCode::TOO_EARLY => {
                Box::pin(self.ask_again(refused, &exchange, head, interim, record)).await
            }
            answered => answered,
        };
        match answered {
            Ok(Answered { mut response, permit, at }) => {
                strip_hop_by_hop(&mut response.head.headers);
                record.grpc_status = match caller {
                    Caller::Grpc => local::grpc_status(&response.head.headers),
                    Caller::Http => None,
                };
                filters::apply_to_response(&backend.filters, &mut response.head.headers);
                if let Some(affinity) = affinity {
                    affinity.tell(&permit, backend, &mut response.head.headers);
                }
                let mut permit = permit.holding(place);
                if let Some(passage) = passage {
                    permit = permit.answering(passage, at);
                }
                let tunnel = asked.and_then(|asked| asked.agreed(response.head.status));
                Ok(Answer { response, permit: Some(permit), limits: whole, tunnel })
            }
            Err(failure) => {
                if let Some(passage) = passage {
                    tell_breaker(&passage, failure.reason, record.started());
                }
                Err(noted(&failure, record))
            }
        }
    }

    /// A local answer, noted in the record.
    pub(super) fn local(&self, listener: &Listener, local: &Local, caller: Caller, record: &mut Record) -> Answer {
        let Local { reason, status, sentence, code, ref field, retry_after, retried } = *local;
        record.reason = Some(reason);
        if !code.is_empty() {
            record.details = code;
            listener.metrics.refused(code);
        }
        if caller == Caller::Grpc {
            record.grpc_status = Some(reason.grpc_status());
        }
        let mut response = local::answer(caller, reason, status, sentence);
        if let Some(field) = field {
            let (name, value) = &**field;
            response.head.headers.insert(name, value.clone());
        }
        if let Some(after) = retry_after {
            local::come_back(&mut response.head.headers, caller, after);
        }
        if let Some(spent) = retried {
            attempt::marks::mark(&mut response.head.headers, spent);
        }
        Answer::plain(response)
    }
}

fn finish(answer: Answer, asked_head: bool, caller: Caller, mut record: Record) -> Response<AnswerBody> {
    let Answer { response: Response { head, body }, permit, limits, tunnel } = answer;
    record.status = head.status.as_u16();
    let bodiless = asked_head || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let body = match tunnel {
        Some(asked) => AnswerBody::Tunnel(TunnelBody::new(body, permit, record, *asked)),
        None => AnswerBody::Message(TrackedBody::new(body, bodiless, caller, permit, record, limits)),
    };
    Response { head, body }
}

/// No answer could be had: what is said of it, with its details in the record.
fn noted(failure: &Failure, record: &mut Record) -> Local {
    let &Failure { reason, details, status, retry_after, retried } = failure;
    if !details.is_empty() {
        record.details = details;
    }
    let status = status.unwrap_or_else(|| reason.status());
    Local { status, retry_after, retried, ..reason.into() }
}

/// Whether the breakers of the rule and of the cluster let a request through, before it waits for anything.
fn pass_breakers(rule: &Rule, backend: &Backend, now: Instant) -> Result<Option<Passage>, Failure> {
    if let Some(after) = backend.cluster.refuses(now) {
        return Err(Failure::open(BreakerScope::Cluster, after));
    }
    let Some(breaker) = &rule.breaker else { return Ok(None) };
    match with_random(|random| breaker.enter(random, now)) {
        Ok(passage) => Ok(Some(passage)),
        Err(after) => Err(Failure::open(BreakerScope::Rule, after)),
    }
}

/// A request that was given no answer, as evidence for the breaker of its rule.
pub(super) fn tell_breaker(passage: &Passage, reason: Reason, started: Instant) {
    let now = clock::now();
    match reason {
        Reason::ConnectFailure | Reason::UpstreamReset | Reason::UpstreamClosed | Reason::UpstreamProtocol => {
            passage.report(Outcome::Broken, now);
        }
        Reason::Timeout => passage.gave_up(now.saturating_duration_since(started), now),
        _ => {}
    }
}

/// The answer to a CORS preflight: it never reaches an upstream.
fn preflight(headers: HeaderMap) -> Answer {
    let head = ResponseHead { status: StatusCode::NO_CONTENT, headers };
    Answer::plain(Response { head, body: Body::Empty })
}

/// The answer to a request that an external authorizer did not let pass.
fn refused_externally(refused: Refused, caller: Caller, record: &mut Record) -> Result<Answer, Local> {
    let Denied { status, mut headers, body } = match refused {
        Refused::Denied(denied) => *denied,
        Refused::Unavailable { status, details } => {
            return Err(Local { status, code: details, ..Reason::ExternallyDenied.into() });
        }
        Refused::Body(reason) => return Err(reason.into()),
    };
    record.reason = Some(Reason::ExternallyDenied);
    record.details = "ext_authz_denied";
    let (status, body) = match caller {
        Caller::Http if body.is_empty() => (status, Body::Empty),
        Caller::Http => {
            headers.entry(CONTENT_TYPE).or_insert(HeaderValue::from_static("text/plain; charset=utf-8"));
            (status, Body::Full(body))
        }
        Caller::Grpc => {
            let grpc = external::grpc_status_of(status);
            record.grpc_status = Some(grpc);
            local::make_trailers_only(&mut headers, grpc, &body);
            (StatusCode::OK, Body::Empty)
        }
    };
    let response = Response { head: ResponseHead { status, headers }, body };
    Ok(Answer::plain(response))
}

/// The time limits of a request, and of one attempt, and what its head has of the fields about them.
pub(super) fn time_limits(
    listener: &Listener,
    rule: &Rule,
    head: &RequestHead,
    caller: Caller,
    started: Instant,
) -> (Limits, Option<Duration>, Carried) {
    let (exchange, says, carried) = exchange_of(caller, &head.headers);
    let limits = deadline::limits(&rule.config.timeouts, exchange, says, listener.config.limits.stream_idle_timeout);
    // A caller may name a time so long that it is none.
    let at = |limit: Option<Duration>| limit.and_then(|limit| started.checked_add(limit));
    let whole = Limits {
        deadline: at(limits.whole()),
        answer_by: at(limits.answer),
        answer: limits.default_answer(),
        idle: limits.idle.value,
    };
    (whole, limits.attempt.value, carried)
}

/// What its time limits depend on, and what the caller says of them. What cannot be read is ignored, as gRPC servers
/// do.
pub(super) fn exchange_of(caller: Caller, headers: &HeaderMap) -> (deadline::Exchange, deadline::Patience, Carried) {
    let exchange = match caller {
        Caller::Grpc => deadline::Exchange::Grpc,
        Caller::Http if accepts_events(headers) => deadline::Exchange::EventStream,
        Caller::Http => deadline::Exchange::Plain,
    };
    let (mut says, mut carried) = (deadline::Patience::default(), Carried::NONE);
    for (name, field) in headers.keys().filter_map(|name| Some((name, CarriedField::of(name)?))) {
        carried.add(field);
        let CarriedField::Time(field) = field else { continue };
        let Some(value) = headers.get(name).map(HeaderValue::as_bytes) else { continue };
        match field {
            TimeField::GrpcTimeout if caller == Caller::Grpc => says.grpc = parse_grpc_timeout(value).ok(),
            TimeField::GrpcTimeout => {}
            TimeField::Deadline => says.deadline = deadline::parse_millis(value),
            // Envoy writes no limit as none, or as zero.
            TimeField::Expected => says.answer = deadline::parse_millis(value).filter(|limit| !limit.is_zero()),
        }
    }
    (exchange, says, carried)
}

fn accepts_events(headers: &HeaderMap) -> bool {
    headers.get(ACCEPT).is_some_and(|value| memchr::memmem::find(value.as_bytes(), b"text/event-stream").is_some())
}
