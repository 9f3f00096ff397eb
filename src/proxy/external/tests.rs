use super::wire::{HeaderOption, HttpStatus, OkResponse, Status};
use super::*;

fn answer(code: i32, http_response: Option<HttpResponse>) -> Result<CheckResponse, CallError> {
    Ok(CheckResponse { status: Some(Status { code }), http_response })
}

fn denied(code: i32, body: &str) -> HttpResponse {
    HttpResponse::Denied(DeniedResponse { status: Some(HttpStatus { code }), headers: Vec::new(), body: body.into() })
}

fn verdict(judged: &Judged) -> (&'static str, u16) {
    match judged {
        Judged::Pass(_) => ("pass", 0),
        Judged::Deny(denied) => ("deny", denied.status.as_u16()),
        Judged::Failed { details, status } => (details, status.map_or(0, |status| status.as_u16())),
    }
}

#[test]
fn only_a_clear_yes_lets_pass() {
    let ok = || HttpResponse::Ok(OkResponse::default());
    let unclear = || HttpResponse::Ok(OkResponse { headers: vec![HeaderOption::default()], ..OkResponse::default() });
    let error = |code| HttpResponse::Error(DeniedResponse { status: Some(HttpStatus { code }), ..Default::default() });
    for (answer, expected) in [
        (answer(0, None), ("pass", 0)),
        (Ok(CheckResponse::default()), ("pass", 0)),
        (answer(0, Some(ok())), ("pass", 0)),
        (answer(7, None), ("deny", 403)),
        (answer(7, Some(ok())), ("deny", 403)),
        (answer(16, Some(denied(401, ""))), ("deny", 401)),
        (answer(-1, Some(denied(0, ""))), ("deny", 403)),
        (answer(7, Some(denied(101, ""))), ("deny", 403)),
        (answer(7, Some(denied(99_999, ""))), ("deny", 403)),
        (answer(7, Some(denied(302, ""))), ("deny", 302)),
        (answer(0, Some(denied(403, ""))), (UNUSABLE, 0)),
        (answer(0, Some(unclear())), (UNUSABLE, 0)),
        (answer(0, Some(error(500))), (UNUSABLE, 0)),
        (answer(13, Some(error(503))), (ERROR, 503)),
        (answer(13, Some(error(0))), (ERROR, 0)),
        (Err(CallError::Timeout), (TIMEOUT, 0)),
        (Err(CallError::Failed), (ERROR, 0)),
    ] {
        let shown = format!("{answer:?}");
        assert_eq!(verdict(&judge(answer)), expected, "{shown}");
    }
}

#[test]
fn an_answer_without_content_has_none() {
    let Ok(denied) =
        deny(DeniedResponse { status: Some(HttpStatus { code: 204 }), headers: Vec::new(), body: "text".into() })
    else {
        panic!("it is usable")
    };
    assert!(denied.body.is_empty());
    assert_eq!(denied.headers["x-outrigger-reason"], "UAEX");
}
