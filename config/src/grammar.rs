//! Text with a grammar of its own, for those who read it elsewhere than in a configuration file. Errors say what is wrong
//! and what would be right.

use std::sync::Arc;
use std::time::SystemTime;

use crate::model::{Cidr, HostPattern, Share};
use crate::validate::{self, Wrong};

/// A name that becomes a label in metrics and a word in logs.
///
/// # Errors
/// It is empty, too long, or has a character that names do not have.
pub fn name(text: &str) -> Result<Arc<str>, String> {
    validate::name(text).map(|()| text.into()).map_err(said)
}

/// A hostname, `*.suffix` or `*`, without port.
///
/// # Errors
/// It is none.
pub fn host_pattern(text: &str) -> Result<HostPattern, String> {
    validate::host_pattern(text).map_err(said)
}

/// A hostname as a virtual host has it: as [`host_pattern`], and an exact one may have a port.
///
/// # Errors
/// It is none.
pub fn virtual_host(text: &str) -> Result<HostPattern, String> {
    validate::virtual_host(text).map_err(said)
}

/// A host without port.
///
/// # Errors
/// It is none.
pub fn host(text: &str) -> Result<Arc<str>, String> {
    validate::host(text).map_err(said)
}

/// A path in the normal form in which requests are compared.
///
/// # Errors
/// It is none, or one that no request can have.
pub fn path(text: &str) -> Result<String, String> {
    validate::path(text).map_err(said)
}

/// The name of a protocol that may be upgraded to, in lower case.
///
/// # Errors
/// It is none, or one that is never upgraded to.
pub fn upgrade(text: &str) -> Result<Arc<str>, String> {
    validate::upgrade(text).map_err(said)
}

/// A range of addresses.
///
/// # Errors
/// It is none.
pub fn cidr(text: &str) -> Result<Cidr, String> {
    validate::cidr(text).map_err(said)
}

/// A moment, as RFC 3339 writes it.
///
/// # Errors
/// It is none, or one before 1970.
pub fn moment(text: &str) -> Result<SystemTime, String> {
    validate::timestamp(text).map_err(said)
}

/// A moment as a configuration writes it, in UTC.
#[must_use]
pub fn show_moment(moment: SystemTime) -> String {
    validate::show_timestamp(moment)
}

/// A share as a configuration writes it, in percent.
#[must_use]
pub fn show_share(share: Share) -> String {
    validate::show_decimal(share.0.into(), 4)
}

/// The name of a gRPC status beside OK.
#[must_use]
pub fn grpc_status(code: u8) -> Option<&'static str> {
    crate::words::grpc_statuses().find(|(_, other)| *other == code).map(|(name, _)| name)
}

fn said(Wrong { message, fix }: Wrong) -> String {
    format!("{message}; {fix}")
}
