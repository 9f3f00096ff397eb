//! Every malformed message and frame gets the code that its RFC names, and costs nobody else anything.

use super::Edge;

#[tokio::test]
async fn malformed_http3_gets_the_code_that_the_rfc_names() {
    let edge = Edge::start().await;
    let output = edge.script("h3_malformed.py", &[]).await;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let failed: Vec<_> = text.lines().filter(|line| line.starts_with("FAILED")).collect();
    assert!(failed.is_empty(), "{failed:#?}\n{}", String::from_utf8_lossy(&output.stderr));
    let held = text.lines().filter(|line| line.starts_with("ok ")).count();
    assert_eq!(text.lines().last(), Some(format!("done {held}").as_str()));
    assert!(held >= 90, "{held} cases");
}
