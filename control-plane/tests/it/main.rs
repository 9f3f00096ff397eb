//! The control plane over its real ports: the API, the commands, the watched directory.

mod api;
mod cli;
mod directory;
mod kills;
mod proxies;
mod security;
mod support;
