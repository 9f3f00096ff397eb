//! What the scripts ask for.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Response};
use sha2::{Digest, Sha256};
use tokio::sync::Barrier;

use crate::support::h2_client::send_all;
use crate::support::{Call, H2Backend};

/// Answers the paths of `h3_client.py`.
pub async fn start() -> H2Backend {
    let gathering = Arc::new(Barrier::new(100));
    H2Backend::start(move |call| answer(call, Arc::clone(&gathering))).await
}

/// The digest of a body as text.
pub fn digest_of(body: &[u8]) -> String {
    hex(&Sha256::digest(body))
}

async fn answer(mut call: Call, gathering: Arc<Barrier>) {
    let path = call.path().to_owned();
    let ok = || Response::builder().status(200).body(()).expect("a valid head");
    match path.split('/').nth(1).unwrap_or_default() {
        "small" => small(call).await,
        "echo" => {
            let Ok(mut out) = call.respond(ok(), false) else { return };
            while let Some(Ok(data)) = call.stream.data().await {
                call.stream.flow_control().release_capacity(data.len()).ok();
                if send_all(&mut out, data, false).await.is_err() {
                    return;
                }
            }
            send_all(&mut out, Bytes::new(), true).await.ok();
        }
        "digest" => {
            let mut digest = Sha256::new();
            while let Some(data) = call.stream.data().await {
                let Ok(data) = data else { return };
                call.stream.flow_control().release_capacity(data.len()).ok();
                digest.update(&data);
            }
            call.reply(200, hex(&digest.finalize())).await;
        }
        "large" => {
            let mut left: usize = path.rsplit('/').next().and_then(|size| size.parse().ok()).expect("a size");
            let Ok(mut out) = call.respond(ok(), false) else { return };
            let piece = Bytes::from(vec![b'x'; 64 * 1024]);
            while left > 0 {
                let data = piece.slice(..piece.len().min(left));
                left -= data.len();
                if send_all(&mut out, data, left == 0).await.is_err() {
                    return;
                }
            }
        }
        "gathered" => {
            if let Ok((body, _)) = call.body().await {
                gathering.wait().await;
                call.reply(200, body).await;
            }
        }
        "trailers" => {
            let Ok((body, trailers)) = call.body().await else { return };
            let Ok(mut out) = call.respond(ok(), false) else { return };
            let sum = trailers.and_then(|fields| fields.get("x-sum").cloned());
            send_all(&mut out, body, false).await.ok();
            let sum = sum.unwrap_or_else(|| "none".parse().expect("a value"));
            out.send_trailers(HeaderMap::from_iter([(http::HeaderName::from_static("x-sum-seen"), sum)])).ok();
        }
        "endless" => {
            let Ok(mut out) = call.respond(ok(), false) else { return };
            send_all(&mut out, Bytes::from_static(b"y"), false).await.ok();
            call.reset_while_sending(&mut out).await;
        }
        "silent" => {
            call.reset_by_caller().await;
        }
        "swallow" => {
            call.body().await.ok();
        }
        "broken" => {
            let Ok(mut out) = call.respond(ok(), false) else { return };
            send_all(&mut out, Bytes::from_static(b"y"), false).await.ok();
            // The caller has seen that.
            call.stream.data().await;
            out.send_reset(h2::Reason::INTERNAL_ERROR);
        }
        _ => call.reply(404, "").await,
    }
}

async fn small(mut call: Call) {
    let asked = call.head.headers().get("x-asked").cloned();
    let target = call.head.uri().path_and_query().map_or("", |target| target.as_str()).to_owned();
    let head = Response::builder()
        .header("content-length", 5)
        .header("x-method", call.head.method().as_str())
        .header("x-target", target)
        .header("x-asked-seen", asked.unwrap_or_else(|| "no".parse().expect("a value")))
        .body(())
        .expect("a valid head");
    let head_only = call.head.method() == http::Method::HEAD;
    if let Ok(mut out) = call.respond(head, head_only)
        && !head_only
    {
        send_all(&mut out, Bytes::from_static(b"small"), true).await.ok();
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
