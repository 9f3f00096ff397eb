//! One stream: waits for requests, changes and time, and sends what its session says.
//!
//! A response is made when there is room for it, and not before: a client that reads slowly costs what is on its way
//! to it, and gets the newest state when it reads on.

use std::hash::{BuildHasher as _, RandomState};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use outrigger_xds::envoy::config::core::v3::Node as NodeMessage;
use parking_lot::Mutex;
use tokio::sync::mpsc::{self, Permit};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Code, Status};

use super::Ads;
use super::limits::{COALESCE, FIRST_REQUEST, STALL, STREAM_AGE};
use super::session::{Now, Request, Scope, Session};
use super::wire::{Wire, clip, form_of, user_agent};
use crate::fleet::{Answer, Change, Client, Connection, DenialCause, Live, Node, ProxyState, Report, ResourceSet};
use crate::peer::{Peer, WorkloadKey};

/// Serves one stream to its end. `peer` has been let in, and `workload` is its own.
pub(super) async fn serve<W: Wire>(
    ads: Ads,
    (peer, workload): (Peer, WorkloadKey),
    requests: impl Stream<Item = Result<W::Request, Status>> + Send,
    responses: mpsc::Sender<Result<W::Response, Status>>,
) {
    let Err(end) = run::<W>(&ads, &peer, workload, pin!(requests), &responses).await else { return };
    match end {
        End::Gone => {}
        End::Denied(cause, status) => {
            ads.fleet.denied(Some(&peer), cause, status.message());
            say(&responses, status).await;
        }
        End::Closed(status) => say(&responses, status).await,
    }
}

/// Why a stream has ended, when it was not its time.
enum End {
    /// The client has left.
    Gone,
    /// For something that the client is or does.
    Denied(DenialCause, Status),
    /// For a reason of ours.
    Closed(Status),
}

/// Tells the client why, if it still takes anything.
async fn say<T>(responses: &mpsc::Sender<Result<T, Status>>, status: Status) {
    const LAST_WORD: Duration = Duration::from_secs(1);
    if let Ok(Ok(room)) = timeout(LAST_WORD, responses.reserve()).await {
        room.send(Err(status));
    }
}

async fn run<W: Wire>(
    ads: &Ads,
    peer: &Peer,
    workload: WorkloadKey,
    mut requests: std::pin::Pin<&mut (impl Stream<Item = Result<W::Request, Status>> + Send)>,
    responses: &mpsc::Sender<Result<W::Response, Status>>,
) -> Result<(), End> {
    let mut stopped = pin!(stopped(ads.stop.clone()));
    let first = tokio::select! {
        first = timeout(FIRST_REQUEST, requests.next()) => first,
        () = &mut stopped => return Err(going_away()),
        () = responses.closed() => return Err(End::Gone),
    };
    let Ok(first) = first else {
        return Err(End::Denied(DenialCause::Stalled, Status::deadline_exceeded("the stream has made no request")));
    };
    let Some(first) = first else { return Ok(()) };
    let first = first.map_err(|status| bad_request(&status))?;

    let nobody = NodeMessage::default();
    let node = W::node(&first).unwrap_or(&nobody);
    let form = form_of(&node.user_agent_name);
    let client = Client { workload, spiffe_id: peer.id.as_ref().map(|id| id.as_str().into()), form };
    let node = Node {
        id: clip(node.id.clone()),
        user_agent: user_agent(node),
        protocol: W::PROTOCOL,
        address: Some(peer.address),
    };

    // Looked at before the set is taken: a change between the two is seen twice rather than never.
    let mut changes = ads.source.changes();
    let seen = *changes.borrow_and_update();
    let set = ads.source.resources(&client).ok_or_else(|| not_registered(&client))?;
    let shared = Arc::new(Shared(Mutex::new(Session::new(W::PROTOCOL, form, &set))));
    let entered = ads.fleet.connect(client.clone(), node.clone(), Arc::clone(&shared) as Arc<dyn Live>);
    let connection = entered.map_err(|reason| End::Denied(DenialCause::TooMany, Status::resource_exhausted(reason)))?;
    tracing::info!(workload = %client.workload, node = node.id, user_agent = node.user_agent, "proxy connected");

    let mut stream =
        Running { ads, client, node: node.id, shared, set, seen, coalesce_at: None, _connection: connection };
    stream.request(W::read(first))?;
    let ends_at = Instant::now() + age();
    // The room for the next response, when there is some, and since when there is none.
    let mut room: Option<Permit<'_, _>> = None;
    let mut full_since = Instant::now();
    loop {
        let now = Instant::now();
        if let Some(permit) = room.take() {
            match stream.shared.0.lock().next(now) {
                Some(push) => {
                    permit.send(Ok(W::write(push)));
                    full_since = now;
                }
                None => room = Some(permit),
            }
        }
        let stall_at = room.is_none().then_some(full_since + STALL);
        let wakes_at = stream.shared.0.lock().wakes_at(now);
        let deadline = [stall_at, wakes_at, stream.coalesce_at].into_iter().flatten().chain([ends_at]).min();
        tokio::select! {
            request = requests.next() => match request {
                Some(Ok(request)) => stream.request(W::read(request))?,
                Some(Err(status)) => return Err(bad_request(&status)),
                None => return Ok(()),
            },
            changed = changes.changed() => {
                changed.map_err(|_| going_away())?;
                stream.changed(&mut changes)?;
            }
            () = &mut stopped => return Err(going_away()),
            permit = responses.reserve(), if room.is_none() => room = Some(permit.map_err(|_| End::Gone)?),
            () = responses.closed() => return Err(End::Gone),
            () = sleep_until(deadline.unwrap_or(ends_at)) => {
                let now = Instant::now();
                if now >= ends_at {
                    return Ok(());
                }
                if room.is_none() && now >= full_since + STALL {
                    return Err(stalled(&format!("takes nothing for {} s", STALL.as_secs())));
                }
                stream.time_passed(now)?;
            }
        }
    }
}

