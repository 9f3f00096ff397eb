//! Text with a grammar of its own, for those who read it elsewhere than in a configuration file. Errors say what is wrong
//! and what would be right.

use std::sync::Arc;

use crate::model::{Cidr, HostPattern};
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

/// A range of addresses.
///
/// # Errors
/// It is none.
pub fn cidr(text: &str) -> Result<Cidr, String> {
    validate::cidr(text).map_err(said)
}

fn said(Wrong { message, fix }: Wrong) -> String {
    format!("{message}; {fix}")
}
