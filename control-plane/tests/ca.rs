//! The authority over real sockets and real TLS: who gets a certificate, who does not, and what they are told.

#[path = "ca/accounts.rs"]
mod accounts;
#[path = "ca/doors.rs"]
mod doors;
#[path = "ca/joining.rs"]
mod joining;
#[path = "ca/renewal.rs"]
mod renewal;
#[path = "ca/support.rs"]
#[allow(unreachable_pub, reason = "what is for all of these tests is public in its file")]
mod support;
