//! Bearer tokens: `outrigger-api-ID-SECRET`. The id is public, the secret is 256 random bits, of which the store has the
//! SHA-256.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use data_encoding::HEXLOWER;
use sha2::{Digest as _, Sha256};

use crate::store::{ApiToken, Role, Timestamp, TokenId};

/// What every token begins with, so that scanners for secrets find those that were left lying about.
const PREFIX: &str = "outrigger-api-";
const ID_BYTES: usize = 6;
const SECRET_BYTES: usize = 32;

/// A token as it is presented. It has no `Debug` form.
pub(super) struct Presented {
    pub(super) id: TokenId,
    hash: [u8; 32],
}

impl Presented {
    /// Reads what somebody presents; `None` when it cannot be a token.
    pub(super) fn read(text: &str) -> Option<Self> {
        let (id, secret) = text.strip_prefix(PREFIX)?.split_once('-')?;
        let hex = |text: &str, bytes: usize| {
            let plain = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'a'..=b'f');
            text.len() == 2 * bytes && text.bytes().all(plain)
        };
        (hex(id, ID_BYTES) && hex(secret, SECRET_BYTES))
            .then(|| Self { id: TokenId(id.to_owned()), hash: Sha256::digest(secret).into() })
    }

    /// Whether this is `token`, and that is good at `now`.
    pub(super) fn is(&self, token: &ApiToken, now: Timestamp) -> bool {
        let good = token.revoked.is_none() && token.expires.is_none_or(|expires| now < expires);
        verify_slices_are_equal(&self.hash, &token.hash).is_ok() && good
    }
}

/// What is to be known of a new token.
#[derive(Debug, Clone)]
pub struct NewToken {
    /// What people call it.
    pub name: String,
    /// What it is good for.
    pub role: Role,
    /// Who makes it.
    pub by: String,
    /// When.
    pub at: Timestamp,
    /// When it ends.
    pub expires: Option<Timestamp>,
}

/// Makes a token: what the store keeps, and the token itself, which is shown once.
///
/// # Errors
/// When the system gives no random numbers.
pub fn make(new: NewToken) -> Result<(ApiToken, String), aws_lc_rs::error::Unspecified> {
    let mut bytes = [0; ID_BYTES + SECRET_BYTES];
    aws_lc_rs::rand::fill(&mut bytes)?;
    let (id, secret) = bytes.split_at(ID_BYTES);
    let (id, secret) = (HEXLOWER.encode(id), HEXLOWER.encode(secret));
    let text = format!("{PREFIX}{id}-{secret}");
    let NewToken { name, role, by, at, expires } = new;
    let hash = Sha256::digest(&secret).into();
    let token =
        ApiToken { id: TokenId(id), hash, name, role, created_by: by, created: at, expires, revoked: None };
    Ok((token, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(expires: Option<i64>) -> (ApiToken, String) {
        let expires = expires.map(Timestamp::from_millis);
        let at = Timestamp::from_millis(0);
        make(NewToken { name: "ci".to_owned(), role: Role::Viewer, by: "t".to_owned(), at, expires }).expect("random")
    }

    #[test]
    fn a_token_is_good_until_it_ends_or_is_revoked() {
        let (mut kept, text) = token(Some(100));
        let presented = Presented::read(&text).expect("a token");
        assert_eq!(presented.id, kept.id);
        assert!(presented.is(&kept, Timestamp::from_millis(99)));
        assert!(!presented.is(&kept, Timestamp::from_millis(100)));
        kept.revoked = Some(Timestamp::from_millis(5));
        assert!(!presented.is(&kept, Timestamp::from_millis(6)));
    }

    #[test]
    fn another_secret_with_the_same_id_is_not_the_token() {
        let (kept, text) = token(None);
        let last = if text.ends_with('0') { '1' } else { '0' };
        let forged = format!("{}{last}", &text[..text.len() - 1]);
        let presented = Presented::read(&forged).expect("it looks like a token");
        assert_eq!(presented.id, kept.id);
        assert!(!presented.is(&kept, Timestamp::from_millis(0)));
    }

    #[test]
    fn what_cannot_be_a_token_is_not_read() {
        let (_, text) = token(None);
        let short = &text[..text.len() - 1];
        for text in ["", "outrigger-api-", "outrigger-api--", short, &text.to_uppercase(), &format!("{text} "), "ü"] {
            assert!(Presented::read(text).is_none(), "{text}");
        }
    }
}
