mod closing;
mod errors;
mod requests;
mod responses;
mod support;
mod tunnels;
mod upstream;