/// What a stream needs to know between two waits.
struct Running<'a> {
    ads: &'a Ads,
    client: Client,
    node: String,
    shared: Arc<Shared>,
    set: Arc<ResourceSet>,
    seen: Change,
    /// When the changes that are gathered are taken over.
    coalesce_at: Option<Instant>,
    _connection: Connection,
}

impl Running<'_> {
    /// Kinds that are not served get no answer.
    fn request(&self, request: Option<Request>) -> Result<(), End> {
        let Some(request) = request else { return Ok(()) };
        let now = Now::read();
        let answered = self.shared.0.lock().request(request, now).map_err(|violation| {
            End::Denied(DenialCause::TooMany, Status::resource_exhausted(violation.to_string()))
        })?;
        if let Some(answered) = answered {
            self.ads.fleet.recorder().answered(Answer {
                workload: self.client.workload.clone(),
                node: self.node.clone(),
                form: self.client.form,
                kind: answered.kind,
                generation: answered.generation,
                version: answered.version.to_string(),
                refusals: answered.refusals,
                at: now.wall,
            });
        }
        self.ads.fleet.progressed();
        Ok(())
    }

    /// Endpoints are taken over at once, all else when it has been gathered.
    fn changed(&mut self, changes: &mut watch::Receiver<Change>) -> Result<(), End> {
        let change = *changes.borrow_and_update();
        if change.others != self.seen.others {
            self.coalesce_at.get_or_insert_with(|| Instant::now() + COALESCE);
        }
        if change.endpoints != self.seen.endpoints {
            // With nothing gathered beside them they are all that the generation changes.
            let scope = if self.coalesce_at.is_some() { Scope::Endpoints } else { Scope::All };
            self.take_over(scope)?;
        }
        self.seen = change;
        Ok(())
    }

    fn time_passed(&mut self, now: Instant) -> Result<(), End> {
        if self.coalesce_at.is_some_and(|at| now >= at) {
            self.coalesce_at = None;
            self.take_over(Scope::All)?;
        }
        if let Some(kind) = self.shared.0.lock().unanswered(now) {
            return Err(stalled(&format!("has not answered a response of {}", kind.type_url())));
        }
        self.shared.0.lock().note_progress(now);
        self.ads.fleet.progressed();
        Ok(())
    }

    fn take_over(&mut self, scope: Scope) -> Result<(), End> {
        let set = self.ads.source.resources(&self.client).ok_or_else(|| not_registered(&self.client))?;
        // A set whose endpoints alone were taken over is looked at again.
        if !Arc::ptr_eq(&set, &self.set) {
            self.shared.0.lock().retarget(&set, scope, Instant::now());
            if scope == Scope::All {
                self.set = set;
            }
            self.ads.fleet.progressed();
        }
        Ok(())
    }
}

struct Shared(Mutex<Session>);

impl Live for Shared {
    fn progress(&self) -> (ProxyState, u64, Option<u64>) {
        self.0.lock().progress(Instant::now())
    }

    fn report(&self) -> Report {
        self.0.lock().report(Instant::now())
    }
}

/// How long a stream lasts: a tenth more or less than [`STREAM_AGE`].
fn age() -> Duration {
    // In per mille; randomness that needs no more than this.
    let chance = u32::try_from(RandomState::new().hash_one(()) % 200).unwrap_or_default();
    STREAM_AGE * (900 + chance) / 1000
}

fn not_registered(client: &Client) -> End {
    let identity = client.spiffe_id.as_deref().unwrap_or("without identity");
    let message = format!("workload {} is not registered with identity {identity}", client.workload);
    End::Denied(DenialCause::NotRegistered, Status::permission_denied(message))
}

async fn stopped(stop: Option<watch::Receiver<bool>>) {
    match stop {
        // Without a sender nobody can stop us any more: the same as a stop.
        Some(mut stop) => _ = stop.wait_for(|stop| *stop).await,
        None => std::future::pending().await,
    }
}

fn going_away() -> End {
    End::Closed(Status::unavailable("the control plane is going away"))
}

fn stalled(what: &str) -> End {
    End::Denied(DenialCause::Stalled, Status::deadline_exceeded(format!("the client {what}; it may come again")))
}

/// Tells what the client has sent from what has happened to the connection.
fn bad_request(status: &Status) -> End {
    use std::error::Error as _;
    if status.source().is_some() {
        return End::Gone;
    }
    match status.code() {
        Code::OutOfRange | Code::ResourceExhausted => {
            End::Denied(DenialCause::TooLarge, Status::resource_exhausted(status.message()))
        }
        Code::Internal | Code::InvalidArgument | Code::Unimplemented => {
            let message = format!("the request cannot be read: {}", status.message());
            End::Denied(DenialCause::Malformed, Status::invalid_argument(message))
        }
        _ => End::Gone,
    }
}

#[cfg(test)]
mod tests;
