//! Black-box tests: the real binary, real sockets, one file a subject.
//!
//! `OUTRIGGER_FULL=1` runs the long forms (2 GiB streams, 1,000 reloads in 60 s).
//! `OUTRIGGER_AUTOBAHN=9.*,12.1.*` chooses other cases of the Autobahn suite.
//! `OUTRIGGER_BIN` points the tests at another build of the proxy.
#![allow(
    unreachable_pub,
    dead_code,
    missing_docs,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test binary exports nothing, and failing loudly is its work"
)]

mod admin;
mod authorization;
mod autobahn;
mod backends;
mod bad_endpoint;
mod balance;
mod balancing;
mod breakers;
mod browser;
mod cancel;
mod cli;
#[cfg(feature = "dev")]
mod control;
mod databases;
mod deadlines;
mod descriptors;
#[cfg(feature = "dev")]
mod dev;
mod drain;
mod ext_authz;
mod fault_injection;
mod faults;
mod floods;
mod forwarding;
mod global_limits;
mod grpc;
mod grpc_retries;
mod h2_conformance;
mod h3_clients;
mod health;
mod hedging;
mod held;
mod http1;
mod http2;
mod http3;
mod http3_upstream;
mod idle_tunnels;
mod interception;
mod interop;
mod jwt;
mod layering;
mod loss;
mod matrix;
mod mesh;
mod mirroring;
mod mutations;
mod nginx;
mod overload;
mod proxy_protocol;
mod rate_limits;
mod rehearsal;
mod reload;
mod retries;
mod retry_rules;
mod retry_storm;
mod rotation;
mod routing;
mod smuggling;
mod stream;
mod support;
mod tcp;
mod tls;
mod upgrades;
mod udp;
mod websocket_matrix;
mod xds;
