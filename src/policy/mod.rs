//! Layer 1: decisions. Everything here is pure: no await, no clock, no socket. `now` is an argument, random
//! numbers come from a caller-owned state, and live counters are atomics that the caller places.
//!
//! In the order in which a request meets them:
//!
//! * [`intercept`]: which listener serves a redirected connection
//! * [`path`] and [`host`]: the normal forms that everything after reads
//! * [`forwarding`]: what is believed of forwarding headers, and who the client is
//! * [`jwt`]: whether its tokens are believed; [`query`]: where they may be as well
//! * [`route`]: which rule a request belongs to
//! * [`authz`]: whether its caller may make it
//! * [`rate`]: whether too many of its kind came already
//! * [`cors`]: what scripts of other origins may do
//! * [`fault`]: what is done to it on purpose
//! * [`weighted`]: which of the rule's backends it goes to
//! * [`deadline`]: its time limits
//! * [`session`] and [`hash`]: what binds it to an endpoint, by [`cookie`]s and other things
//! * [`concurrency`], [`queue`], [`overload`]: how many requests a cluster is given at a time, whose turn it is, and what is
//!   given up first
//! * [`balance`] over [`ewma`]: which endpoint of the backend it goes to
//! * [`breaker`]: whether it is asked at all
//! * [`alternative`]: whether it is asked over HTTP/3; [`silence`]: when that is doubted
//! * [`health`] and [`outlier`]: which endpoints are passed over
//! * [`quantile`]: what answers took lately
//! * [`retry`] within [`budget`]: whether a failed attempt is repeated
//! * [`hedge`]: when another is started beside one that takes long
//!
//! [`rng`] is the random number generator that each worker keeps.

pub mod alternative;
pub mod authz;
pub mod balance;
pub mod breaker;
pub mod budget;
pub mod concurrency;
pub mod cookie;
pub mod cors;
pub mod deadline;
pub mod ewma;
pub mod fault;
pub mod forwarding;
pub mod hedge;
pub mod hash;
pub mod health;
pub mod host;
pub mod intercept;
pub mod jwt;
pub mod outlier;
pub mod overload;
pub mod path;
pub mod quantile;
pub mod query;
pub mod queue;
pub mod rate;
pub mod retry;
pub mod rng;
pub mod route;
pub mod session;
pub mod silence;
pub mod weighted;
