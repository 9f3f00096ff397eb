//! Upgrades, CONNECT and what tunnels may do.

use crate::support::websocket::{self, BINARY, CONTINUATION, EchoServer, Ending, Frame, PING, PONG, TEXT, WebSocket};
use crate::support::{Config, H1Client, Proxy};

mod handshake;
mod matrix;
