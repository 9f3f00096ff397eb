mod closing;
mod proxy;
mod requests;
mod responses;
mod sizes;
pub(in crate::codec) mod support;
mod upstream;
mod upstream_closing;
mod wire;
