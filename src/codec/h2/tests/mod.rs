mod client;
mod server;
mod support;
