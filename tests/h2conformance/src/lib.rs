//! Conformance cases for an HTTP/2 server, by section of RFC 9113 (HTTP/2) and RFC 7541 (HPACK).
//!
//! Each case opens its own cleartext connection with prior knowledge, writes exact bytes, and knows exactly which frames, error
//! codes or answers the RFC demands. Requirements with SHOULD are held like those with MUST. The cases cover the ground of the
//! public `h2spec` tool ([`Scope::H2spec`]) and more ([`Scope::Wider`]); where RFC 9113 dropped a requirement of RFC 7540 which
//! the tool still checks, the case says so.
//!
//! Instead of the error code that a rule names, PROTOCOL_ERROR and INTERNAL_ERROR are accepted, because RFC 9113 section 5.4 lets
//! an endpoint always use a generic code; so is the end of the connection without GOAWAY, which can be lost with it.
//!
//! Frames are built and read here by hand on purpose: a library that refuses to send an illegal frame, or a bug shared with
//! the server under test, would hide what is looked for.
//!
//! ```no_run
//! # async fn check() {
//! use outrigger_h2conformance::{Target, run_all};
//! let target = Target::new("127.0.0.1:8080".parse().expect("an address"));
//! for result in run_all(&target).await {
//!     println!("{result}");
//! }
//! # }
//! ```

mod cases;
mod client;
mod frame;
mod hpack;
mod script;
mod seen;

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use script::Script;

/// The server under test.
///
/// It must answer `GET`, `HEAD` and `POST` on [`path`](Self::path) with status 200 and a body of 16 to 30,000 bytes, and must
/// not answer a `POST` before it has read it to its end: many cases act on a request that is still open.
#[derive(Debug, Clone)]
pub struct Target {
    /// Where it listens.
    pub address: SocketAddr,
    /// Sent as `:authority`.
    pub authority: String,
    /// Sent as `:path`.
    pub path: String,
    /// How long an expected event may take. A server that conforms never makes a case wait for it.
    pub patience: Duration,
}

impl Target {
    /// A server that answers on `/` for any host, with 3 s of patience.
    #[must_use]
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            authority: "conformance.test".to_owned(),
            path: "/".to_owned(),
            patience: Duration::from_secs(3),
        }
    }
}

/// Where a case comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The public tool h2spec 2.6 checks this rule too.
    H2spec,
    /// It does not; RFC 9113 or RFC 7541 demands it nevertheless.
    Wider,
}

/// One case: a rule and the exchange that shows whether it is kept.
#[derive(Debug)]
pub struct Case {
    name: String,
    scope: Scope,
    rule: &'static str,
    script: Script,
}

impl Case {
    /// `SECTION/NUMBER`, for example `6.9.1/2` (RFC 9113) or `hpack/5.2/1` (RFC 7541).
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it comes from.
    #[must_use]
    pub fn scope(&self) -> Scope {
        self.scope
    }

    /// What the server must do.
    #[must_use]
    pub fn rule(&self) -> &'static str {
        self.rule
    }

    /// Plays the case against `target`.
    ///
    /// Cancel safe: dropping the future closes its connection.
    pub async fn run(&self, target: &Target) -> CaseResult {
        let outcome = match client::play(&self.script, target).await {
            Ok(()) => Outcome::Passed,
            Err(client::Failure::Broken(why)) => Outcome::Failed(why),
            Err(client::Failure::NotApplicable(why)) => Outcome::Skipped(why),
        };
        CaseResult { name: self.name.clone(), scope: self.scope, rule: self.rule, outcome }
    }
}

/// What came of a case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaseResult {
    /// The case's name.
    pub name: String,
    /// Where the case comes from.
    pub scope: Scope,
    /// What the server must do.
    pub rule: &'static str,
    /// What it did.
    pub outcome: Outcome,
}

/// How a case ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The rule was kept.
    Passed,
    /// It was not: what was expected, and what was seen instead.
    Failed(String),
    /// The server's own settings leave nothing to check, for example no limit on concurrent streams.
    Skipped(String),
}

impl CaseResult {
    /// Whether the rule was kept.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.outcome == Outcome::Passed
    }
}

impl fmt::Display for CaseResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, rule, outcome, .. } = self;
        match outcome {
            Outcome::Passed => write!(f, "PASS  {name:<12} {rule}"),
            Outcome::Failed(why) => write!(f, "FAIL  {name:<12} {rule}\n      {why}"),
            Outcome::Skipped(why) => write!(f, "SKIP  {name:<12} {rule}\n      {why}"),
        }
    }
}

/// All cases, built for `target`.
#[must_use]
pub fn all(target: &Target) -> Vec<Case> {
    cases::all(target)
}

/// Plays every case, one after another.
///
/// Cancel safe: dropping the future stops at the case under way.
pub async fn run_all(target: &Target) -> Vec<CaseResult> {
    let mut results = Vec::new();
    for case in all(target) {
        results.push(case.run(target).await);
    }
    results
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// A server that never says a word breaks every rule: no case passes by default.
    #[tokio::test]
    async fn silence_passes_no_case() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let mut target = Target::new(listener.local_addr().expect("address"));
        target.patience = Duration::from_millis(10);
        let mut held = Vec::new();
        let results = tokio::select! {
            results = run_all(&target) => results,
            () = async { loop { held.push(listener.accept().await.expect("accept")) } } => unreachable!(),
        };
        let passed: Vec<_> = results.iter().filter(|result| result.passed()).collect();
        assert_eq!(passed, Vec::<&CaseResult>::new());
        assert!(results.len() > 200, "{} cases", results.len());
    }

    /// A server that takes connections and drops them opens none properly: only refusals of the connection itself may pass.
    #[tokio::test]
    async fn hanging_up_passes_only_what_must_end_the_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let target = Target::new(listener.local_addr().expect("address"));
        let results = tokio::select! {
            results = run_all(&target) => results,
            () = async { loop { drop(listener.accept().await.expect("accept")) } } => unreachable!(),
        };
        let passed: Vec<_> = results.iter().filter(|result| result.passed()).map(|result| &*result.name).collect();
        assert_eq!(passed, ["3.4/3", "3.4/4", "3.4/5"]);
    }
}
