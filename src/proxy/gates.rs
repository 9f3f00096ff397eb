//! What a request must pass between its authorization and its upstream: injected faults, rate limits that are kept
//! here, and those that a service keeps.

use std::time::Instant;

use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};

use super::ConnectionHandler;
use super::limiting::{Asking, OverLimit, Rates};
use super::local::Caller;
use super::pipeline::{Answer, Local};
use super::reason::Reason;
use super::record::Record;
use super::rls::{self, Passed, Refused};
use crate::codec::{Body, RequestHead};
use crate::snapshot::{Gates, GlobalLimits, Listener, LocalLimit, Rule};

/// A request at the gates of its rule.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arrival<'a> {
    pub(super) listener: &'a Listener,
    pub(super) rule: &'a Rule,
    /// Where it would go.
    pub(super) cluster: Option<&'a str>,
    pub(super) caller: Caller,
}

impl ConnectionHandler {
    /// Lets a request pass, changed as a rate limit service says, or answers it. When it passed, where the clock was read
    /// for that and nothing was waited for since.
    ///
    /// # Errors
    /// The answer to a request that may not pass.
    pub(super) async fn pass<'a>(
        &self,
        gates: &'a Gates,
        arrival: Arrival<'_>,
        head: &mut RequestHead,
        rates: &mut Rates<'a>,
        record: &mut Record,
    ) -> Result<Option<Instant>, Box<Answer>> {
        let Gates { faults, local, global } = gates;
        self.suffer(faults, arrival, head, record).await?;
        let now = (!local.is_empty()).then(Instant::now);
        if let Some(now) = now
            && let Err(over) = self.limit(local, arrival.listener, head, rates, record, now)
        {
            return Err(Box::new(self.local(arrival.listener, &Local::over_limit(over), arrival.caller, record)));
        }
        for limits in global {
            if let Err(answer) = Box::pin(self.ask_service(limits, arrival, head, rates, record)).await {
                rates.give_back();
                return Err(answer);
            }
        }
        Ok(now.filter(|_| global.is_empty()))
    }

    /// Takes a request from rate limits that are kept here.
    pub(super) fn limit<'a>(
        &self,
        limits: &'a [LocalLimit],
        listener: &Listener,
        head: &RequestHead,
        rates: &mut Rates<'a>,
        record: &mut Record,
        now: Instant,
    ) -> Result<(), OverLimit> {
        let asking = Asking { head, origin: &self.origin, trust: listener.config.trust };
        let limited = rates.take(limits, asking, now);
        if limited.is_err() {
            record.details = LOCAL;
        }
        limited
    }

    async fn ask_service(
        &self,
        limits: &GlobalLimits,
        arrival: Arrival<'_>,
        head: &mut RequestHead,
        rates: &mut Rates<'_>,
        record: &mut Record,
    ) -> Result<(), Box<Answer>> {
        let Arrival { listener, rule: _, cluster, caller } = arrival;
        let asking = Asking { head, origin: &self.origin, trust: listener.config.trust };
        match rls::ask(limits, asking, cluster).await {
            Ok(Passed { request, response }) => {
                for (name, value) in request {
                    record.watch.before_edit(&name, &head.headers);
                    head.headers.append(name, value);
                }
                response.into_iter().for_each(|(name, value)| rates.push(name, value));
                Ok(())
            }
            Err(Refused::OverLimit { after, response, body }) => {
                record.details = GLOBAL;
                let local = Local { retry_after: after, ..Reason::RateLimited.into() };
                let mut answer = self.local(listener, &local, caller, record);
                let headers = &mut answer.response.head.headers;
                headers.insert(rls::RATE_LIMITED, HeaderValue::from_static("true"));
                for (name, value) in response {
                    match name {
                        RETRY_AFTER => drop(headers.insert(name, value)),
                        // Of a gRPC answer it says that it is one.
                        CONTENT_TYPE if caller == Caller::Grpc => {}
                        CONTENT_TYPE => drop(headers.insert(name, value)),
                        _ => drop(headers.append(name, value)),
                    }
                }
                if caller == Caller::Http && !body.is_empty() {
                    answer.response.body = Body::Full(body);
                }
                Err(Box::new(answer))
            }
            Err(Refused::Failed(details)) => {
                record.details = details;
                Err(Box::new(self.local(listener, &Reason::RateLimitService.into(), caller, record)))
            }
        }
    }
}

const LOCAL: &str = "local_rate_limit";
const GLOBAL: &str = "global_rate_limit";
