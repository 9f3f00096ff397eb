//! What each path does.

pub(super) mod authority;
pub(super) mod changes;
mod convert;
pub(super) mod explain;
pub(super) mod history;
pub(super) mod objects;
pub(super) mod open;
pub(super) mod proxies;
pub(super) mod tokens;

pub(in crate::api) use convert::problem;
