mod closing;
mod proxy;
mod requests;
mod responses;
mod support;
mod upstream;
mod upstream_closing;
mod wire;
